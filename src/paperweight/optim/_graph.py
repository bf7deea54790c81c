"""The paths and sums of a network, found by tracing it.

Source:
    W. Chen, J. Wu, Z. Wang, B. Hanin, "Principled Architecture-aware Scaling of Hyperparameters", ICLR, 2024,
    https://arxiv.org/abs/2402.17440, section 3.

Deviations:
    those of `paperweight.optim.architecture_scaling`
"""

import operator
from collections import Counter

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Node

__all__ = ["in_degrees", "path_depths"]

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ADDITIONS = (
    operator.add,
    operator.iadd,
    operator.sub,
    operator.isub,
    torch.add,
    torch.sub,
    "add",
    "add_",
    "sub",
    "sub_",
)
_RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
_OTHER_ACTIVATIONS = (
    nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.ReLU6, nn.Hardswish, nn.PReLU,
)  # fmt: skip
_OTHER_FUNCTIONS = (F.gelu, F.silu, F.mish, torch.tanh, F.leaky_relu, F.elu, F.selu, F.celu, F.relu6, F.hardswish)
_PRODUCTS = (F.linear, F.conv1d, F.conv2d, F.conv3d, torch.matmul, torch.bmm, operator.matmul)
_NO_TENSORS = (getattr, "size", "dim", "numel")


def _traced(model: nn.Module) -> GraphModule:
    try:
        return torch.fx.symbolic_trace(model)
    except Exception as error:
        raise ValueError(
            f"model must be one that torch.fx can trace, without branches on values, but: {error}"
        ) from error


def _is_relu(traced: GraphModule, node: Node) -> bool:
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), nn.ReLU)
    return node.target in _RELUS


def _other_activation(traced: GraphModule, node: Node) -> str:
    """Name an activation that is no ReLU, and nothing where the node is none."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        return type(module).__name__ if isinstance(module, _OTHER_ACTIVATIONS) else ""
    return getattr(node.target, "__name__", "") if node.target in _OTHER_FUNCTIONS else ""


def path_depths(model: nn.Module) -> Counter[int]:
    """Count the paths from input to output by the number of ReLUs on them.

    Args:
        model: A network that torch.fx can trace; it is not changed.

    Returns:
        Depth to number of paths, only for depths that some path has.

    Raises:
        ValueError: If the network cannot be traced, has other activations, for which the rule was not derived, or no
            path from its input to its output.

    Example:
        >>> path_depths(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
        Counter({2: 1})
    """
    traced = _traced(model)
    depths: dict[Node, Counter[int]] = {}
    found: Counter[int] = Counter()
    for node in traced.graph.nodes:
        if name := _other_activation(traced, node):
            raise ValueError(f"model must have no activations but ReLUs, which alone are counted, got {name}")
        before: Counter[int] = Counter()
        for source in node.all_input_nodes:
            before.update(depths[source])
        if node.op == "placeholder":
            before[0] = 1
        elif node.op == "output":
            found = before
        elif node.target in _NO_TENSORS:
            before.clear()
        depths[node] = Counter({d + 1: n for d, n in before.items()}) if _is_relu(traced, node) else before
    if not found:
        raise ValueError("model must have a path from its input to its output, got none")
    return found


def in_degrees(model: nn.Module) -> dict[str, int]:
    """Give, for every layer of weights, how many edges enter the vertex that it leads to, 0 for the last layers.

    A vertex is a sum; where nothing is added to what a layer gives, its in-degree is 1. Layers after which no other
    layer of weights comes are the last ones.

    Args:
        model: A network that torch.fx can trace; it is not changed. Linear layers and convolutions have weights.

    Returns:
        Name of the layer to in-degree; the largest where a layer is used more than once.

    Raises:
        ValueError: If the network cannot be traced.

    Example:
        >>> in_degrees(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        {'0': 1, '2': 0}
    """
    traced = _traced(model)
    last: dict[Node, bool] = {}
    degrees: dict[str, int] = {}
    layers = [node for node in traced.graph.nodes if _is_weighted(traced, node)]
    others = [node for node in traced.graph.nodes if _multiplies(traced, node)]
    for node in reversed(traced.graph.nodes):
        last[node] = all(last[user] and user not in others for user in node.users)
    for node in layers:
        name = str(node.target)
        degrees[name] = max(degrees.get(name, 0), 0 if last[node] else _summands(_vertex(traced, node)))
    return degrees


def _multiplies(traced: GraphModule, node: Node) -> bool:
    """Say whether a node multiplies by weights or by other features: layers of weights, attention, recurrent layers."""
    if node.op != "call_module":
        return node.target in _PRODUCTS
    module = traced.get_submodule(str(node.target))
    return not isinstance(module, nn.LayerNorm) and any(p.ndim > 1 for p in module.parameters())


def _is_weighted(traced: GraphModule, node: Node) -> bool:
    return node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), _WEIGHTED)


def _vertex(traced: GraphModule, node: Node) -> Node:
    """Return the last sum that a layer's output goes into before it meets a ReLU or another layer, or the output."""
    vertex = node
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op == "output" or _is_relu(traced, node) or _is_weighted(traced, node):
            break
        if node.target in _ADDITIONS:
            vertex = node
    return vertex


def _summands(vertex: Node) -> int:
    """Count what is summed; a sum that is used nowhere else is a part of the sum that it enters."""
    values = (
        [value for value in vertex.all_input_nodes if value.op != "get_attr"] if vertex.target in _ADDITIONS else []
    )
    return sum(_summands(value) if len(value.users) == 1 else 1 for value in values) or 1
