"""Self-expansion of a network that is not known: 1x1 convolutions after those that it has."""

from typing import Any, final

import torch
from torch import Tensor, nn

from paperweight.data import Splits
from paperweight.errors import InputError
from paperweight.nets import replace_modules
from paperweight.training.self_expanding_cnn import Expansion, SelfExpansion, natural_expansion_score

__all__ = ["Deepened", "can_be_deepened", "deepening"]


@final
class Deepened(nn.Module):
    """Any network whose convolutions can be given 1x1 convolutions after them, which are the identity at first."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = replace_modules(
            model, lambda _, part: isinstance(part, nn.Conv2d), nn.Sequential, wanted="a module of type Conv2d"
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute what the network computes."""
        return self.model(x)

    def _places(self) -> list[nn.Sequential]:
        parts = [part for part in self.model.modules() if isinstance(part, nn.Sequential) and len(part)]
        return [part for part in parts if all(isinstance(layer, nn.Conv2d) for layer in part)]

    def expansions(self, capacity: int) -> list[Expansion]:
        """List the layers that can be added: one after each convolution with fewer than ``capacity`` of them."""
        return [Expansion("layer", at) for at, place in enumerate(self._places()) if len(place) < capacity]

    def expand(self, expansion: Expansion, extra: int, noise: float, generator: torch.Generator) -> dict[Any, Any]:
        """Add a layer after a convolution."""
        place = self._places()[expansion.block]
        weight = place[0].get_parameter("weight")
        channels = len(weight)
        layer = nn.utils.skip_init(nn.Conv2d, channels, channels, 1, bias=False)
        noisy = torch.eye(channels) + noise * torch.randn(channels, channels, generator=generator)
        layer.weight = nn.Parameter(noisy[:, :, None, None].to(weight))
        place.append(layer)
        return {}


def deepening(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    epochs: int,
    generator: torch.Generator,
) -> SelfExpansion:
    """Make a training that may add a layer up to four times, where it raises the score by a hundredth."""
    return SelfExpansion(
        model,
        optimizer,
        inputs,
        labels,
        tau=1.01,
        cooldown=max(1, epochs // 5),
        damping=1e-12,
        scored=64,
        batch_size=batch_size,
        generator=generator,
    )


def can_be_deepened(model: nn.Module, data: Splits) -> str:
    """Say why a network cannot be given layers, and nothing where it can."""
    try:
        natural_expansion_score(Deepened(model), data.train.images[:2], data.train.labels[:2])
    except InputError as error:
        return str(error)
    except Exception:  # what a network does with one example is its own
        return (
            f"torch.func must find gradients of single samples, of {type(model).__name__} it cannot; in its forward "
            "pass call no item() and branch on no value"
        )
    return ""
