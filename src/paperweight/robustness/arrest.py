"""ARREST: a network trained without attacks is fine-tuned on attacked images and held to what it saw in natural ones.

Adversarial training changes how a network represents natural images, and costs accuracy on them. So the representation
of an attacked image is drawn to that which a frozen copy of the network as it was has of the natural image, by the
angle between the two; and where that of the natural image itself has drifted too far, the image is learned with noise
in place of the attack.
Cost: adversarial training, a pass of the frozen copy forward for the loss, and for the replay one of both networks.

`NoisyReplay` is called like the attacks of `paperweight.attacks`, and `RepresentationGuidedLoss` like the losses of
`paperweight.loops.fit_robust`, which trains with both; they go into any loop of adversarial training.

Source:
    S. Suzuki, S. Yamaguchi, S. Takeda, S. Kanai, N. Makishima, A. Ando, R. Masumura, "Adversarial Finetuning with
    Latent Representation Constraint to Mitigate Accuracy-Robustness Tradeoff", ICCV, 2023,
    https://arxiv.org/abs/2308.16454: fine-tuning, the guiding term and the replay, as its abstract describes them.

Deviations:
    - Only the abstract was at hand, and no code of the authors was found. That the guiding term compares attacked with
      natural images by their angle, weighted by a number, is told by later work. Ours are the rule of the replay, which
      image for image looks at the angle that the representation of the natural image has turned by, its noise, uniform
      in the ball of the attack, and the unit of angles, half a turn.
    - Weight and threshold have no defaults of the paper's; those here are of our own trials.
"""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.attacks import ProjectedGradient, random_point
from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = ["NoisyReplay", "RepresentationGuidedLoss", "angular_distance", "representations"]

PAPER = Paper(
    title="Adversarial Finetuning with Latent Representation Constraint to Mitigate Accuracy-Robustness Tradeoff",
    authors=(
        "Satoshi Suzuki",
        "Shin'ya Yamaguchi",
        "Shoichiro Takeda",
        "Sekitoshi Kanai",
        "Naoki Makishima",
        "Atsushi Ando",
        "Ryo Masumura",
    ),
    year=2023,
    url="https://arxiv.org/abs/2308.16454",
    provides={
        "NoisyReplay": "attack",
        "RepresentationGuidedLoss": "loss",
        "angular_distance": "function",
        "representations": "function",
    },
    null={"lam": 0.0},
    claim="Fine-tuning on attacks that keeps representations is more accurate for as much robustness.",
)


def angular_distance(first: Tensor, second: Tensor) -> Tensor:
    """Give the angle between vectors as a share of half a turn, without loss of precision at 0 or at 1.

    Args:
        first: Vectors, (N, ...); all dimensions but the first are one.
        second: Vectors of the same shape.

    Returns:
        Distances within 0 and 1, (N,); one half where a vector is 0. The gradient is 0 where the vectors agree.

    Raises:
        ValueError: If the shapes differ, or have no dimension beside the first.

    Example:
        >>> angular_distance(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [2.0, 2.0]]))
        tensor([0.5000, 0.0000])
    """
    if first.shape != second.shape or first.ndim < 2:
        found = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"first and second must have one shape, (N, ...), got {found}; give networks of one structure")
    one, other = (
        F.normalize(vectors.flatten(1), dim=1, eps=torch.finfo(vectors.dtype).tiny) for vectors in (first, second)
    )
    apart, along = (torch.linalg.vector_norm(vectors, dim=1) for vectors in (one - other, one + other))
    angles = 2 / math.pi * torch.atan2(apart, along)
    return torch.where((apart == 0) & (along == 0), torch.full_like(angles, 0.5), angles)


def representations(model: nn.Module, inputs: Tensor, head: str | None = None) -> tuple[Tensor, Tensor]:
    """Give what a network makes of inputs, and what its last layer was given, by one forward pass.

    Args:
        model: The network, used in the mode it is in.
        inputs: Inputs, (N, ...).
        head: Name of the layer whose input is the representation; None for the last linear layer.

    Returns:
        Outputs, (N, classes), and representations, (N, ...).

    Raises:
        ValueError: If there is no such layer, or it was not called once.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(2, 3))
        >>> representations(model, torch.tensor([[[1.0, -1.0]]]))[1]
        tensor([[1., 0.]])
    """
    layers = {name: part for name, part in model.named_modules() if name == head or isinstance(part, nn.Linear)}
    name = next(reversed(layers), None) if head is None else head
    if name is None or name not in layers or head == "":
        raise ValueError(f"head must name a layer of the model, or this must have a linear layer, got {head!r}")
    seen = list[Tensor]()
    hook = layers[name].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        outputs = model(inputs)
    finally:
        hook.remove()
    if len(seen) != 1:
        raise ValueError(f"head must be a layer that is called once in a pass, got {name!r}, called {len(seen)} times")
    return outputs, seen[0]


