"""Whether the weights of a network stand in it as they are used, or are computed from others at each call."""

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["computed_weight"]


def computed_weight(model: nn.Module) -> str | None:
    """Name the first weight that is computed at each call, what computes it, and what makes it plain.

    Args:
        model: The network.

    Returns:
        Words for an error; None if every weight stands in the network as it is used.

    Example:
        >>> computed_weight(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
        "'weight' is parametrized; use torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"
    """
    for name, module in model.named_modules():
        start = f"{name}." if name else ""
        if parametrize.is_parametrized(module):
            part = next(iter(module.get_submodule("parametrizations")._modules))
            remedy = f"torch.nn.utils.parametrize.remove_parametrizations(module, {part!r})"
            return f"'{start}{part}' is parametrized; use {remedy}"
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                return (
                    f"'{start}{hook.name}' is normalized; use torch.nn.utils.remove_weight_norm(module, {hook.name!r})"
                )
            if isinstance(hook, SpectralNorm):
                remedy = f"torch.nn.utils.remove_spectral_norm(module, {hook.name!r})"
                return f"'{start}{hook.name}' is normalized; use {remedy}"
            if isinstance(hook, BasePruningMethod):
                part = hook._tensor_name
                return f"'{start}{part}' is masked; use torch.nn.utils.prune.remove(module, {part!r})"
    return None
