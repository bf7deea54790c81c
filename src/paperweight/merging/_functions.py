"""The rules by which label tensors go through the functions of a network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from paperweight.errors import InputError
from paperweight.merging._atoms import BLANK, FIXED, Atoms, narrowed, varies
from paperweight.merging._mixing import Mixing
from paperweight.merging._weights import Weights

__all__ = ["Functions"]

_ELEMENTWISE = frozenset([
    "abs", "add", "addcdiv", "addcmul", "alpha_dropout", "bfloat16", "bool", "celu", "clamp", "clamp_max", "clamp_min",
    "clip", "clone",
    "contiguous", "cos", "detach", "div", "double", "dropout", "dropout1d", "dropout2d", "dropout3d", "elu", "eq",
    "erf", "exp", "expm1", "feature_alpha_dropout", "float", "ge", "gelu", "gt", "half", "hardsigmoid", "hardswish",
    "hardtanh", "isfinite", "isnan", "iadd", "imul", "isub", "itruediv", "le", "leaky_relu", "lerp", "log", "log1p",
    "log_sigmoid", "log_softmax", "logical_and", "logical_not", "logical_or", "logsigmoid", "lt", "masked_fill",
    "maximum", "minimum", "mish", "mul", "ne", "neg", "normalize", "pos", "pow", "rdiv", "reciprocal", "relu", "relu6",
    "rpow", "rsqrt", "rsub", "selu", "sigmoid", "sign", "silu", "sin", "softmax", "softplus", "softsign", "sqrt",
    "square", "sub", "tanh", "tanhshrink", "to", "truediv", "type", "type_as", "where",
])  # fmt: skip
"""What treats all elements alike; each result has the label of its operands, which are tied."""

_MOVES = frozenset([
    "broadcast_to", "chunk", "diagonal", "expand", "flatten", "flip", "gather", "getitem", "index_select", "movedim",
    "moveaxis", "narrow", "permute", "pixel_shuffle", "pixel_unshuffle", "ravel", "repeat", "repeat_interleave",
    "reshape", "roll", "rot90", "select", "split", "split_with_sizes", "squeeze", "swapaxes", "swapdims", "t",
    "tensor_split", "tile", "transpose", "unbind", "unflatten", "unfold", "unsafe_chunk", "unsafe_split", "unsqueeze",
    "view",
])  # fmt: skip
"""What moves elements, and their labels in the same way."""

_SHAPED = {"expand_as": "expand", "view_as": "view", "reshape_as": "reshape"}
_JOINS = frozenset(["cat", "concat", "concatenate", "hstack", "stack", "vstack"])
_REDUCTIONS = frozenset(["mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp", "norm", "vector_norm"])
_POOLS = frozenset(
    f"{kind}_pool{n}d" for kind in ("max", "avg", "lp", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)
) | {"interpolate", "upsample"}
_DISPATCHED: dict[Any, str] = {getattr(F, name): name for name in _POOLS if hasattr(F, name)}
_CONVOLUTIONS = frozenset(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))
_PRODUCTS = frozenset(["bmm", "matmul", "mm"])


@final
class Functions:
    """Labels of the tensors of a network, as its functions make them.

    Args:
        atoms: The atoms of the model.
        module: What gives name and module that are being called.
    """

    def __init__(self, atoms: Atoms, module: Callable[[], tuple[str, nn.Module]]) -> None:
        self.atoms = atoms
        self.module = module
        self.known: dict[int, tuple[Tensor, Tensor]] = {}
        self.weights = Weights(atoms, self.labels, self.where)
        self.mixing = Mixing(atoms, self.weights)

    def where(self) -> str:
        """Name the module that is being called."""
        name, module = self.module()
        return f"{name!r} ({type(module).__name__})" if name else f"the model itself ({type(module).__name__})"

    def know(self, value: Tensor, labels: Tensor) -> None:
        """Note the labels of a tensor, which is kept so that no other takes its place."""
        self.known[id(value)] = value, narrowed(labels)

    def find(self, value: Any) -> Tensor | None:
        """Give the labels of a tensor; None if nothing that it was made from has any."""
        if not isinstance(value, Tensor):
            return None
        if id(value) in self.known:
            return self.known[id(value)][1]
        if self.atoms.key(value) is None or not value.is_floating_point():
            return None
        return torch.tensor(BLANK).expand(value.shape) if value.numel() == 1 else self.atoms.elements(value)

    def labels(self, value: Tensor) -> Tensor:
        """Give the labels of a tensor; those of a constant keep their place unless it is the same everywhere."""
        found = self.find(value)
        if found is not None:
            return found
        same = bool((value == value.flatten()[:1]).all()) if value.numel() else True
        return torch.tensor(BLANK if same else FIXED).expand(value.shape)

    def call(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any) -> None:
        """Note the labels of what a function made."""
        name = _DISPATCHED.get(function, getattr(function, "__name__", str(function)))
        if name == "__get__":
            name = function.__self__.__name__
        elif name == "__setitem__":
            return self._set(args)
        made = [part for part in tree_leaves(value) if isinstance(part, Tensor)]
        if not made:
            return None
        name = name.strip("_")
        # A layer finds its weights by what they are; everything else by the labels of what it is given.
        layer = self._layer(name, args, kwargs, made[0])
        if layer is not None:
            return self.know(made[0], layer)
        given = [part for part in tree_leaves((args, dict(kwargs))) if isinstance(part, Tensor)]
        found = [part for part in given if self.find(part) is not None]
        if not found:
            return None
        labels = self._labels(name, function, args, kwargs, given, value)
        if labels is None:
            if any(bool((self.labels(part) > FIXED).any()) for part in found):
                raise InputError(
                    f"operations must be known to the tracer, {name} in {self.where()} is not; use what torch has for "
                    "it, or write the graph down with Group and Place"
                )
            labels = [torch.tensor(FIXED).expand(part.shape) for part in made]
        for part, label in zip(made, labels, strict=False):
            self.know(part, label)
        return None

    def _layer(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], made: Tensor) -> Tensor | None:
        names = _ARGUMENTS.get(name[:-2] if name in _CONVOLUTIONS else name)
        if names is None:
            return None
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        first = given[names[0]]
        part = given.get
        rules, shape = self.weights, made.shape
        if name in _CONVOLUTIONS:
            transposed = "transpose" in name
            groups = part("groups", 1)
            return rules.convolution(self.labels(first), given["weight"], part("bias"), shape, groups, transposed)
        if name == "multi_head_attention_forward":
            owner, module = self.module()
            if not isinstance(module, nn.MultiheadAttention):
                return None
            labels = [self.labels(given[side]) for side in ("query", "key", "value")]
            return self.mixing.multihead(owner, module, labels, shape)
        if name == "embedding":
            return rules.embedding(given["weight"], shape)
        if name == "addmm":
            return rules.linear(self.labels(given["x"]), given["weight"], first, shape, row=1)
        if name in _PRODUCTS:
            second = given[names[1]]
            held = self.atoms.key(second) is not None and second.ndim == 2
            return rules.linear(self.labels(first), second, None, shape, row=1) if held else None
        x = self.labels(first)
        if name == "linear":
            return rules.linear(x, given["weight"], part("bias"), shape)
        if name in ("batch_norm", "instance_norm"):
            statistics = (part("running_mean"), part("running_var"))
            return rules.channels(x, (part("weight"), part("bias")), statistics)
        if name == "group_norm":
            return rules.groups(x, given["num_groups"], (part("weight"), part("bias")))
        if name == "prelu":
            return rules.channels(x, (given["weight"],), ()) if given["weight"].numel() > 1 else x
        return rules.layer(x, (part("weight"), part("bias")))

    def _labels(
        self,
        name: str,
        function: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        given: Sequence[Tensor],
        value: Any,
    ) -> list[Tensor] | None:
        """Give the labels of each tensor that a function made; None if it is not known."""
        first = args[0] if args else None
        if name in _SHAPED:
            return [getattr(self.labels(args[0]), _SHAPED[name])(value.shape)]
        if name in ("T", "mT", "H", "mH", "data", "real"):
            return [getattr(self.labels(args[0]), "mT" if name == "mH" else name)]
        if name in _MOVES and isinstance(first, Tensor):
            rest, named = tree_map(_local, (args[1:], dict(kwargs)))
            move = torch.Tensor.reshape if name == "view" else function
            return list(tree_leaves(move(self.labels(first), *rest, **named)))
        if name in _JOINS:
            tensors = [self.labels(part) for part in (args[0] if args else kwargs["tensors"])]
            return [getattr(torch, name)(tensors, *args[1:], **{k: v for k, v in kwargs.items() if k != "tensors"})]
        if name in _ELEMENTWISE and isinstance(value, Tensor):
            return [self._elementwise(given, value)]
        if name in _POOLS:
            return [self.weights.pool(self.labels(given[0]), part.shape) for part in tree_leaves(value)]
        if name in ("max", "min") and len(given) == 2:
            return [self._elementwise(given, value)]
        if name in _REDUCTIONS and len(given) == 1:
            return [self._reduce(self.labels(given[0]), args[1:], kwargs, tree_leaves(value)[0])]
        if name == "pad" and kwargs.get("mode", args[2] if len(args) > 2 else "constant") == "constant":
            return [F.pad(self.labels(given[0]), args[1] if len(args) > 1 else kwargs["pad"], value=BLANK)]
        if name == "scaled_dot_product_attention":
            mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
            query, key, content = (self.labels(part) for part in given[:3])
            return [self.mixing.scaled(query, key, content, self._added(mask), value.shape)]
        if name in _PRODUCTS and len(given) == 2 and min(part.ndim for part in given) > 1:
            return [self.mixing.product(self.labels(given[0]), self.labels(given[1]), value.shape)]
        return None

    def _added(self, mask: Tensor | None) -> Tensor | None:
        """Give the labels of what attention adds to its scores; a constant counts where it differs between heads."""
        if mask is None or self.find(mask) is not None or (mask.ndim > 2 and varies(mask, -3)):
            return None if mask is None else self.labels(mask)
        return None

    def _elementwise(self, given: Sequence[Tensor], value: Tensor) -> Tensor:
        """Tie operands to one another; constants, and what keeps its place, hold only units along which they change."""
        found = [(part, labels) for part in given if (labels := self.find(part)) is not None]
        loose = [labels for _, labels in found if (labels != FIXED).any()]
        if not loose:
            return torch.tensor(FIXED).expand(value.shape)
        result = loose[0].expand(torch.broadcast_shapes(loose[0].shape, value.shape))
        for other in loose[1:]:
            result = self.atoms.tie(result, other)
        for part in given:
            labels = self.find(part)
            if labels is not None and (labels != FIXED).any():
                continue
            wide = part.expand(value.shape) if part.ndim else part
            changes = _extends if labels is not None else varies
            if wide.ndim and any(changes(wide, axis) and varies(result, axis) for axis in range(wide.ndim)):
                self.atoms.tie(result, torch.tensor(FIXED))
            elif labels is not None:
                result = torch.where(result == BLANK, FIXED, result)
        return result

    def _reduce(self, labels: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Tensor) -> Tensor:
        """Give the labels of a sum or the like; of units all taken together nothing is left."""
        axes = kwargs.get("dim", next((arg for arg in args if _axes(arg)), None))
        axes = range(labels.ndim) if axes is None else (axes,) if isinstance(axes, int) else axes
        axes = sorted(axis % labels.ndim for axis in axes)
        if not any(varies(labels, axis) for axis in axes):
            return labels.amax(axes).view(value.shape)
        front = labels.movedim(axes, tuple(range(len(axes)))).flatten(0, len(axes) - 1)
        lines = front.reshape(len(front), -1).sort(dim=0).values
        if (lines == lines[:, :1]).all():
            self.atoms.whole(lines[:, 0].unique())
            return torch.tensor(BLANK).expand(value.shape)
        self.atoms.tie(labels, labels.amax(axes, keepdim=True))
        return labels.amax(axes).view(value.shape)

    def _set(self, args: tuple[Any, ...]) -> None:
        target, index, value = args
        if self.find(target) is None and self.find(value) is None:
            return
        labels = self.labels(target).clone()
        labels[tree_map(_local, index)] = self.labels(value) if isinstance(value, Tensor) else BLANK
        self.know(target, labels)


_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "addmm": ("bias", "x", "weight"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias"),
    "bmm": ("input", "mat2"),
    "conv": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "conv_transpose": ("input", "weight", "bias", "stride", "padding", "output_padding", "groups"),
    "embedding": ("input", "weight"),
    "group_norm": ("input", "num_groups", "weight", "bias"),
    "instance_norm": ("input", "running_mean", "running_var", "weight", "bias"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias"),
    "linear": ("input", "weight", "bias"),
    "matmul": ("input", "other"),
    "mm": ("input", "mat2"),
    "multi_head_attention_forward": ("query", "key", "value"),
    "prelu": ("input", "weight"),
    "rms_norm": ("input", "normalized_shape", "weight"),
}
"""Names of the first arguments of functions with weights."""


def _axes(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or isinstance(value, tuple | list)


def _extends(value: Tensor, axis: int) -> bool:
    return value.shape[axis] > 1 and value.stride(axis) != 0


def _local(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
