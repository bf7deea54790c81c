"""The rules by which label tensors go through the functions of a network, and the trial of what was found."""

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from paperweight.errors import InputError
from paperweight.merging._atoms import BLANK, FIXED, Atoms, settled, spread
from paperweight.merging._layers import Layers
from paperweight.merging._rows import reordered, row_orders
from paperweight.merging._units import groups_of
from paperweight.merging.groups import Group

__all__ = ["trace_groups"]

_ELEMENTWISE = frozenset([
    "abs", "add", "alpha_dropout", "celu", "clamp", "clip", "clone", "contiguous", "cos", "detach", "div", "dropout",
    "dropout1d", "dropout2d", "dropout3d", "elu", "exp", "expm1", "feature_alpha_dropout", "float", "gelu",
    "hardsigmoid", "hardswish", "hardtanh", "iadd", "imul", "isub", "itruediv", "leaky_relu", "log", "log1p",
    "log_softmax", "logsigmoid", "maximum", "minimum", "mish", "mul", "neg", "normalize", "pos", "pow", "relu",
    "relu6", "rsqrt", "selu", "sigmoid", "silu", "sin", "softmax", "softplus", "softsign", "sqrt", "square", "sub",
    "tanh", "tanhshrink", "to", "truediv",
])  # fmt: skip
"""What treats all elements alike; each result has the label of its operands, which are tied."""

_MOVES = frozenset([
    "chunk", "expand", "expand_as", "flatten", "flip", "getattr", "getitem", "movedim", "moveaxis", "narrow",
    "permute", "repeat", "reshape", "roll", "select", "split", "squeeze", "swapaxes", "swapdims", "t",
    "tensor_split", "transpose", "unbind", "unflatten", "unsqueeze", "view",
])  # fmt: skip
"""What moves elements, and their labels in the same way."""

_JOINS = frozenset(["cat", "concat", "stack"])
_REDUCTIONS = frozenset(["mean", "sum", "amax", "amin", "std", "var", "logsumexp"])
_POOLS = frozenset(
    f"{kind}_pool{n}d" for kind in ("max", "avg", "lp", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)
) | {"interpolate"}
_DISPATCHED: dict[Any, str] = {getattr(F, name): name for name in _POOLS if hasattr(F, name)}


def trace_groups(model: nn.Module, arguments: Sequence[Tensor]) -> tuple[Group, ...]:
    """Find the groups of units of a network.

    Args:
        model: The network; it is not changed.
        arguments: What it is called with.

    Raises:
        InputError: If it cannot be traced, has an operation that is not known, or the groups found change its output.
    """
    model = copy.deepcopy(model).eval()
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:
        rule = "model must have a forward that torch.fx can trace, without branches on values or shapes"
        remedy = "rewrite it, or write the graph down with Group and Place"
        raise InputError(f"{rule}; that of {type(model).__name__} cannot: {error}; {remedy}") from error
    labeller = _Labeller(model, graph)
    with torch.no_grad():
        labeller.run(*arguments)
    groups = groups_of(labeller.atoms, labeller.layers.seen)
    _try_out(model, groups, arguments)
    return groups


