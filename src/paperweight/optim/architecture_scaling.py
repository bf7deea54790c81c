"""Initial weights and a learning rate that are carried from a shallow network to one of any depth and topology.

Weights get a variance by how many edges enter the vertex that they lead to; a rate found on a shallow network is scaled
by the depths of all paths from the input to the output: the more and the deeper the paths, the smaller the rate.
Cost: one tracing of the network before training; none in training.

Source:
    W. Chen, J. Wu, Z. Wang, B. Hanin, "Principled Architecture-aware Scaling of Hyperparameters", ICLR, 2024,
    https://arxiv.org/abs/2402.17440. Implemented: the networks of equation 1, the initialization of equations 2 and 12,
    the rates of equations 8 and 9. Left out: the search for the rate of the shallow network, which is
    `paperweight.loops.tune`, and the cells of NAS-Bench-201.

Deviations:
    - The variance of a weight is divided by the in-degree of the vertex that it leads to, as equation 12 derives and
      as keeps the scale. Equation 4 of the paper, and the authors' code, have that of the vertex that it comes from,
      with which a vertex grows by the number of its edges.
    - Depths are ReLUs on a path, as the paper defines them, so that input, hidden layer and output have depth 1; the
      authors' code counts layers of weights and 2 more, which makes the rule flatter.
    - Fans are those into a layer, as in the paper; the authors' code has those out of it, and in the last layer
      2 / classes in place of sqrt(2) / width.
    - The size of a kernel is its side, as in the authors' code; the paper derives it for kernels of one dimension.
    - Identity edges count as edges, but nothing is divided by them: a vertex that has one is larger than others, as
      in the authors' code.
    - What is summed is found by tracing, so that networks need not be written for this.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Literal, TypeVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets._common import check_at_least, check_classifier
from paperweight.nets.plain import computed_weight
from paperweight.optim._graph import in_degrees, path_depths

__all__ = ["DagCNN", "DagMLP", "Edge", "dag_init_", "in_degrees", "lr_scale", "path_depths"]

PAPER = Paper(
    title="Principled Architecture-aware Scaling of Hyperparameters",
    authors=("Wuyang Chen", "Junru Wu", "Zhangyang Wang", "Boris Hanin"),
    year=2024,
    url="https://arxiv.org/abs/2402.17440",
    provides={
        "path_depths": "function",
        "lr_scale": "function",
        "in_degrees": "function",
        "dag_init_": "function",
        "DagMLP": "network",
        "DagCNN": "network",
    },
    claim="One rule predicts the largest rate of networks of any depth, kernel size and topology from a shallow one.",
)

Network = TypeVar("Network", bound=nn.Module)
Edge = Literal["weight", "skip", "none"]


def lr_scale(depths: Mapping[int, int], base_depths: Mapping[int, int], kernel: int = 1, base_kernel: int = 1) -> float:
    """Give the factor by which the rate of a base network becomes that of another, equations 8 and 9.

    Args:
        depths: Depth to number of paths, of the network to train, as `path_depths` gives them.
        base_depths: The same of the network whose rate is known.
        kernel: Side of its kernels, at least 1; 1 for networks without convolutions.
        base_kernel: The same of the network whose rate is known.

    Returns:
        The factor.

    Raises:
        ValueError: If depths or numbers are negative, no path has a depth of at least 1, or a kernel is below 1.

    Example:
        >>> lr_scale({4: 1}, base_depths={1: 1})
        0.125
    """
    for name, side in (("kernel", kernel), ("base_kernel", base_kernel)):
        if not isinstance(side, int) or isinstance(side, bool) or side < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {side}")
    base, own = _cubes("base_depths", base_depths), _cubes("depths", depths)
    return math.sqrt(base / own) * base_kernel / kernel


def _cubes(name: str, depths: Mapping[int, int]) -> int:
    for value in (*depths.keys(), *depths.values()):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name} must map whole numbers of at least 0 to the same, got {dict(depths)}")
    if not (total := sum(paths * depth**3 for depth, paths in depths.items())):
        raise ValueError(f"{name} must have a path of depth at least 1, got {dict(depths)}")
    return total


@torch.no_grad()
def dag_init_(model: Network, generator: torch.Generator | None = None) -> Network:
    """Draw weights of which every vertex is as large as those before it, and set biases to 0, equations 2 and 12.

    Weights are normal with variance 2 / (fan-in * in-degree), in the last layers 2 / fan-in ** 2.

    Args:
        model: A network that torch.fx can trace; its linear layers and convolutions are changed in place, but
            for frozen ones, and nothing else.
        generator: Of the weights; torch's own by default.

    Returns:
        The same network.

    Raises:
        ValueError: If the network cannot be traced, or weights are computed from others.

    Example:
        >>> model = nn.Sequential(nn.Linear(400, 1000), nn.ReLU(), nn.Linear(1000, 2))
        >>> model = dag_init_(model, torch.Generator().manual_seed(0))
        >>> round(400 * model[0].weight.var().item(), 1)
        2.0
    """
    if words := computed_weight(model):
        raise ValueError(f"model must have plain weights, but {words}")
    for name, degree in in_degrees(model).items():
        layer = model.get_submodule(name)
        weight, bias = layer.get_parameter("weight"), layer._parameters["bias"]
        if not weight.requires_grad:
            continue
        fan_in = weight[0].numel()
        variance = 2 / (fan_in * degree) if degree else 2 / fan_in**2
        device = weight.device if generator is None else generator.device
        drawn = torch.empty_like(weight, device=device).normal_(0, math.sqrt(variance), generator=generator)
        weight.copy_(drawn)
        if bias is not None:
            bias.zero_()
    return model


def _check_dag(dag: Sequence[Sequence[Edge]]) -> None:
    for vertex, edges in enumerate(dag, start=1):
        if len(edges) != vertex or not all(edge in ("weight", "skip", "none") for edge in edges):
            raise ValueError(
                f"dag must have for its vertex {vertex} one of 'weight', 'skip', 'none' from each of the {vertex} "
                f"vertices before, got {edges!r}"
            )
        if all(edge == "none" for edge in edges):
            raise ValueError(f"dag must have an edge into every vertex, got none into vertex {vertex}")
    for source in range(len(dag)):
        if all(edges[source] == "none" for edges in dag[source:]):
            raise ValueError(f"dag must have an edge out of every vertex but the last, got none out of vertex {source}")


def _check_network(dag: Sequence[Sequence[Edge]], shape: tuple[int, int, int], classes: int, width: int) -> None:
    _check_dag(dag)
    check_classifier(shape, classes)
    check_at_least(1, {"width": width})


def _weight_edges(dag: Sequence[Sequence[Edge]]) -> list[str]:
    return [
        f"{source}_{target}"
        for target, edges in enumerate(dag, start=1)
        for source, edge in enumerate(edges)
        if edge == "weight"
    ]


def _last_vertex(dag: Sequence[Sequence[Edge]], layers: nn.ModuleDict, first: Tensor) -> Tensor:
    """Compute equation 1 from the first hidden vertex to the last."""
    vertices = [first]
    for target, edges in enumerate(dag, start=1):
        parts = [
            vertices[source] if edge == "skip" else layers[f"{source}_{target}"](F.relu(vertices[source]))
            for source, edge in enumerate(edges)
            if edge != "none"
        ]
        vertices.append(reduce(operator.add, parts))
    return vertices[-1]


@final
class DagMLP(nn.Module):
    """A linear layer, a graph of linear layers and identities over vertices of one width, and a linear layer.

    Weights are those of `dag_init_`.

    Args:
        dag: For each vertex after the first, the edges from the vertices before it, in order: ``"weight"``,
            ``"skip"``, the identity, or ``"none"``; a ReLU comes before every layer but the first one.
        shape: Channels, height and width of one image.
        classes: Number of logits.
        width: Numbers in a vertex, at least 1.

    Raises:
        ValueError: If a size is below 1, or a vertex has no edge into it, or the last one none before it.

    Example:
        >>> model = DagMLP((("weight",), ("skip", "weight")), (1, 8, 8), 10, width=32)
        >>> path_depths(model)
        Counter({1: 1, 3: 1})
    """

    def __init__(self, dag: Sequence[Sequence[Edge]], shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        _check_network(dag, shape, classes, width)
        self.dag, self.shape, self.classes, self.width = dag, shape, classes, width
        self.stem = nn.Linear(math.prod(shape), width)
        self.layers = nn.ModuleDict({name: nn.Linear(width, width) for name in _weight_edges(dag)})
        self.head = nn.Linear(width, classes)
        dag_init_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: Images, (N, C, H, W).

        Returns:
            Logits, (N, classes).
        """
        return self.head(F.relu(_last_vertex(self.dag, self.layers, self.stem(x.flatten(1)))))


