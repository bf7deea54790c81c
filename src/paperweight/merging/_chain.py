"""The groups of networks whose layers are a chain."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from paperweight.errors import InputError
from paperweight.merging._draft import Draft, finished
from paperweight.merging.groups import Group

__all__ = ["chain_groups"]

_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Upsample),
)


def chain_groups(model: nn.Module, layers: tuple[type[nn.Module], ...]) -> tuple[Group, ...]:
    """Write down the groups of a chain of layers.

    Args:
        model: A network whose modules are called once each, in the order of their definition.
        layers: Types of the layers, `torch.nn.Linear` and maybe `torch.nn.Conv2d`.

    Raises:
        InputError: If it has other modules with parameters than these and batch normalization.
    """
    drafts: list[Draft] = []
    draft: Draft | None = None
    for name, module in model.named_modules():
        if next(module.children(), None) is not None:
            continue
        if isinstance(module, layers):
            weight = module.get_parameter("weight")
            if draft is not None:
                block = weight.shape[1] // draft.size
                draft.touch(f"{name}.weight", 1, "in", block=block)
                if draft.point is None:
                    draft.look(name, block=block)
                drafts.append(draft)
            draft = Draft(name, len(weight))
            draft.make(model, name)
        elif isinstance(module, _BatchNorm) and draft is not None:
            draft.make(model, name)
        elif isinstance(module, _POOLS) and draft is not None and draft.point is None:
            draft.look(name)
        elif next(module.parameters(), None) is not None:
            known = ", ".join(layer.__name__ for layer in layers)
            remedy = "use PermutationGraph.trace"
            raise InputError(
                f"model must have no parameters but in {known} and batch normalization, {name} has; {remedy}"
            )
    return finished(model, drafts)
