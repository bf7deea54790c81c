"""R3GAN: a relativistic pairing loss with gradient penalties on data and samples, and a plain residual backbone.

The critic compares each data point with a sample, and not either with a threshold, which leaves no mode without a pull.
That loss need not converge; with zero-centred penalties on both sides it does, locally, and no other trick is needed.
Cost: two backward passes through the critic's gradient for each of its updates, and its scores of data for the
generator's.

Source:
    Y. Huang, A. Gokaslan, V. Kuleshov, J. Tompkin, "The GAN is dead; long live the GAN! A Modern GAN Baseline",
    NeurIPS, 2024, https://arxiv.org/abs/2501.05441. Implemented: both losses, the penalties R1 and R2, the residual
    block with its initialisation, generator and critic. The schedules of learning rate, beta2 and gamma are left to
    the caller, as is the average of the generator's weights.

Deviations:
    - Stages double the side from 4 to that of the images, which is 4, 8, 16 ...; all have one width, where the paper
      narrows the finer ones, so that there is no convolution to change the width.
    - The generator begins with a linear layer from the latent variables to 4 x 4 pixels, and the critic ends with a
      depthwise convolution over 4 x 4 pixels and a linear layer. Details beyond the paper's text, such as the slope of
      the leaky ReLU, 0.2, and the gain of the first and last layers, 1, are chosen here: the authors' code was not
      read.
"""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["R3Critic", "R3Generator", "relativistic_critic_loss", "relativistic_generator_loss", "zero_centred_penalty"]

PAPER = Paper(
    title="The GAN is dead; long live the GAN! A Modern GAN Baseline",
    authors=("Yiwen Huang", "Aaron Gokaslan", "Volodymyr Kuleshov", "James Tompkin"),
    year=2025,
    url="https://arxiv.org/abs/2501.05441",
    provides={
        "R3Generator": "network",
        "R3Critic": "network",
        "relativistic_critic_loss": "loss",
        "relativistic_generator_loss": "loss",
        "zero_centred_penalty": "function",
    },
    null={"gamma": 0.0},
    claim="A relativistic loss with penalties on data and samples covers all modes and converges, without tricks.",
)

_SLOPE = 0.2
_BLOCKS = 2  # residual blocks a stage
_LAYERS = 3  # convolutions a block


def relativistic_critic_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Compute E softplus(-(D(x) - D(G(z)))), data and samples paired within the batch.

    Args:
        real_scores: The critic's scores of data, floating, any shape but empty.
        fake_scores: Its scores of samples, of the same shape.

    Returns:
        A scalar, above 0.

    Raises:
        ValueError: If the shapes differ or there are no scores.

    Example:
        >>> relativistic_critic_loss(torch.tensor([9.0, 1.0]), torch.tensor([9.0, 1.0]))
        tensor(0.6931)
    """
    if real_scores.shape != fake_scores.shape or not real_scores.numel():
        raise ValueError(
            "fake_scores must have the shape of real_scores, and at least one score, "
            f"got {tuple(fake_scores.shape)} and {tuple(real_scores.shape)}"
        )
    return F.softplus(fake_scores - real_scores).mean()


def relativistic_generator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Compute E softplus(-(D(G(z)) - D(x))), the critic's loss with data and samples exchanged.

    Args:
        real_scores: The critic's scores of data, floating, any shape but empty.
        fake_scores: Its scores of samples, of the same shape.

    Returns:
        A scalar, above 0.

    Raises:
        ValueError: If the shapes differ or there are no scores.

    Example:
        >>> relativistic_generator_loss(torch.tensor([100.0]), torch.tensor([0.0]))
        tensor(100.)
    """
    return relativistic_critic_loss(fake_scores, real_scores)


def zero_centred_penalty(critic: nn.Module, inputs: Tensor, gamma: float = 1.0) -> Tensor:
    """Compute gamma / 2 E |gradient of D at x|^2: R1 if the inputs are data, R2 if they are samples.

    The norm is over all entries of one input, so a critic must treat inputs by themselves. Gradients flow to the
    critic's parameters alone.

    Args:
        critic: Maps inputs (N, ...) to scores, one each; twice differentiable.
        inputs: Data or samples, floating, (N, ...), N at least 1.
        gamma: Weight, at least 0; the paper has 0.05 to 150 by data set, and one for both penalties.

    Returns:
        A scalar with a gradient, at least 0.

    Raises:
        ValueError: If ``gamma`` is outside its range, there are no inputs, or there is not one score an input.

    Example:
        >>> critic = nn.Linear(2, 1)
        >>> _ = critic.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> zero_centred_penalty(critic, torch.zeros(5, 2), gamma=2.0).item()
        25.0
    """
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be finite and at least 0, got {gamma}")
    if inputs.ndim < 2 or not len(inputs):
        raise ValueError(f"inputs must have shape (N, ...) with N at least 1, got {tuple(inputs.shape)}")
    with torch.enable_grad():
        given = inputs.detach().requires_grad_()
        scores = critic(given)
        if scores.numel() != len(inputs):
            raise ValueError(
                f"critic must give one score for each input, {len(inputs)}, got shape {tuple(scores.shape)}"
            )
        (slopes,) = torch.autograd.grad(scores.sum(), given, create_graph=True)
        return gamma / 2 * slopes.square().flatten(1).sum(dim=1).mean()


