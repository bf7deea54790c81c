"""JointVAE: an autoencoder that learns continuous and discrete factors of images at once, without labels.

A latent code is made of Gaussian variables and of one-hot ones, which Gumbel-softmax samples stand for in training. A
variational autoencoder may put all into the Gaussian ones. Here the divergence of either kind from its prior is held at
a capacity of its own, which grows from 0, so that the discrete ones come to stand for kinds of things, such as digits.
Cost: that of a variational autoencoder; a softmax for each discrete variable.

Source:
    E. Dupont, "Learning Disentangled Joint Continuous and Discrete Representations", NeurIPS, 2018,
    https://arxiv.org/abs/1804.00104. Implemented: model, Gumbel-softmax samples, divergences, the loss with two growing
    capacities, traversals. Details were compared with the author's code, https://github.com/Schlumberger/joint-vae.

Deviations:
    - Networks are the caller's: the encoder gives all parameters of the latents at once, the decoder logits of pixels.
    - The author's code adds up the cross-entropy over height and width but takes the mean over channels, and divides
      the whole loss by height times width, which Adam hardly notices. Here all is added up, and nothing is divided.
    - Logarithms of probabilities come from logits; the author's code adds 1e-12 inside logarithms.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import evaluating
from paperweight.representation._vae import check_number, check_whole, gaussian_kl, gaussian_sample, pixel_loss

__all__ = ["JointVAE", "Reconstruction", "discrete_kl", "gumbel_softmax", "joint_vae_loss", "traverse"]

PAPER = Paper(
    title="Learning Disentangled Joint Continuous and Discrete Representations",
    authors=("Emilien Dupont",),
    year=2018,
    url="https://arxiv.org/abs/1804.00104",
    provides={
        "JointVAE": "network",
        "discrete_kl": "function",
        "gumbel_softmax": "function",
        "joint_vae_loss": "function",
        "traverse": "function",
    },
    null={"gamma": 1.0, "continuous_capacity": 0.0, "discrete_capacity": 0.0},
    claim="With a capacity of their own, discrete latents come to stand for classes, which no label has named.",
)


class Reconstruction(NamedTuple):
    """What `JointVAE` gives.

    Attributes:
        pixels: Logits of the pixels, (N, ...).
        mean: Means of the continuous latents, (N, continuous).
        log_variance: Logarithms of their variances, (N, continuous).
        classes: Logits of each discrete latent, (N, K).
    """

    pixels: Tensor
    mean: Tensor
    log_variance: Tensor
    classes: tuple[Tensor, ...]


def gumbel_softmax(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw softmax((log q + g) / temperature), with q = softmax(logits) and Gumbel noise g, in place of a one-hot draw.

    The lower the temperature, the nearer to one-hot; the largest entry is that of a class drawn from q at any.

    Args:
        logits: Logits, (N, K).
        temperature: Above 0; 0.67 in the paper.
        generator: Source of the noise; torch's global stream on the CPU where it is left out.

    Returns:
        Samples, (N, K), of rows that sum to 1.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0, 20.0]])
        >>> gumbel_softmax(logits, 0.1, torch.Generator().manual_seed(0)).round().tolist()
        [[0.0, 0.0, 1.0]]
    """
    _check_matrix(logits)
    check_number("temperature", temperature, above=True)
    device = "cpu" if generator is None else generator.device
    draws = torch.empty(logits.shape, dtype=torch.float32, device=device).exponential_(generator=generator)
    noise = -draws.clamp(min=torch.finfo(torch.float32).tiny).log()
    return ((logits.log_softmax(dim=1) + noise.to(logits)) / temperature).softmax(dim=1)


def discrete_kl(logits: Tensor) -> Tensor:
    """Compute KL(q || uniform) = log K + sum q log q of each sample, in nats, for q = softmax(logits).

    Args:
        logits: Logits of K classes, (N, K).

    Returns:
        Divergences, from 0 where all classes are as likely to log K where one is certain, (N,).

    Raises:
        ValueError: If ``logits`` is not as above.

    Example:
        >>> discrete_kl(torch.tensor([[0.0, 0.0], [0.0, 100.0]])).tolist()
        [0.0, 0.6931471824645996]
    """
    _check_matrix(logits)
    logs = logits.log_softmax(dim=1).clamp(min=torch.finfo(logits.dtype).min)
    return math.log(logits.shape[1]) + (logs.exp() * logs).sum(dim=1)


