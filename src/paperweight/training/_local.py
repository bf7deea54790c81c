"""Networks that are a chain of residual blocks, cut into parts with no gradient from one to another."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.nets import evaluating

__all__ = [
    "Objective",
    "Scores",
    "check_count",
    "check_order",
    "isolated",
    "joined",
    "objectives",
    "part_ends",
    "residual_layers",
    "seeded_by",
    "width",
]

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
Scores = Callable[[Tensor], Tensor]


def _chain(model: nn.Module) -> list[nn.Module]:
    """List the modules that a network calls one after the other; itself where its structure does not tell."""
    if type(model) is not nn.Sequential and [name for name, _ in model.named_children()] != ["body", "head"]:
        return [model]
    return [part for child in model._modules.values() if child is not None for part in _chain(child)]


def _is_block(part: nn.Module) -> bool:
    return {"residual", "shortcut"} <= {name for name, _ in part.named_children()}


def residual_layers(model: nn.Module) -> list[nn.Sequential]:
    """Cut a residual network into its stem and its blocks, each with what follows it up to the next.

    Args:
        model: A `torch.nn.Sequential`, or a network of a ``body`` and then a ``head``, with such inside it, among them
            blocks, which have a module ``residual`` and one ``shortcut``.

    Returns:
        The layers, whose modules are the network's own.

    Raises:
        InputError: If it is no such chain, or layers share weights.
    """
    parts = _chain(model)
    blocks = [at for at, part in enumerate(parts) if _is_block(part)]
    if not blocks:
        raise InputError(
            f"model must be a chain of residual blocks, such as paperweight.nets.ResNet, got {type(model).__name__}; "
            "build it as a torch.nn.Sequential, with modules named residual and shortcut in each block"
        )
    layers = [nn.Sequential(*parts[start:end]) for start, end in pairwise(sorted({0, *blocks, len(parts)}))]
    own = [parameter for layer in layers for parameter in layer.parameters()]
    if len(set(own)) < len(own):
        raise InputError("model must have layers that share no weights; give each layer weights of its own")
    return layers


def width(layer: nn.Module) -> int:
    """Give the channels that a layer of `residual_layers` puts out."""
    blocks = [part.get_submodule("residual") for part in layer.children() if _is_block(part)]
    convolutions = [part for part in (blocks or [layer])[0].modules() if isinstance(part, nn.Conv2d)]
    if not convolutions:
        raise InputError("model must have a torch.nn.Conv2d in its stem and in each block's residual, one has none")
    return convolutions[-1].out_channels


def part_ends(layers: int, parts: int | None) -> list[int]:
    """Give the number of the last layer of each part, as evenly as can be; each layer is a part where left out."""
    count = layers if parts is None else parts
    check_count("parts", count)
    if count > layers:
        raise ValueError(f"parts must be at most the number of layers, {layers}, got {count}")
    return [-(-layers * number // count) - 1 for number in range(1, count + 1)]


def joined(layers: Sequence[nn.Sequential], parts: int | None) -> list[nn.Sequential]:
    """Join layers to parts."""
    ends = part_ends(len(layers), parts)
    groups = [layers[start + 1 : end + 1] for start, end in pairwise([-1, *ends])]
    return [nn.Sequential(*(module for layer in group for module in layer)) for group in groups]


@torch.no_grad()
def check_order(model: nn.Module, parts: Sequence[nn.Module], x: Tensor) -> None:
    """Check on one example that a network does what its parts do one after the other.

    Raises:
        InputError: If it does more, or in another order, which training by parts would skip.
    """
    with evaluating(model):
        if not torch.equal(nn.Sequential(*parts)(x[:1]), model(x[:1])):
            raise InputError(
                f"model must call its layers in order and do nothing else, {type(model).__name__} does; build it as a "
                "torch.nn.Sequential"
            )


def isolated(parts: Sequence[nn.Module], auxiliaries: Iterable[Scores], x: Tensor) -> tuple[Tensor, ...]:
    """Run parts one after the other without a gradient between them.

    Args:
        parts: The parts.
        auxiliaries: What is run on the output of each but the last.
        x: Input of the first.

    Returns:
        What the auxiliaries give, and last what the parts do.
    """
    scores: list[Tensor] = []
    for part, auxiliary in zip(parts[:-1], auxiliaries, strict=True):
        x = part(x)
        scores.append(auxiliary(x))
        x = x.detach()
    return (*scores, parts[-1](x))


def objectives(auxiliaries: Iterable[Scores]) -> list[Objective]:
    """Make the cross-entropy of each part, the last without an auxiliary, as `paperweight.loops` takes them."""

    def after(auxiliary: Scores) -> Objective:
        return lambda output, _, labels: F.cross_entropy(auxiliary(output), labels)

    return [after(part) for part in (*auxiliaries, nn.Identity())]


@contextmanager
def seeded_by(generator: torch.Generator | None) -> Iterator[None]:
    """Let a generator decide what is drawn from torch's global stream on the CPU, which goes on where it was."""
    if generator is None:
        yield
        return
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        yield


def check_count(name: str, count: int, least: int = 1) -> None:
    """Check that an argument is a whole number of a minimum size.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {count!r}")