@final
class _Labeller(fx.Interpreter):
    """Runs a network on an example, and each of its operations on label tensors beside."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)
        self.extra_traceback = False
        calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        self.atoms = Atoms(model)
        self.layers = Layers(self.atoms, {name for name, count in calls.items() if count > 1})
        self.labels: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.labels[n] = self._label(n, value)
        return value

    def _label(self, node: fx.Node, value: Any) -> Any:
        if node.op == "placeholder":
            return _all(value, FIXED)
        if node.op == "get_attr":
            return self._attribute(str(node.target), value)
        labels = fx.map_arg(node.args, lambda other: self.labels[other])
        named = fx.map_arg(node.kwargs, lambda other: self.labels[other])
        if node.op == "output":
            map_aggregate(labels, self._fix)
            return None
        if node.op == "call_module":
            name = str(node.target)
            first = value[0] if isinstance(value, tuple) else value
            found = self.layers.call(name, self.fetch_attr(name), (*labels, *named.values()), first.shape)
            return (found, *(_all(part, FIXED) for part in value[1:])) if isinstance(value, tuple) else found
        return self._function(node, labels, named, value)

    def _attribute(self, key: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.numel() == 1:
            return _all(value, BLANK)
        return self.atoms.elements(key) if key in self.atoms.state else _all(value, FIXED)

    def _fix(self, labels: Any) -> Any:
        if isinstance(labels, Tensor):
            self.atoms.tie(labels, torch.tensor(FIXED))
        return labels

    def _function(self, node: fx.Node, labels: tuple[Any, ...], named: dict[str, Any], value: Any) -> Any:
        name = str(node.target)
        if node.op == "call_function":
            name = _DISPATCHED.get(node.target, getattr(node.target, "__name__", name))
        name = name.rstrip("_")
        operands = [part for part in (*labels, *named.values()) if isinstance(part, Tensor)]
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if name in _MOVES:
            moved = (labels[0], *args[1:])
            if node.op == "call_method":
                return getattr(moved[0], name)(*moved[1:], **kwargs)
            return self.call_function(node.target, moved, kwargs)
        if name in _JOINS:
            return getattr(torch, name)(labels[0], *args[1:], **kwargs)
        if not operands:
            return value
        if not isinstance(value, Tensor) and name in ("size", "dim"):
            return value
        if name in _ELEMENTWISE:
            result = operands[0]
            for other in operands[1:]:
                result = self.atoms.tie(result, other)
            return result
        if name in _POOLS and isinstance(value, Tensor):
            return self.layers.pool(operands[0], value.shape)
        if name in _REDUCTIONS:
            return self._reduce(operands[0], args[1:], kwargs)
        if name == "pad" and kwargs.get("mode", "constant") == "constant":
            return F.pad(operands[0], args[1] if len(args) > 1 else kwargs["pad"], value=BLANK)
        if name in ("layer_norm", "rms_norm") and len(operands) == 1:
            return settled(operands[0])
        if name == "scaled_dot_product_attention":
            return self._attend(node, operands, value)
        raise InputError(
            f"operations must be known to the tracer, {name} in {_owner(node)} is not; use the module or function of "
            "torch for it, or write the graph down with Group and Place"
        )

    def _reduce(self, labels: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        axes = args[0] if args else kwargs.get("dim")
        axes = tuple(range(labels.ndim)) if axes is None else axes
        keep = args[-1] if len(args) > 1 and isinstance(args[-1], bool) else kwargs.get("keepdim", False)
        self.atoms.tie(labels, labels.amax(axes, keepdim=True))
        return labels.amax(axes, keepdim=keep)

    def _attend(self, node: fx.Node, operands: Sequence[Tensor], value: Tensor) -> Tensor:
        query, key, content = operands[:3]
        if any(part.ndim > 3 and part.shape[-3] != query.shape[-3] for part in (key, content)):
            raise InputError(f"heads of query, key and value must be equally many, in {_owner(node)} they are not")
        axes = (-3, -1) if query.ndim > 3 else (-1,)
        grids = [self.atoms.same(part, axes) for part in (query, key, content)]
        mixed = self.layers.attend(_owner(node), *(part if part.ndim > 1 else part[None] for part in grids))
        return spread(mixed if len(axes) > 1 else mixed[0], value.shape, [axis % value.ndim for axis in axes])


def _all(value: Any, label: int) -> Any:
    return torch.tensor(label).expand(value.shape) if isinstance(value, Tensor) else value


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_aggregate(value, lambda part: found.append(part) if isinstance(part, Tensor) else None)
    return found


def _owner(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return f"module {list(stack)[-1]!r}" if stack else "the model itself"


@torch.no_grad()
def _try_out(model: nn.Module, groups: Sequence[Group], arguments: Sequence[Tensor]) -> None:
    """Permute the units of a model with shaken weights, which must not change its output."""
    generator = torch.Generator().manual_seed(0)
    state = model.state_dict()
    for value in state.values():
        if value.is_floating_point():
            noise = torch.rand(2, *value.shape, generator=generator).to(value)
            value.mul_(1 + 0.5 * noise[0]).add_(0.05 * noise[1])
    before = model(*arguments)
    permutation = {group.name: group.random(generator) for group in groups}
    moved = {key: reordered(state[key], rows) for key, rows in row_orders(state, groups, permutation).items()}
    for key, value in moved.items():
        state[key].copy_(value)
    after = model(*arguments)
    for old, new in zip(_tensors(before), _tensors(after), strict=True):
        if not torch.allclose(old, new, rtol=0, atol=1e-3 * max(1.0, old.abs().max().item()), equal_nan=True):
            what = "a random permutation of the units that were found changes the output"
            raise InputError(f"model must do with units what its operations say, but {what}; write the graph down")