@final
class DagCNN(nn.Module):
    """A convolution, a graph of convolutions and identities, the mean over pixels, and a linear layer.

    Weights are those of `dag_init_`; convolutions are padded by zeros, so that maps keep the size of the image.

    Args:
        dag: As for `DagMLP`.
        shape: Channels, height and width of one image.
        classes: Number of logits.
        width: Channels of a vertex, at least 1.
        kernel: Side of the kernels, an odd number.

    Raises:
        ValueError: If a size is below 1, the kernel's side even, or the graph not one that `DagMLP` takes.

    Example:
        >>> DagCNN((("weight",),), (1, 8, 8), 10, width=4, kernel=5)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, dag: Sequence[Sequence[Edge]], shape: tuple[int, int, int], classes: int, width: int, kernel: int = 3
    ) -> None:
        super().__init__()
        _check_network(dag, shape, classes, width)
        if not isinstance(kernel, int) or kernel < 1 or not kernel % 2:
            raise ValueError(f"kernel must be an odd number of at least 1, got {kernel!r}")
        self.dag, self.shape, self.classes, self.width, self.kernel = dag, shape, classes, width, kernel
        self.stem = nn.Conv2d(shape[0], width, kernel, padding=kernel // 2)
        self.layers = nn.ModuleDict(
            {name: nn.Conv2d(width, width, kernel, padding=kernel // 2) for name in _weight_edges(dag)}
        )
        self.head = nn.Linear(width, classes)
        dag_init_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: Images, (N, C, H, W).

        Returns:
            Logits, (N, classes).
        """
        return self.head(F.relu(_last_vertex(self.dag, self.layers, self.stem(x))).mean((2, 3)))
