"""Modules of a network replaced by others, and weights of it computed from others."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence

from torch import nn
from torch.nn.utils import parametrize

from paperweight.errors import InputError

__all__ = ["parametrized_weights", "plain_weights", "replace_modules"]

Matches = Callable[[str, nn.Module], bool]

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def replace_modules(
    model: nn.Module, matches: Matches, build: Callable[[nn.Module], nn.Module], *, wanted: str
) -> nn.Module:
    """Copy a network with some of its modules replaced, each by one made from it.

    The network itself stays as it was. A new module has the name, the mode and the place of the old one, and is on the
    device and of the format of its parameters, if it has any. A module with parameters that stands at several places
    stays one module; one without, such as an activation, is replaced by one of its own at each place. Modules inside a
    replaced one are not looked at. What a network calls as a function (``F.relu``) is not found, and a module whose
    weights it reads without calling it, as `torch.nn.MultiheadAttention` does those of its ``out_proj``, is replaced
    without effect. To undo it, replace the new modules by what is made of them.

    Args:
        model: The network.
        matches: Whether to replace a module, by its name (``"body.0"``; empty for the network itself) and itself.
        build: Makes the new module from a copy of the old one, whose parameters it may keep.
        wanted: What ``matches`` looks for, in words for the error: "a module of type ReLU".

    Returns:
        The copy.

    Raises:
        InputError: If no module matches.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> replace_modules(model, lambda _, part: isinstance(part, nn.ReLU), lambda _: nn.SiLU(), wanted="a ReLU")
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
          (1): SiLU()
        )
    """
    result = copy.deepcopy(model)
    made: dict[nn.Module, nn.Module] = {}

    def operated(name: str, module: nn.Module) -> nn.Module:
        if module in made:
            return made[module]
        if not matches(name, module):
            made[module] = module
            for inner, child in module._modules.items():
                if child is not None:
                    module._modules[inner] = operated(f"{name}.{inner}" if name else inner, child)
            return module
        mode, weight = module.training, next(module.parameters(), None)
        new = build(module)
        if not isinstance(new, nn.Module):
            raise InputError(f"build must give a torch.nn.Module, got {type(new).__name__} for {name!r}")
        new = new.train(mode) if weight is None else new.to(weight).train(mode)
        found.append(name)
        if weight is not None:
            made[module] = new
        return new

    found: list[str] = []
    result = operated("", result)
    if not found:
        raise InputError(
            f"model must hold {wanted}, got {type(model).__name__} without one; what it calls as a function is not "
            "found, so give it as a module"
        )
    return result


def parametrized_weights(
    model: nn.Module, build: Callable[[nn.Module], nn.Module], types: Sequence[type[nn.Module]] = _WEIGHTED
) -> nn.Module:
    """Copy a network whose weights are computed at each call, by `torch.nn.utils.parametrize`.

    Args:
        model: The network, which stays as it was.
        build: Makes, for a layer, the module that maps its parameter, (out, in, ...), to its weight; its
            ``right_inverse``, if it has one, maps the present weight to the parameter that gives it.
        types: Layers whose ``weight`` is computed: linear and convolutional ones where left out.

    Returns:
        The copy; `plain_weights` makes it one whose weights are stored.

    Raises:
        InputError: If there is no such layer, or one whose weight is computed already or stands at another place, too.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> [name for name, _ in parametrized_weights(model, lambda layer: nn.Tanh()).named_parameters()]
        ['0.bias', '0.parametrizations.weight.original']
    """
    result = copy.deepcopy(model)
    layers = {name: part for name, part in result.named_modules() if isinstance(part, tuple(types))}
    if not layers:
        names = ", ".join(kind.__name__ for kind in types)
        raise InputError(f"model must hold a layer of {names}, got {type(model).__name__} without one")
    places = Counter(id(p) for _, p in result.named_parameters(remove_duplicate=False))
    for name, layer in layers.items():
        if places[id(layer._parameters.get("weight"))] > 1:
            raise InputError(f"the weight of {name!r} stands at another place, too; give each place one of its own")
        if parametrize.is_parametrized(layer, "weight"):
            raise InputError(f"the weight of {name!r} is parametrized already; call plain_weights first")
        mode, weight = layer.training, layer.get_parameter("weight")
        parametrize.register_parametrization(layer, "weight", build(layer).to(weight).train(mode))
    return result


def plain_weights(model: nn.Module) -> nn.Module:
    """Copy a network with each parametrized tensor stored as it is now.

    Args:
        model: The network, which stays as it was.

    Returns:
        The copy, without parametrizations; weights that were trained through one can be trained on, others are frozen.

    Example:
        >>> model = parametrized_weights(nn.Linear(2, 3), lambda layer: nn.Tanh())
        >>> [name for name, _ in plain_weights(model).named_parameters()]
        ['weight', 'bias']
    """
    result = copy.deepcopy(model)
    for module in list(result.modules()):
        if parametrize.is_parametrized(module):
            # remove_parametrizations would take the tensors from the class, which a copy shares with the network
            computed = dict(module.get_submodule("parametrizations").named_children())
            stored = {name: getattr(module, name).detach().clone() for name in computed}
            others = dict(module._parameters)
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module._modules["parametrizations"]
            module._parameters.clear()
            for name, tensor in stored.items():
                trained = any(p.requires_grad for p in computed[name].parameters())
                module.register_parameter(name, nn.Parameter(tensor, requires_grad=trained))
            module._parameters.update(others)
    return result
