"""The permutation graph of a network: its groups of units, traced from the network or written down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.merging._chain import chain_groups
from paperweight.merging._residual import residual_groups
from paperweight.merging._tracing import trace_groups
from paperweight.merging.groups import Group

__all__ = ["Permutation", "PermutationGraph"]

Permutation = Mapping[str, Tensor]


@final
@dataclass(frozen=True)
class PermutationGraph:
    """The groups of units of a network that may be permuted without a change of its function.

    A permutation is a mapping from the names of groups to int64 tensors of shape (size,): entry r is the number of the
    unit that takes place r. A group that is left out keeps its order. Inputs and outputs of the network are in no
    group.

    Args:
        groups: The groups in the order in which the network makes them.
        shown: For each output of the network that shows units which its layers read, too, the names of the groups that
            these would be in: they keep their order, so that the output does.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> graph = PermutationGraph.trace(model, torch.zeros(1, 3))
        >>> [(group.name, group.size) for group in graph.groups]
        [('0', 4)]
        >>> [(place.key, place.axis) for place in graph.groups[0].places]
        [('0.weight', 0), ('0.bias', 0), ('2.weight', 1)]
    """

    groups: tuple[Group, ...]
    shown: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @classmethod
    def trace(
        cls,
        model: nn.Module,
        example_input: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
        output: str | int | None = None,
    ) -> "PermutationGraph":
        """Find the groups of a network by a run on an example.

        Each row of each axis of each parameter is followed through the network; functions tie rows to one another. The
        result is tried out: a random permutation must not change the output. Branches are taken as the example takes
        them.

        Known, as functions and so in any module, are linear layers, convolutions, embeddings, all usual normalizations,
        what works element by element or moves elements, pooling, residuals, concatenation, attention and products of
        matrices. Tied weights may be tied. A convolution in groups keeps the order of the inputs of each group; the
        groups may change places. Units are observed at inputs and outputs of modules: where pooling is a function and
        no module, after it.

        Args:
            model: The network; it is not changed.
            example_input: What it is called with, of any batch size; several arguments as a sequence, or by name.
            output: Key, field or number of the output that must be kept, where the network has several; what the others
                show may change its order. None for all.

        Raises:
            InputError: If the network cannot be run or has an operation that is not known.
        """
        model = getattr(model, "_orig_mod", model)
        if isinstance(example_input, Mapping):
            return cls(*trace_groups(model, (), example_input, output))
        args = (example_input,) if isinstance(example_input, Tensor) else tuple(example_input)
        return cls(*trace_groups(model, args, {}, output))

    @classmethod
    def for_mlp(cls, model: nn.Module) -> "PermutationGraph":
        """Write down the groups of a chain of linear layers, with batch normalization and activations or without.

        Args:
            model: A network whose modules are called once each, in the order of their definition.

        Raises:
            InputError: If it has other modules with parameters.
        """
        return cls(chain_groups(model, (nn.Linear,)))

    @classmethod
    def for_vgg(cls, model: nn.Module) -> "PermutationGraph":
        """Write down the groups of a chain of convolutions and then linear layers, such as VGG and LeNet.

        Args:
            model: A network whose modules are called once each, in the order of their definition.

        Raises:
            InputError: If it has other modules with parameters.
        """
        return cls(chain_groups(model, (nn.Linear, nn.Conv2d)))

    @classmethod
    def for_resnet(cls, model: nn.Module) -> "PermutationGraph":
        """Write down the groups of the residual networks of `paperweight.nets`.

        Args:
            model: A `paperweight.nets.ResNet` or `paperweight.nets.ResNet18`.

        Raises:
            InputError: If it is none.
        """
        return cls(residual_groups(model))

    def identity(self) -> dict[str, Tensor]:
        """Give the permutation that changes nothing."""
        return {group.name: torch.arange(group.size) for group in self.groups}

    def random(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw a permutation that keeps the function.

        Args:
            generator: Source of the random numbers, on the CPU.
        """
        return {group.name: group.random(generator) for group in self.groups}

    def check(self, permutation: Permutation) -> None:
        """Check that a permutation is one of this graph.

        Raises:
            InputError: If a group is unknown, or its permutation does not keep the function.
        """
        known = {group.name: group for group in self.groups}
        for name, order in permutation.items():
            if name not in known:
                raise InputError(f"permutation must name groups of the graph, {name!r} is none of {', '.join(known)}")
            if not known[name].allows(order):
                rule = f"{known[name].size} units, int64, each once, blocks kept together and kinds apart"
                raise InputError(f"permutation of {name!r} must be of {rule}; draw one with graph.random()")