def _as_taught(teacher: nn.Module, inputs: Tensor, head: str | None) -> Tensor:
    """Give the representations of a frozen network in eval mode, in the format of the inputs."""
    own = next(teacher.parameters(), inputs)
    with evaluating(teacher), torch.no_grad():
        return representations(teacher, inputs.to(own.dtype), head)[1].to(inputs.dtype)


@final
class NoisyReplay:
    """Attacks images, but gives those whose representation has drifted too far noise of the same size instead.

    The model is in eval mode meanwhile. The attack changes all images of a batch first, so that at an infinite
    threshold it is the attack itself, bit for bit.

    Args:
        teacher: The network as it was trained without attacks; it stays as it is.
        attack: What changes the images otherwise; its radius, norm and bounds are those of the noise.
        threshold: Distance in half turns between the representations that model and teacher have of an image, at least
            0, beyond which it is replayed with noise; ``math.inf`` for never. To be tuned.
        head: Name of the layer whose input is the representation; None for the last linear layer.

    Raises:
        ValueError: If the threshold is outside its range, or the networks do not fit each other.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> attack = ProjectedGradient(radius=0.25, starts=0, keep_going=True)
        >>> NoisyReplay(model, attack)(model, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
        tensor([[0.5000, 0.7500]])
    """

    def __init__(
        self, teacher: nn.Module, attack: ProjectedGradient, threshold: float = 0.15, head: str | None = None
    ) -> None:
        if isinstance(threshold, bool) or not threshold >= 0:
            raise ValueError(f"threshold must be at least 0, or infinite, got {threshold}")
        self.teacher, self.attack, self.threshold, self.head = teacher, attack, threshold, head

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Give the changed images.

        Args:
            model: Maps images to logits (N, classes); of the teacher's structure.
            inputs: Images within the bounds of the attack, (N, ...).
            labels: Labels that the attack takes, (N, ...).
            generator: Source of the attack's starts and of the noise; the global random state by default.

        Returns:
            Changed images, (N, ...).
        """
        attacked = self.attack(model, inputs, labels, generator=generator)
        if self.threshold == math.inf or not len(inputs):
            return attacked
        given = inputs.detach()
        noisy = random_point(given, self.attack.radius, self.attack.norm, self.attack.bounds, generator)
        return torch.where(self.drifted(model, given).view(-1, *[1] * (given.ndim - 1)), noisy, attacked)

    def drifted(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Tell of which images the representation is beyond the threshold, bool, (N,)."""
        with evaluating(model), torch.no_grad():
            now = representations(model, inputs, self.head)[1]
        return angular_distance(_as_taught(self.teacher, inputs, self.head), now) > self.threshold


@final
class RepresentationGuidedLoss:
    """The mean cross-entropy of attacked images, plus ``lam`` times the distance to the teacher's representations.

    The distance is the angle, as a share of half a turn, between the model's representation of the attacked image and
    the teacher's of the natural one. At ``lam=0`` it is the loss of adversarial training, bit for bit.

    Args:
        teacher: The network as it was trained without attacks; it stays as it is.
        lam: Weight of the mean distance, at least 0; to be tuned.
        head: Name of the layer whose input is the representation; None for the last linear layer.

    Raises:
        ValueError: If the weight is outside its range, or the networks do not fit each other.

    Example:
        >>> model, label = nn.Linear(2, 2, bias=False), torch.tensor([0])
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> image, attacked = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> loss = RepresentationGuidedLoss(model, lam=2.0)
        >>> [round(loss(model, image, of, label).item(), 4) for of in (image, attacked)]
        [0.3133, 2.3133]
    """

    def __init__(self, teacher: nn.Module, lam: float = 1.0, head: str | None = None) -> None:
        if isinstance(lam, bool) or not 0 <= lam < math.inf:
            raise ValueError(f"lam must be at least 0 and finite, got {lam}")
        self.teacher, self.lam, self.head = teacher, lam, head

    def __call__(self, model: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a batch; natural images pass the teacher alone.

        Args:
            model: Maps images to logits (N, classes); of the teacher's structure.
            images: Natural images, (N, ...), N at least 1.
            attacked: What an attack made of them, same shape.
            labels: Class numbers, int64, (N,), or shares of classes, (N, classes).

        Returns:
            A scalar.
        """
        if images.shape != attacked.shape:
            found = f"{tuple(images.shape)}, got {tuple(attacked.shape)}"
            raise ValueError(f"attacked must have the shape of images, {found}")
        if self.lam == 0:
            return F.cross_entropy(model(attacked), labels)
        logits, now = representations(model, attacked, self.head)
        taught = _as_taught(self.teacher, images, self.head)
        return F.cross_entropy(logits, labels) + self.lam * angular_distance(taught.to(now), now).mean()