def joint_vae_loss(
    output: Reconstruction,
    images: Tensor,
    step: int,
    gamma: float = 30.0,
    continuous_capacity: float = 5.0,
    discrete_capacity: float = 5.0,
    steps: int = 25_000,
) -> Tensor:
    """Compute -log p(image) + gamma |KL of continuous latents - C_z| + gamma |KL of discrete ones - C_c|, in nats.

    Divergences are means over the batch. Capacities grow from 0 in proportion to the step. With both at 0 it is the
    loss of beta-VAE with gamma for beta, and with gamma = 1 that of the plain variational autoencoder.

    Args:
        output: What the model gives for the images.
        images: Images in [0, 1], (N, ...), N at least 1.
        step: Number of the update, at least 0; the author counts from 1.
        gamma: Weight of the distances from the capacities, finite and at least 0; 30 in the paper for MNIST.
        continuous_capacity: C_z once it is full, finite and at least 0; 5 for MNIST.
        discrete_capacity: C_c once it is full, likewise; never more is asked for than can be, the sum of all log K.
        steps: The update at which capacities are full, at least 1; 25,000 in the paper for MNIST.

    Returns:
        A scalar.

    Raises:
        ValueError: If an argument is outside its range, or there are not as many pixels as logits.

    Example:
        >>> output = Reconstruction(torch.zeros(2, 4), torch.zeros(2, 1), torch.zeros(2, 1), (torch.zeros(2, 3),))
        >>> round(joint_vae_loss(output, torch.ones(2, 4), step=0).item() / math.log(2), 4)
        4.0
    """
    if images.shape != output.pixels.shape or images.ndim < 2 or not images.numel():
        raise ValueError(f"images must be of shape {tuple(output.pixels.shape)} without a 0, got {tuple(images.shape)}")
    if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(f"images must be floating in [0, 1], got {images.dtype} with other values")
    check_whole("step", step, 0)
    check_whole("steps", steps, 1)
    given = {"gamma": gamma, "continuous_capacity": continuous_capacity, "discrete_capacity": discrete_capacity}
    for name, value in given.items():
        check_number(name, value)
    grown = min(1.0, step / steps)
    loss = pixel_loss(output.pixels, images).mean()
    if output.mean.shape[1]:
        divergence = gaussian_kl(output.mean, output.log_variance).sum(dim=1).mean()
        loss = loss + gamma * (divergence - grown * continuous_capacity).abs()
    if output.classes:
        most = sum(math.log(logits.shape[1]) for logits in output.classes)
        divergence = torch.stack([discrete_kl(logits) for logits in output.classes]).sum(dim=0).mean()
        loss = loss + gamma * (divergence - min(most, grown * discrete_capacity)).abs()
    return loss


