"""Hybrid zonotopes, and what each operation of a network makes of one.

Source:
    M. Mirman, G. Singh, M. Vechev, "A Provable Defense for Deep Residual Networks", 2019,
    https://arxiv.org/abs/1903.12519, and "Differentiable Abstract Interpretation for Provably Robust Neural Networks",
    ICML 2018.

Deviations:
    told where they are used, in `paperweight.robustness.diffai`
"""

import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from paperweight.errors import InputError

__all__ = ["Concretize", "CorrelateMax", "HybridZonotope", "ball", "hybrid_relu", "propagate"]

_ids = itertools.count()


@final
@dataclass(frozen=True, slots=True, eq=False)
class HybridZonotope:
    """All values ``center + box * b + sum of errors * e`` with every b and e between -1 and 1.

    Each entry has a b of its own; an e is shared by all entries of an example, and keeps its number through a network.

    Args:
        center: Values in the middle, (N, ...).
        box: Reach of each entry by itself, at least 0, (N, ...).
        errors: Reach of each shared error, (M, N, ...); M may be 0.
        ids: Numbers of the shared errors, M.

    Example:
        >>> values = HybridZonotope(torch.tensor([[1.0]]), torch.tensor([[0.5]]), torch.tensor([[[2.0]]]), (0,))
        >>> values.bounds()
        (tensor([[-1.5000]]), tensor([[3.5000]]))
    """

    center: Tensor
    box: Tensor
    errors: Tensor
    ids: tuple[int, ...]

    def radius(self) -> Tensor:
        """Give the reach of each entry, (N, ...)."""
        return self.box + self.errors.abs().sum(dim=0)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Give the smallest and largest value of each entry, (N, ...) both."""
        radius = self.radius()
        return self.center - radius, self.center + radius

    def through(
        self, whole: Callable[[Tensor], Tensor], linear: Callable[[Tensor], Tensor], size: Callable[[Tensor], Tensor]
    ) -> "HybridZonotope":
        """Give what an affine map makes of it.

        Args:
            whole: The map.
            linear: The same without what it adds.
            size: The same with every factor made positive.
        """
        count = len(self.ids)
        center = whole(self.center)
        errors = (
            linear(self.errors.flatten(0, 1)).unflatten(0, (count, -1)) if count else center.new_empty(0, *center.shape)
        )
        return HybridZonotope(center, size(self.box), errors, self.ids)


def ball(
    inputs: Tensor, radius: float, *, shared: bool = False, bounds: tuple[float, float] = (0.0, 1.0)
) -> HybridZonotope:
    """Give all inputs whose entries differ by at most a radius and lie within bounds.

    Args:
        inputs: Inputs within the bounds, (N, ...).
        radius: Largest change of an entry, at least 0.
        shared: Whether each entry is an error of its own that later entries share, as a zonotope has it; costs as many
            passes as an input has entries.
        bounds: Smallest and largest entry.

    Example:
        >>> ball(torch.tensor([[0.5, 0.95]]), 0.25).bounds()
        (tensor([[0.2500, 0.7000]]), tensor([[0.7500, 1.0000]]))
    """
    low, high = (inputs - radius).clamp(min=bounds[0]), (inputs + radius).clamp(max=bounds[1])
    center, box = (low + high) / 2, (high - low) / 2
    if not shared:
        return HybridZonotope(center, box, inputs.new_empty(0, *inputs.shape), ())
    entries = inputs[0].numel()
    errors = torch.eye(entries, dtype=inputs.dtype, device=inputs.device).view(entries, 1, *inputs.shape[1:]) * box
    return HybridZonotope(center, torch.zeros_like(box), errors, tuple(next(_ids) for _ in range(entries)))


def hybrid_relu(values: HybridZonotope) -> HybridZonotope:
    """Give what ReLU makes of a hybrid zonotope.

    An entry that is positive stays, one that is negative becomes 0. One that may be both is cut to [0, u] without its
    shared errors, if it has none or lies below 0 for the greater part; of another all is scaled by u / (u - l) and half
    of -l u / (u - l) is added to the center and to the box.

    Args:
        values: What comes in.

    Returns:
        What goes out; each value that ReLU can give is in it.

    Example:
        >>> flat = ball(torch.tensor([[0.5]]), 1.0, bounds=(-9.0, 9.0))
        >>> hybrid_relu(flat).bounds()
        (tensor([[0.]]), tensor([[1.5000]]))
    """
    low, high = values.bounds()
    crosses = (low < 0) & (high > 0)
    shared = values.errors.abs().sum(dim=0)
    cut = crosses & ((shared == 0) | (-low > high))
    slanted = crosses & ~cut
    slope = torch.where(slanted, high / (high - low).clamp(min=torch.finfo(low.dtype).tiny), (low >= 0).to(low.dtype))
    offset = torch.where(slanted, -slope * low / 2, torch.zeros_like(low))
    half = high / 2
    return HybridZonotope(
        torch.where(cut, half, slope * values.center + offset),
        torch.where(cut, half, slope * values.box + offset),
        slope * values.errors,
        values.ids,
    )


@final
class Concretize(nn.Module):
    """Gives values as they are; of a hybrid zonotope all shared errors go into the box.

    Example:
        >>> Concretize()(torch.ones(2))
        tensor([1., 1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Give ``x``."""
        return x


@final
class CorrelateMax(nn.Module):
    """Gives values as they are; the largest entries of a hybrid zonotope's box become shared errors.

    Args:
        count: How many entries of each example, at least 1; no more than there are.

    Raises:
        ValueError: If the count is not such.

    Example:
        >>> CorrelateMax(2)(torch.ones(2))
        tensor([1., 1.])
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"count must be a whole number of at least 1, got {count!r}")
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """Give ``x``."""
        return x


def propagate(model: nn.Module, values: HybridZonotope) -> HybridZonotope:
    """Give a hybrid zonotope that has every output of a network for inputs in another.

    Args:
        model: Made of linear layers, convolutions, batch normalization, activations that do not fall, poolings, sums
            and changes of shape; in its mode, where dropout must do nothing. Differentiable in its weights.
        values: The inputs.

    Returns:
        The outputs.

    Raises:
        InputError: If the network does something else, or its course depends on values.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -1.0]]))
        >>> propagate(model, ball(torch.tensor([[0.5, 0.5]]), 0.25)).bounds()[1].item()
        0.5
    """
    whole = nn.Sequential(model)  # a single layer is then a layer of a network, too
    try:
        graph = _Tracer().trace(whole)
    except Exception as error:
        raise InputError(
            f"the course of {type(model).__name__} depends on values ({error}); give a network whose does not"
        ) from error
    course = _Propagation(whole, graph=graph)
    course.extra_traceback = False  # an error says by itself what it is about
    found = course.run(values)
    if not isinstance(found, HybridZonotope):
        raise InputError(f"{type(model).__name__} must give one tensor, got {type(found).__name__}")
    return found


@final
class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (Concretize, CorrelateMax)) or super().is_leaf_module(m, module_qualified_name)