@final
class _Block(nn.Module):
    """Residual block: 1x1 to ``expansion`` times the channels, grouped 3x3, 1x1 back, which begins at zero."""

    def __init__(self, channels: int, expansion: int, group_width: int, blocks: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = nn.Conv2d(channels, inner, 1, bias=False)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // group_width)
        self.reduce = nn.Conv2d(inner, channels, 1, bias=False)
        gain = nn.init.calculate_gain("leaky_relu", _SLOPE) * blocks ** (-1 / (2 * _LAYERS - 2))
        for convolution in (self.expand, self.mix):
            fan = convolution.weight[0].numel()
            nn.init.normal_(convolution.weight, std=gain / math.sqrt(fan))
        nn.init.zeros_(self.reduce.weight)
        nn.init.zeros_(self.mix.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.mix(F.leaky_relu(self.expand(x), _SLOPE))
        return x + self.reduce(F.leaky_relu(hidden, _SLOPE))


class _Backbone(nn.Module):
    """Stages of residual blocks, the side halved or doubled in between."""

    def __init__(
        self, shape: tuple[int, int, int], channels: int, expansion: int, group_width: int, factor: float
    ) -> None:
        super().__init__()
        side = shape[1] if len(shape) == 3 else 0
        if side < 4 or side & (side - 1) or shape[0] < 1 or shape[1] != shape[2]:
            raise ValueError(f"shape must be (C, side, side) with a side of 4, 8, 16 ..., got {shape}")
        for name, value in (("channels", channels), ("expansion", expansion), ("group_width", group_width)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
        if channels * expansion % group_width:
            raise ValueError(f"group_width must divide {channels * expansion} channels, got {group_width}")
        stages = int(math.log2(side)) - 1
        build = [_Block(channels, expansion, group_width, stages * _BLOCKS) for _ in range(stages * _BLOCKS)]
        self.blocks = nn.ModuleList(build)
        self.shape, self.channels, self.expansion, self.group_width = shape, channels, expansion, group_width
        self.factor = factor

    def stages(self, x: Tensor) -> Tensor:
        """Pass through all stages, with the change of the side between two."""
        for index, block in enumerate(self.blocks):
            if index and index % _BLOCKS == 0:
                x = F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)
            x = block(x)
        return x


@final
class R3Generator(_Backbone):
    """Generator: a linear layer to 4 x 4 pixels, stages of two residual blocks, bilinear upsampling, 1x1 to images.

    There is no normalisation. At the start each residual block is the identity.

    Args:
        shape: Shape (C, side, side) of an image, the side 4, 8, 16 ...
        latent: Number of latent variables, at least 1.
        channels: Width of all stages.
        expansion: How many times as wide the block is inside; the paper has 2.
        group_width: Channels a group of the 3x3 convolution; the paper has 16.

    Raises:
        ValueError: If a size is not as above.

    Example:
        >>> R3Generator((1, 8, 8), latent=16, channels=16)(torch.zeros(5, 16)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self, shape: tuple[int, int, int], latent: int, channels: int = 32, expansion: int = 2, group_width: int = 16
    ) -> None:
        super().__init__(shape, channels, expansion, group_width, factor=2.0)
        if not isinstance(latent, int) or latent < 1:
            raise ValueError(f"latent must be a whole number of at least 1, got {latent}")
        self.latent = latent
        self.first = nn.Linear(latent, channels * 16)
        self.last = nn.Conv2d(channels, shape[0], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map latent variables (N, latent) to images (N, C, side, side), without a bound."""
        return self.last(self.stages(self.first(x).unflatten(1, (-1, 4, 4))))


@final
class R3Critic(_Backbone):
    """Critic, the generator's mirror image: ends in a depthwise convolution over 4 x 4 pixels and a linear layer.

    Args:
        shape: Shape (C, side, side) of an image, the side 4, 8, 16 ...
        channels: Width of all stages.
        expansion: How many times as wide the block is inside; the paper has 2.
        group_width: Channels a group of the 3x3 convolution; the paper has 16.

    Raises:
        ValueError: If a size is not as above.

    Example:
        >>> R3Critic((1, 8, 8), channels=16)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self, shape: tuple[int, int, int], channels: int = 32, expansion: int = 2, group_width: int = 16
    ) -> None:
        super().__init__(shape, channels, expansion, group_width, factor=0.5)
        self.first = nn.Conv2d(shape[0], channels, 1)
        self.pool = nn.Conv2d(channels, channels, 4, groups=channels, bias=False)
        self.last = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, side, side) to scores (N, 1)."""
        return self.last(self.pool(self.stages(self.first(x))).flatten(1))