@final
class JointVAE(nn.Module):
    """A variational autoencoder with continuous and discrete latents; without discrete ones it is the plain one.

    In training the code is a sample; in evaluation mode the means and, one-hot, the likeliest classes.

    Args:
        encoder: Maps images to (N, 2 * continuous + sum of discrete): means, log variances, logits of each in turn.
        decoder: Maps codes, (N, continuous + sum of discrete), to logits of pixels of the shape of the images.
        continuous: Number of Gaussian latents, at least 0; 10 in the paper for MNIST.
        discrete: Number of classes of each discrete latent, at least 2; one of 10 for MNIST. Empty for none.
        temperature: Of the Gumbel-softmax samples, above 0.
        generator: Source of the samples; torch's global stream on the CPU where it is left out.

    Raises:
        ValueError: If an argument is outside its range, or there is no latent at all.

    Example:
        >>> model = JointVAE(nn.Linear(16, 7), nn.Linear(5, 16), continuous=2, discrete=(3,)).eval()
        >>> output = model(torch.rand(8, 16))
        >>> output.pixels.shape, output.mean.shape, output.classes[0].shape
        (torch.Size([8, 16]), torch.Size([8, 2]), torch.Size([8, 3]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        continuous: int = 10,
        discrete: Sequence[int] = (10,),
        temperature: float = 0.67,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_whole("continuous", continuous, 0)
        if isinstance(discrete, int):
            raise ValueError(f"discrete must hold numbers of classes, got {discrete}; give ({discrete},)")
        for classes in discrete:
            check_whole("discrete", classes, 2)
        if not continuous and not discrete:
            raise ValueError("continuous must be at least 1 where discrete is empty, got 0")
        check_number("temperature", temperature, above=True)
        self.encoder = encoder
        self.decoder = decoder
        self.continuous = continuous
        self.discrete = tuple(discrete)
        self.temperature = temperature
        self.generator = generator

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Compute what the latents are drawn from.

        Args:
            images: Images, (N, ...).

        Returns:
            Means and logarithms of variances, (N, continuous), and the logits of each discrete latent, (N, K).

        Raises:
            ValueError: If the encoder gives another number of values.
        """
        given = self.encoder(images)
        sizes = (self.continuous, self.continuous, *self.discrete)
        if given.ndim != 2 or given.shape[1] != sum(sizes):
            raise ValueError(f"encoder must give (N, {sum(sizes)}), it gives {tuple(given.shape)}")
        mean, log_variance, *classes = given.split(sizes, dim=1)
        return mean, log_variance, tuple(classes)

    def forward(self, images: Tensor) -> Reconstruction:
        """Encode images and decode a sample of the code, in evaluation mode the likeliest one.

        Args:
            images: Images, (N, ...).

        Returns:
            Logits of pixels, and what `encode` gives, whose errors it raises.
        """
        mean, log_variance, classes = self.encode(images)
        if self.training:
            continuous = gaussian_sample(mean, log_variance, self.generator)
            discrete = [gumbel_softmax(logits, self.temperature, self.generator) for logits in classes]
        else:
            continuous = mean
            discrete = [F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits) for logits in classes]
        return Reconstruction(self.decoder(torch.cat([continuous, *discrete], dim=1)), mean, log_variance, classes)


def _check_matrix(logits: Tensor) -> None:
    if logits.ndim != 2 or not logits.numel() or not logits.is_floating_point():
        raise ValueError(f"logits must be floating, (N, K) without a 0, got {logits.dtype} of {tuple(logits.shape)}")


@torch.no_grad()
def traverse(model: JointVAE, images: Tensor, latent: int, values: Sequence[float] = (-2, -1, 0, 1, 2)) -> Tensor:
    """Decode images with one latent changed and all others as they are: what that latent stands for.

    Args:
        model: The autoencoder; its mode is left as it is.
        images: Images, (N, ...).
        latent: Which one: continuous ones from 0, then discrete ones.
        values: Those of a continuous latent, at least one; a discrete one takes each of its classes in turn.

    Returns:
        Pixels from 0 to 1, (N, values or classes, ...).

    Raises:
        ValueError: If there is no such latent, or no value.

    Example:
        >>> model = JointVAE(nn.Linear(16, 7), nn.Linear(5, 16), continuous=2, discrete=(3,))
        >>> traverse(model, torch.rand(8, 16), latent=2).shape
        torch.Size([8, 3, 16])
    """
    check_whole("latent", latent, 0)
    if latent >= model.continuous + len(model.discrete):
        raise ValueError(f"latent must be below {model.continuous + len(model.discrete)}, got {latent}")
    with evaluating(model):
        mean, _, classes = model.encode(images)
        means = (mean[:, [place]] for place in range(model.continuous))
        parts = [*means, *(F.one_hot(each.argmax(dim=1), each.shape[1]).to(mean) for each in classes)]
        continuous = latent < model.continuous
        taken = mean.new_tensor(list(values))[:, None] if continuous else torch.eye(parts[latent].shape[1]).to(mean)
        if not len(taken):
            raise ValueError("values must hold at least one number, got none")
        shown: list[Tensor] = []
        for value in taken:
            parts[latent] = value.expand(len(mean), -1)
            shown.append(model.decoder(torch.cat(parts, dim=1)).sigmoid())
    return torch.stack(shown, dim=1)
