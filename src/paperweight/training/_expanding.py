"""A convolutional network that can be given layers and channels, with hardly a change of what it computes.

Source:
    B. Appolinary, A. Deaconu, S. Yang, Q. Li, "Self Expanding Convolutional Neural Networks", 2024,
    https://arxiv.org/abs/2401.05686, section 3.

Deviations:
    those of `paperweight.training.self_expanding_cnn`
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Expansion", "Larger", "SelfExpandingCNN", "check_count"]


class Expansion(NamedTuple):
    """What is added: ``"layer"`` or ``"channels"``, and the number of the block, from 0."""

    kind: Literal["layer", "channels"]
    block: int


Larger = Callable[[Tensor], Tensor]
"""Maps a tensor of a parameter's old shape, such as a momentum, to one of the new shape, with zeros for what is new."""


class _Insert(NamedTuple):
    """Numbers put in along a dimension before a place, by the function that makes them from a shape."""

    dim: int
    at: int
    extra: int
    make: Callable[[Sequence[int]], Tensor]


def _inserted(tensor: Tensor, inserts: Sequence[_Insert]) -> Tensor:
    for dim, at, extra, make in inserts:
        new = make([*tensor.shape[:dim], extra, *tensor.shape[dim + 1 :]]).to(tensor)
        tensor = torch.cat([tensor.narrow(dim, 0, at), new, tensor.narrow(dim, at, tensor.shape[dim] - at)], dim)
    return tensor


def _replaced(
    places: Mapping[tuple[nn.Module, str], Sequence[_Insert]],
) -> dict[nn.Parameter, tuple[nn.Parameter, Larger]]:
    """Put larger parameters and buffers in the places of the old ones."""
    grown: dict[nn.Parameter, tuple[nn.Parameter, Larger]] = {}
    for (module, name), inserts in places.items():
        old = getattr(module, name)
        new = _inserted(old.detach(), inserts)
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
            grown[old] = new, partial(_inserted, inserts=[each._replace(make=torch.zeros) for each in inserts])
        setattr(module, name, new)
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = module.weight.shape[:2]
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = len(new)
    return grown