@final
class _Propagation(fx.Interpreter):
    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _abstract(args):
            return super().call_module(target, args, kwargs)
        return _through_module(self.fetch_attr(target), args[0])

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _abstract((*args, *kwargs.values())):
            return super().call_function(target, args, kwargs)
        two = len(args) == 2 and not kwargs  # a factor or a way of rounding beside them would change what comes out
        if target in _SUMS and two:
            return _sum(args[0], args[1], 1)
        if target in (operator.sub, torch.sub) and two:
            return _sum(args[0], args[1], -1)
        if target in _PRODUCTS and two:
            return _product(target, args[0], args[1])
        if not args or not isinstance(args[0], HybridZonotope) or _abstract((*args[1:], *kwargs.values())):
            raise _stopped(target)
        if target in (torch.relu, F.relu):
            return hybrid_relu(args[0])
        if target in _MONOTONE_FUNCTIONS:
            return _monotone(lambda x: target(x, *args[1:], **kwargs), args[0])
        if target is F.pad and (kwargs.get("value") or any(args[3:])):
            raise InputError("bounds cannot pass through padding by other values than 0; give a network without it")
        if target is torch.reshape:
            return _reshaped(args[0], args[1:])
        if target in _SHAPES:
            return _positive(lambda x: target(x, *args[1:], **kwargs), args[0])
        raise _stopped(target)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _abstract(args):
            return super().call_method(target, args, kwargs)
        if target in ("relu",):
            return hybrid_relu(args[0])
        if target in ("tanh", "sigmoid"):
            return _monotone(getattr(torch, target), args[0])
        if target == "size":
            return args[0].center.size(*args[1:])
        if target in ("view", "reshape"):
            return _reshaped(args[0], args[1:])
        if target in ("flatten", "unflatten"):
            return _positive(lambda x: getattr(x, target)(*args[1:], **kwargs), args[0])
        raise InputError(f"bounds cannot pass through Tensor.{target}; give a network without it")


def _abstract(args: Sequence[Any]) -> bool:
    return any(isinstance(each, HybridZonotope) for each in args)


def _reshaped(values: HybridZonotope, shape: Sequence[Any]) -> HybridZonotope:
    """Give other sides to each example; a shape that begins with their number fits rows of errors, too."""
    sides = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else list(shape)
    examples = len(values.center)
    return _positive(lambda x: x.reshape([len(x), *sides[1:]] if sides[0] == examples else sides), values)


def _stopped(target: Any) -> InputError:
    return InputError(f"bounds cannot pass through {getattr(target, '__name__', target)}; give a network without it")


