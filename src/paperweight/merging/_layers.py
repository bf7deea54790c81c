"""The rules by which label tensors go through the modules of a network."""

from collections.abc import Collection, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from paperweight.errors import InputError
from paperweight.merging._atoms import Atoms, Seen, settled, spread

__all__ = ["POOLS", "Layers"]

_ELEMENTWISE = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid),
    *(nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.Tanhshrink),
    *(nn.Softmax, nn.LogSoftmax, nn.Softmax2d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
)
POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Upsample),
)


@final
class Layers:
    """The modules that are known.

    Args:
        atoms: The atoms of the model.
        repeated: Names of modules that are called more than once and so cannot be observed.
    """

    def __init__(self, atoms: Atoms, repeated: Collection[str]) -> None:
        self.atoms = atoms
        self.repeated = repeated
        self.seen: list[Seen] = []

    def call(self, name: str, module: nn.Module, labels: Sequence[Any], shape: Sequence[int]) -> Tensor:
        """Give the labels of a module's output, or of its first one.

        Args:
            name: Its name in the model.
            module: The module.
            labels: Labels of its arguments.
            shape: Shape of its output for the example.

        Raises:
            InputError: If the module is not known.
        """
        x: Any = labels[0] if labels else None
        if not isinstance(module, _NormBase):
            self._see(name, "input", x)
        if isinstance(module, _ELEMENTWISE):
            result = x
        elif isinstance(module, POOLS):
            result = self.pool(x, shape)
        elif isinstance(module, nn.Flatten):
            result = x.flatten(module.start_dim, module.end_dim)
        elif isinstance(module, nn.Unflatten):
            result = x.unflatten(module.dim, module.unflattened_size)
        elif isinstance(module, nn.Linear):
            result = self._linear(name, x, shape)
        elif isinstance(module, _ConvNd):
            result = self._convolution(name, module, x, shape)
        elif isinstance(module, nn.Embedding):
            result = spread(self.atoms.axis(f"{name}.weight", 1, "out"), shape, (len(shape) - 1,))
        elif isinstance(module, _NormBase):
            result = self._channels(name, module, x, shape)
        elif isinstance(module, nn.GroupNorm):
            result = self._channels(name, module, x, shape)
            self.atoms.blocks.append((repr(name), self.atoms.same(x, (1,)).view(module.num_groups, -1)))
        elif isinstance(module, nn.PReLU) and module.num_parameters > 1:
            result = self._channels(name, module, x, shape)
        elif isinstance(module, nn.PReLU):
            result = x
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            result = self._elements(name, module, x)
        elif isinstance(module, nn.MultiheadAttention):
            result = self._attention(name, module, labels, shape)
        elif isinstance(module, nn.TransformerEncoderLayer):
            result = self._encoder_layer(name, module, x)
        elif isinstance(module, nn.TransformerEncoder):
            result = x
            for number, layer in enumerate(module.layers):
                result = self.call(f"{name}.layers.{number}", layer, [result], shape)
            if module.norm is not None:
                result = self.call(f"{name}.norm", module.norm, [result], shape)
        else:
            remedy = "use a module of torch that is known, or write the graph down with Group and Place"
            raise InputError(
                f"modules must be known to the tracer, {name!r} ({type(module).__name__}) is not; {remedy}"
            )
        self._see(name, "output", result)
        return result

    def pool(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Give the labels of channels whose maps changed their size."""
        return spread(self.atoms.same(x, (1,)), shape, (1,))

    def attend(self, name: str, query: Tensor, key: Tensor, content: Tensor) -> Tensor:
        """Tie queries to keys, and make heads of blocks of all three.

        Args:
            name: What an error calls the attention.
            query: Labels of the units of the queries, (heads, units).
            key: Those of the keys, of the same shape.
            content: Those of the values, (heads, units).

        Returns:
            Labels of what is mixed, those of the values.
        """
        self.atoms.tie(query, key)
        self.atoms.asked += [query, key]
        self.atoms.blocks.append((name, torch.cat([query, content], dim=1)))
        return content

    def _see(self, name: str, side: Literal["input", "output", "query", "key", "value"], labels: Any) -> None:
        if isinstance(labels, Tensor) and name not in self.repeated:
            self.seen.append(Seen(name, side, labels))

    def _read(self, x: Tensor, axis: int, key: str, row: int) -> None:
        self.atoms.tie(self.atoms.same(x, (axis,)), self.atoms.axis(key, row, "in"))

    def _made(self, key: str, row: int, bias: str) -> Tensor:
        made = self.atoms.axis(key, row, "out")
        if bias in self.atoms.state:
            self.atoms.tie(made, self.atoms.axis(bias, 0, "out"))
        return made

    def _linear(self, name: str, x: Tensor, shape: Sequence[int]) -> Tensor:
        self._read(x, -1, f"{name}.weight", 1)
        return spread(self._made(f"{name}.weight", 0, f"{name}.bias"), shape, (len(shape) - 1,))

    def _convolution(self, name: str, module: _ConvNd, x: Tensor, shape: Sequence[int]) -> Tensor:
        axis = len(shape) - len(module.kernel_size) - 1
        transposed = isinstance(module, _ConvTransposeNd)
        made = self._made(f"{name}.weight", 1 if transposed and module.groups == 1 else 0, f"{name}.bias")
        if module.groups == 1:
            self._read(x, axis, f"{name}.weight", 0 if transposed else 1)
        elif module.groups == module.in_channels == module.out_channels:
            self.atoms.tie(self.atoms.same(x, (axis,)), made)
        else:
            rule = "a convolution must have one group, or as many as channels in and out"
            numbers = f"{module.groups} for {module.in_channels} and {module.out_channels}"
            remedy = "write it as several convolutions"
            raise InputError(f"{rule}, {name!r} has {numbers}; {remedy}")
        return spread(made, shape, (axis,))

    def _channels(self, name: str, module: nn.Module, x: Tensor, shape: Sequence[int]) -> Tensor:
        found = self.atoms.same(x, (1,))
        for part in ("weight", "bias"):
            if f"{name}.{part}" in self.atoms.state:
                found = self.atoms.tie(found, self.atoms.axis(f"{name}.{part}", 0, "out"))
        for part in ("running_mean", "running_var"):
            if f"{name}.{part}" in self.atoms.state:
                self.atoms.tie(found, self.atoms.axis(f"{name}.{part}", 0, "statistic"))
        return spread(found, shape, (1,))

    def _elements(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        found = settled(x)
        for part in ("weight", "bias"):
            if f"{name}.{part}" in self.atoms.state:
                self.atoms.tie(found, self.atoms.elements(f"{name}.{part}"))
        return found

    def _attention(
        self, name: str, module: nn.MultiheadAttention, labels: Sequence[Any], shape: Sequence[int]
    ) -> Tensor:
        if module.bias_k is not None or module.add_zero_attn:
            raise InputError(f"attention must have no added key and value, {name!r} has; leave them out")
        size, heads = module.embed_dim, module.num_heads
        fused = module.in_proj_weight is not None
        parts: list[Tensor] = []
        for number, side in enumerate(("query", "key", "value")):
            key = f"{name}.in_proj_weight" if fused else f"{name}.{side[0]}_proj_weight"
            self._read(labels[number], -1, key, 1)
            rows = slice(number * size, (number + 1) * size)
            made = self.atoms.axis(key, 0, "out")[rows if fused else slice(None)]
            if module.in_proj_bias is not None:
                self.atoms.tie(made, self.atoms.axis(f"{name}.in_proj_bias", 0, "out")[rows])
            self._see(name, side, spread(made, (*labels[number].shape[:-1], size), (labels[number].ndim - 1,)))
            parts.append(made.view(heads, -1))
        mixed = self.attend(repr(name), *parts).flatten()
        return self._linear(f"{name}.out_proj", spread(mixed, (*shape[:-1], size), (len(shape) - 1,)), shape)

    def _encoder_layer(self, name: str, layer: nn.TransformerEncoderLayer, x: Tensor) -> Tensor:
        def part(inner: str, module: nn.Module, labels: Tensor, size: int = x.shape[-1]) -> Tensor:
            copies = 3 if isinstance(module, nn.MultiheadAttention) else 1
            return self.call(f"{name}.{inner}", module, [labels] * copies, (*labels.shape[:-1], size))

        def feed(labels: Tensor) -> Tensor:
            hidden = part("linear1", layer.linear1, labels, layer.linear1.out_features)
            return part("linear2", layer.linear2, part("dropout", layer.dropout, hidden, hidden.shape[-1]))

        if layer.norm_first:
            x = self.atoms.tie(x, part("self_attn", layer.self_attn, part("norm1", layer.norm1, x)))
            return self.atoms.tie(x, feed(part("norm2", layer.norm2, x)))
        x = part("norm1", layer.norm1, self.atoms.tie(x, part("self_attn", layer.self_attn, x)))
        return part("norm2", layer.norm2, self.atoms.tie(x, feed(x)))