@final
class _Block(nn.Module):
    """A 3x3 convolution, batch normalization and an activation, and then the layers that were added."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs)
        self.added = nn.ModuleList()

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm(self.conv(x)), 0.2)
        for layer in self.added:
            x = layer(x)
        return x


@final
class SelfExpandingCNN(nn.Module):
    """A convolutional network of blocks that can be given layers and channels.

    After each block comes 2x2 max pooling; the first block's output, pooled as often, stands beside the last one's for
    a 1x1 convolution, and a linear layer gives the logits. Loading the state of a network that has grown lets this one
    grow as far first.

    Args:
        shape: Channels, height and width of one image.
        classes: Number of logits.
        channels: Channels of each block to begin with; the paper has three times 16.

    Raises:
        ValueError: If a size is no whole number of at least 1, or there is no block.

    Example:
        >>> model = SelfExpandingCNN((1, 8, 8), classes=10, channels=(4, 4))
        >>> _ = model.expand(Expansion("channels", 0))
        >>> model(torch.zeros(2, 1, 8, 8)).shape, model.blocks[0].conv.out_channels
        (torch.Size([2, 10]), 6)
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, channels: Sequence[int] = (16, 16, 16)) -> None:
        super().__init__()
        for name, counts in {"shape": shape, "classes": [classes], "channels": channels or [0]}.items():
            for count in counts:
                check_count(name, count)
        self.shape = shape
        self.classes = classes
        self.channels = channels
        self.blocks = nn.ModuleList(_Block(*sizes) for sizes in pairwise([shape[0], *channels]))
        self.mix = nn.Conv2d(channels[0] + channels[-1], classes, 1)
        height, width = (math.ceil(side / 2 ** len(channels)) for side in shape[1:])
        self.head = nn.Linear(classes * height * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: Images, (N, C, H, W).

        Returns:
            Logits, (N, classes).
        """
        beside: Tensor | None = None
        for block in self.blocks:
            x = F.max_pool2d(block(x), 2, ceil_mode=True)
            beside = x if beside is None else F.max_pool2d(beside, 2, ceil_mode=True)
        seen = x if beside is None else torch.cat([beside, x], dim=1)
        return self.head(F.leaky_relu(self.mix(seen), 0.2).flatten(1))

    def expansions(self, capacity: int = 10) -> list[Expansion]:
        """List what can be added: channels to each block, and a layer to those of fewer than ``capacity``."""
        layers = [
            Expansion("layer", at) for at, block in enumerate(self.blocks) if len(_of(block).added) + 1 < capacity
        ]
        return layers + [Expansion("channels", at) for at in range(len(self.blocks))]

    def expand(
        self, expansion: Expansion, extra: int = 2, noise: float = 1e-4, generator: torch.Generator | None = None
    ) -> dict[nn.Parameter, tuple[nn.Parameter, Larger]]:
        """Add a layer that does nothing yet, or channels that nothing depends on yet, but for noise.

        Args:
            expansion: What to add.
            extra: Channels to add, at least 1; the paper has 2 at first and 4 later.
            noise: Standard deviation of new weights, and of the new layer about the identity, at least 0.
            generator: Source of the noise; torch's global stream where it is left out.

        Returns:
            Each parameter that was replaced, to the larger one, and to what makes a tensor of its shape as large.

        Raises:
            ValueError: If an argument is outside its range.
        """
        kind, number = expansion
        if kind not in ("layer", "channels") or number not in range(len(self.blocks)):
            raise ValueError(f"expansion must name a block of {len(self.blocks)}, got {expansion}")
        check_count("extra", extra)
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be finite and at least 0, got {noise}")
        block = _of(self.blocks[number])
        size = block.conv.out_channels

        def noisy(shape: Sequence[int]) -> Tensor:
            device = "cpu" if generator is None else generator.device
            return noise * torch.randn(*shape, generator=generator, device=device)

        if kind == "layer":
            layer = nn.utils.skip_init(nn.Conv2d, size, size, 1, bias=False)
            identity = torch.eye(size)[:, :, None, None]
            layer.weight = nn.Parameter((identity + noisy(identity.shape)).to(block.conv.weight))
            block.added.append(layer.train(self.training))
            return {}
        last = number == len(self.blocks) - 1
        places: dict[tuple[nn.Module, str], list[_Insert]] = {
            (block.conv, "weight"): [_Insert(0, size, extra, noisy)],
            (block.conv, "bias"): [_Insert(0, size, extra, torch.zeros)],
            (block.norm, "weight"): [_Insert(0, size, extra, torch.ones)],
            (block.norm, "bias"): [_Insert(0, size, extra, torch.zeros)],
            (block.norm, "running_mean"): [_Insert(0, size, extra, torch.zeros)],
            (block.norm, "running_var"): [_Insert(0, size, extra, torch.ones)],
        }
        for layer in block.added:
            places[layer, "weight"] = [_Insert(dim, size, extra, noisy) for dim in (0, 1)]
        if not last:
            places[_of(self.blocks[number + 1]).conv, "weight"] = [_Insert(1, size, extra, noisy)]
        ends = ([self.mix.in_channels] if last else []) + ([size] if number == 0 else [])
        places[self.mix, "weight"] = [_Insert(1, end, extra, noisy) for end in ends]
        return _replaced(places)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for number, block in enumerate(self.blocks):
            start, block = f"{prefix}blocks.{number}.", _of(block)
            added = sum(name.startswith(f"{start}added.") for name in state_dict)
            for _ in range(added - len(block.added)):
                self.expand(Expansion("layer", number), noise=0.0)
            extra = len(state_dict.get(f"{start}conv.bias", ())) - block.conv.out_channels
            if extra > 0:
                self.expand(Expansion("channels", number), extra, noise=0.0)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _of(block: nn.Module) -> _Block:
    if not isinstance(block, _Block):
        raise TypeError(f"blocks must be those of SelfExpandingCNN, got {type(block).__name__}")
    return block


def check_count(name: str, count: int) -> None:
    """Check that an argument is a whole number of at least 1.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