def _through_module(module: nn.Module, values: HybridZonotope) -> HybridZonotope:
    if isinstance(module, nn.Linear):
        weight = module.weight
        return values.through(module, lambda x: F.linear(x, weight), lambda x: F.linear(x, weight.abs()))
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return _through_convolution(module, values)
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        return _through_batch_norm(module, values)
    if isinstance(module, nn.ReLU):
        return hybrid_relu(values)
    if isinstance(module, Concretize):
        return HybridZonotope(values.center, values.radius(), values.errors[:0], ())
    if isinstance(module, CorrelateMax):
        return _correlated(values, module.count)
    if isinstance(module, _POSITIVE) or (isinstance(module, _DROPOUT) and not (module.training and module.p > 0)):
        return _positive(module, values)
    if isinstance(module, _MONOTONE):
        return _monotone(module, values)
    raise InputError(f"bounds cannot pass through {type(module).__name__}; give a network without it")


def _through_convolution(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, values: HybridZonotope) -> HybridZonotope:
    if module.padding_mode != "zeros":
        raise InputError(f"bounds cannot pass through padding of mode {module.padding_mode!r}; take zeros")
    convolve: Callable[..., Tensor] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(module.kernel_size)]

    def with_weight(weight: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: convolve(x, weight, None, module.stride, module.padding, module.dilation, module.groups)

    return values.through(module, with_weight(module.weight), with_weight(module.weight.abs()))


def _through_batch_norm(
    module: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d, values: HybridZonotope
) -> HybridZonotope:
    """Normalise by the running statistics, or in train mode by those of the centers."""
    over = [0, *range(2, values.center.ndim)]
    if not module.training and module.running_var is None:
        raise InputError("bounds cannot pass through batch normalization without running statistics; keep them")
    if module.training or module.running_var is None:
        variance = values.center.var(dim=over, correction=0)
    else:
        variance = module.running_var
    scale = (variance + module.eps).rsqrt()
    scale = (scale if module.weight is None else scale * module.weight).view(-1, *[1] * (values.center.ndim - 2))
    return values.through(module, lambda x: scale * x, lambda x: scale.abs() * x)


def _correlated(values: HybridZonotope, count: int) -> HybridZonotope:
    flat = values.box.flatten(1)
    places = flat.topk(min(count, flat.shape[1]), dim=1).indices.t()
    found = torch.zeros(len(places), *flat.shape, dtype=flat.dtype, device=flat.device)
    found = found.scatter(2, places[:, :, None], flat.gather(1, places.t()).t()[:, :, None])
    return HybridZonotope(
        values.center,
        flat.scatter(1, places.t(), 0).view_as(values.box),
        torch.cat([values.errors, found.view(len(places), *values.box.shape)]),
        (*values.ids, *(next(_ids) for _ in places)),
    )


def _positive(linear: Callable[[Tensor], Tensor], values: HybridZonotope) -> HybridZonotope:
    return values.through(linear, linear, linear)


def _monotone(function: Callable[[Tensor], Tensor], values: HybridZonotope) -> HybridZonotope:
    low, high = (function(bound) for bound in values.bounds())
    center = (low + high) / 2
    return HybridZonotope(center, (high - low) / 2, center.new_empty(0, *center.shape), ())


def _sum(first: Any, second: Any, sign: int) -> HybridZonotope:
    if not isinstance(second, HybridZonotope):
        return replace(first, center=first.center + sign * second)
    if not isinstance(first, HybridZonotope):
        return replace(second, center=first + sign * second.center, errors=sign * second.errors)
    ids = tuple(dict.fromkeys((*first.ids, *second.ids)))
    center = first.center + sign * second.center
    errors = center.new_zeros(len(ids), *center.shape)
    for part, factor in ((first, 1), (second, sign)):
        rows = torch.tensor([ids.index(each) for each in part.ids], dtype=torch.int64, device=center.device)
        errors = errors.index_add(0, rows, factor * part.errors)
    return HybridZonotope(center, first.box + second.box, errors, ids)


def _product(function: Any, first: Any, second: Any) -> HybridZonotope:
    if isinstance(first, HybridZonotope) and isinstance(second, HybridZonotope):
        raise InputError("bounds cannot pass through a product of two activations; give a network without it")
    if not isinstance(first, HybridZonotope):
        if function in (operator.truediv, torch.div):
            raise InputError("bounds cannot pass through a division by activations; give a network without it")
        first, second = second, first
    size = abs(second)
    return first.through(lambda x: function(x, second), lambda x: function(x, second), lambda x: function(x, size))


_SUMS = (operator.add, operator.iadd, torch.add)
_PRODUCTS = (operator.mul, operator.truediv, torch.mul, torch.div)
_SHAPES = (torch.flatten, operator.getitem, F.pad, F.avg_pool2d, F.adaptive_avg_pool2d)
_POSITIVE = (
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
)
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)
_MONOTONE = (nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d)
_MONOTONE_FUNCTIONS = (torch.tanh, torch.sigmoid, F.max_pool2d)
