"""The rules by which label tensors go through functions with weights: linear layers, convolutions, normalizations."""

from collections.abc import Callable, Sequence
from typing import Literal, final

import torch
from torch import Tensor

from paperweight.errors import InputError
from paperweight.merging._atoms import Atoms, Seen, settled, spread

__all__ = ["Weights"]


@final
class Weights:
    """The rules of functions with weights.

    Args:
        atoms: The atoms of the model.
        labels: What gives the labels of a tensor.
        where: What gives the name of the module that is being called, for errors.
    """

    def __init__(self, atoms: Atoms, labels: Callable[[Tensor], Tensor], where: Callable[[], str]) -> None:
        self.atoms = atoms
        self.labels = labels
        self.where = where
        self.seen: list[Seen] = []

    def see(self, name: str, side: Literal["input", "output", "query", "key", "value"], labels: Tensor) -> None:
        """Note what a hook on a module could observe."""
        self.seen.append(Seen(name, side, labels))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, shape: Sequence[int], row: int = 0) -> Tensor:
        """Give the labels of what a matrix makes, whose axis ``row`` is that of the outputs."""
        self._read(x, -1, weight, 1 - row)
        return spread(self._made(weight, row, bias), shape, (len(shape) - 1,))

    def convolution(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, shape: Sequence[int], groups: int, transposed: bool
    ) -> Tensor:
        """Give the labels of what a convolution makes; one in groups keeps the order of the inputs of each group."""
        axis = len(shape) - weight.ndim + 1
        inputs = x.shape[axis]
        alone = groups == inputs == shape[axis]
        if transposed and groups > 1 and not alone:
            rule = "a transposed convolution must have one group, or as many as channels in and out"
            numbers = f"{groups} for {inputs} and {shape[axis]}"
            raise InputError(f"{rule}, {self.where()} has {numbers}; write it as several")
        made = self._made(weight, 1 if transposed and groups == 1 else 0, bias)
        if groups == 1:
            self._read(x, axis, weight, 0 if transposed else 1)
        elif alone:
            self.atoms.tie(self.atoms.same(x, (axis,)), made)
        else:
            read = self.atoms.same(x, (axis,)).view(groups, -1)
            self.atoms.blocks.append((self.where(), torch.cat([read, made.view(groups, -1)], dim=1)))
            for place in read.unbind(1):
                self.atoms.whole(place)
        return spread(made, shape, (axis,))

    def channels(self, x: Tensor, parameters: Sequence[Tensor | None], statistics: Sequence[Tensor | None]) -> Tensor:
        """Give the labels of what is scaled and shifted by channel, axis 1."""
        channels = self.atoms.same(x, (1,))
        for part in parameters:
            if part is not None and part.numel() > 1:
                channels = self.atoms.tie(channels, self._vector(part, "out"))
        for part in statistics:
            if part is not None:
                self.atoms.tie(channels, self._vector(part, "statistic"))
        return spread(channels, x.shape, (1,))

    def groups(self, x: Tensor, count: int, parameters: Sequence[Tensor | None]) -> Tensor:
        """Give the labels of what is normalized in groups of channels."""
        result = self.channels(x, parameters, ())
        self.atoms.blocks.append((self.where(), self.atoms.same(x, (1,)).view(count, -1)))
        return result

    def layer(self, x: Tensor, parameters: Sequence[Tensor | None]) -> Tensor:
        """Give the labels of what is normalized over its last axes."""
        elements = settled(x)
        for part in parameters:
            if part is not None:
                self.atoms.tie(elements, self.labels(part))
        return elements

    def embedding(self, table: Tensor, shape: Sequence[int]) -> Tensor:
        """Give the labels of rows of a table."""
        return spread(self.atoms.axis(self._plain(table), 1, "out"), shape, (len(shape) - 1,))

    def pool(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Give the labels of channels, axis 1, whose maps changed their size."""
        return spread(self.atoms.same(x, (1,)), shape, (1,))

    def _read(self, x: Tensor, axis: int, weight: Tensor, row: int) -> None:
        self.atoms.tie(self.atoms.same(x, (axis,)), self.atoms.axis(self._plain(weight), row, "in"))

    def _made(self, weight: Tensor, row: int, bias: Tensor | None) -> Tensor:
        made = self.atoms.axis(self._plain(weight), row, "out")
        if bias is not None:
            self.atoms.tie(made, self._vector(bias, "out"))
        return made

    def _vector(self, value: Tensor, role: Literal["out", "statistic"]) -> Tensor:
        return self.atoms.axis(value, 0, role) if self.atoms.key(value) else self.labels(value)

    def _plain(self, weight: Tensor) -> Tensor:
        if self.atoms.key(weight) is None:
            rule = "weights must be parameters as they are"
            remedy = "standardized or otherwise computed weights cannot be permuted by what computes them here"
            raise InputError(f"{rule}, {self.where()} computes its own at each call; {remedy}")
        return weight
