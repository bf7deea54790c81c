"""Feature generating networks (f-CLSWGAN): features of classes without a single image, made from their attributes.

A generator learns from seen classes to turn noise and a class's attributes into features of a network; a Wasserstein
critic with a gradient penalty judges them, and a classifier of seen classes keeps them apart. For unseen classes it
then makes any number of features, and any classifier can be trained on these and on the real ones of seen classes.
Cost: two small networks, with some critic updates and one pass through the classifier for each of the generator's.

Source:
    Y. Xian, T. Lorenz, B. Schiele, Z. Akata, "Feature Generating Networks for Zero-Shot Learning", CVPR, 2018,
    https://arxiv.org/abs/1712.00981. Implemented: both networks, the losses of f-WGAN and f-CLSWGAN, features of unseen
    classes, and the accuracies of generalised zero-shot learning. The authors' code was not found.

Deviations:
    - The loops are the user's; the paper takes five critic updates for one of the generator.
    - The classifier is any module that is given, and gets no gradients; the paper has a linear one, trained on real
      features of seen classes.
"""

import math
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = [
    "FeatureCritic",
    "FeatureGenerator",
    "GeneralisedAccuracy",
    "feature_critic_loss",
    "feature_generator_loss",
    "generalised_accuracy",
    "synthesise_features",
]

PAPER = Paper(
    title="Feature Generating Networks for Zero-Shot Learning",
    authors=("Yongqin Xian", "Tobias Lorenz", "Bernt Schiele", "Zeynep Akata"),
    year=2017,
    url="https://arxiv.org/abs/1712.00981",
    provides={
        "FeatureGenerator": "network",
        "FeatureCritic": "network",
        "feature_critic_loss": "function",
        "feature_generator_loss": "function",
        "synthesise_features": "function",
        "generalised_accuracy": "metric",
    },
    null={"beta": 0.0},
    claim="Classifiers trained on generated features of unseen classes are better than methods that generate none.",
)


def _check_whole(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Make the paper's network of one hidden layer, its weights normal with standard deviation 0.02, its biases 0."""
    layers = nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, outputs))
    for name, parameter in layers.named_parameters():
        nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.normal_(parameter, std=0.02)
    return layers


@final
class FeatureGenerator(nn.Module):
    """Maps noise and attributes to features of at least 0: one hidden layer with leaky ReLU, and a ReLU at the end.

    Args:
        attributes: Numbers that describe a class, at least 1.
        noise: Dimension of the noise, at least 1; the paper has as many as attributes.
        features: Dimension of the features, at least 1.
        hidden: Hidden units, at least 1; the paper has 4096.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> model = FeatureGenerator(attributes=5, noise=5, features=8, hidden=16)
        >>> model(torch.randn(3, 5), torch.ones(3, 5)).shape
        torch.Size([3, 8])
    """

    def __init__(self, attributes: int, noise: int, features: int, hidden: int = 4096) -> None:
        for name, value in (("attributes", attributes), ("noise", noise), ("features", features), ("hidden", hidden)):
            _check_whole(name, value)
        super().__init__()
        self.attributes, self.noise, self.features, self.hidden = attributes, noise, features, hidden
        self.layers = _two_layers(noise + attributes, hidden, features)

    def forward(self, latent: Tensor, attributes: Tensor) -> Tensor:
        """Compute features, (N, features).

        Args:
            latent: Standard normal noise, (N, noise).
            attributes: Attributes of the class of each, (N, attributes).
        """
        return F.relu(self.layers(torch.cat([latent, attributes], dim=1)))


@final
class FeatureCritic(nn.Module):
    """Maps features and attributes to a score without a bound: one hidden layer with leaky ReLU.

    Args:
        attributes: Numbers that describe a class, at least 1.
        features: Dimension of the features, at least 1.
        hidden: Hidden units, at least 1; the paper has 4096.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> FeatureCritic(attributes=5, features=8, hidden=16)(torch.ones(3, 8), torch.ones(3, 5)).shape
        torch.Size([3])
    """

    def __init__(self, attributes: int, features: int, hidden: int = 4096) -> None:
        for name, value in (("attributes", attributes), ("features", features), ("hidden", hidden)):
            _check_whole(name, value)
        super().__init__()
        self.attributes, self.features, self.hidden = attributes, features, hidden
        self.layers = _two_layers(features + attributes, hidden, 1)

    def forward(self, features: Tensor, attributes: Tensor) -> Tensor:
        """Compute the scores, (N,), of features, (N, features), with the attributes of their classes."""
        return self.layers(torch.cat([features, attributes], dim=1))[:, 0]


def feature_critic_loss(
    critic: nn.Module, real: Tensor, fake: Tensor, attributes: Tensor, lam: float = 10.0, *, generator: torch.Generator
) -> Tensor:
    """Compute what the critic minimises: E D(fake, c) - E D(real, c) + lam E (|gradient of D| - 1)^2.

    The gradient is that by features, at a point drawn evenly from the line between a real and a generated feature of
    the same class. Gradients flow to the critic's parameters alone.

    Args:
        critic: Maps features (N, d) and attributes (N, k) to scores, (N,); twice differentiable.
        real: Features of images, floating, (N, d), N at least 1.
        fake: Generated features of the same classes, (N, d).
        attributes: Attributes of these classes, c, (N, k).
        lam: Weight of the penalty, at least 0; the paper has 10.
        generator: Draws the place on each line.

    Returns:
        A scalar.

    Raises:
        ValueError: If shapes do not fit or ``lam`` is outside its range.

    Example:
        >>> critic = lambda features, attributes: 3 * features[:, 0]
        >>> draw = torch.Generator().manual_seed(0)
        >>> feature_critic_loss(critic, torch.ones(4, 2), torch.zeros(4, 2), torch.ones(4, 1), generator=draw).item()
        37.0
    """
    if not 0 <= lam < math.inf:
        raise ValueError(f"lam must be finite and at least 0, got {lam!r}")
    if real.ndim != 2 or not real.numel() or fake.shape != real.shape:
        raise ValueError(
            f"fake must have the shape of real, (N, d) without a 0, got {tuple(fake.shape)} and {tuple(real.shape)}"
        )
    _check_attributes(attributes, len(real))
    real, fake, attributes = real.detach(), fake.detach(), attributes.detach()
    share = torch.rand(len(real), 1, generator=generator, device=generator.device, dtype=real.dtype).to(real.device)
    with torch.enable_grad():
        between = torch.lerp(fake, real, share).requires_grad_()
        (slopes,) = torch.autograd.grad(critic(between, attributes).sum(), between, create_graph=True)
        penalty = (torch.linalg.vector_norm(slopes, dim=1) - 1).square().mean()
        return critic(fake, attributes).mean() - critic(real, attributes).mean() + lam * penalty


def feature_generator_loss(
    critic: nn.Module, classifier: nn.Module, fake: Tensor, attributes: Tensor, labels: Tensor, beta: float = 0.01
) -> Tensor:
    """Compute what the generator minimises: -E D(fake, c) + beta times the cross-entropy of a fixed classifier.

    With ``beta=0`` it is the loss of f-WGAN, bit for bit. Gradients flow through the classifier, not to its parameters.

    Args:
        critic: Maps features (N, d) and attributes (N, k) to scores, (N,).
        classifier: Maps features to logits of seen classes, (N, classes); as it is, in its mode.
        fake: Generated features, (N, d), N at least 1.
        attributes: Attributes of their classes, c, (N, k).
        labels: Their class numbers among the seen ones, int64, (N,).
        beta: Weight of the cross-entropy, at least 0; the paper has 0.01.

    Returns:
        A scalar.

    Raises:
        ValueError: If shapes do not fit or ``beta`` is outside its range.

    Example:
        >>> critic, fake = (lambda features, attributes: features.sum(dim=1)), torch.eye(2)
        >>> labels = torch.tensor([0, 1])
        >>> loss = feature_generator_loss(critic, nn.Identity(), fake, torch.ones(2, 1), labels, beta=1.0)
        >>> round(loss.item(), 4)
        -0.6867
    """
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must be finite and at least 0, got {beta!r}")
    if fake.ndim != 2 or not fake.numel():
        raise ValueError(f"fake must have shape (N, d) without a 0, got {tuple(fake.shape)}")
    _check_attributes(attributes, len(fake))
    if labels.dtype != torch.int64 or labels.shape != fake.shape[:1]:
        raise ValueError(f"labels must be int64 of shape ({len(fake)},), got {labels.dtype} {tuple(labels.shape)}")
    loss = -critic(fake, attributes).mean()
    if not beta:
        return loss
    fixed = {name: parameter.detach() for name, parameter in classifier.named_parameters()}
    return loss + beta * F.cross_entropy(torch.func.functional_call(classifier, fixed, (fake,)), labels)


@torch.no_grad()
def synthesise_features(
    model: FeatureGenerator, attributes: Tensor, count: int = 300, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Make features of classes from their attributes.

    Args:
        model: The generator.
        attributes: Attributes of each class, floating, (classes, k).
        count: Features of each class, at least 1; the paper has about 300.
        generator: Source of the noise.

    Returns:
        Features, (classes * count, d), class by class, and the row of ``attributes`` that each is of, int64.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> model, draw = FeatureGenerator(2, 3, 4, hidden=5), torch.Generator().manual_seed(0)
        >>> features, labels = synthesise_features(model, torch.eye(2), count=3, generator=draw)
        >>> features.shape, labels.tolist()
        (torch.Size([6, 4]), [0, 0, 0, 1, 1, 1])
    """
    _check_whole("count", count)
    _check_attributes(attributes, len(attributes))
    labels = torch.arange(len(attributes), device=attributes.device).repeat_interleave(count)
    size = len(labels), model.noise
    latent = torch.randn(size, generator=generator, device=generator.device, dtype=attributes.dtype)
    return model(latent.to(attributes.device), attributes[labels]), labels


class GeneralisedAccuracy(NamedTuple):
    """Mean accuracy a class of seen classes and of unseen ones, and the harmonic mean of the two."""

    seen: float
    unseen: float
    harmonic: float


def generalised_accuracy(predictions: Tensor, labels: Tensor, unseen: Tensor) -> GeneralisedAccuracy:
    """Compute how well seen and unseen classes are told, where all of them are choices.

    Args:
        predictions: Predicted classes, int64, (N,).
        labels: True classes, int64, (N,); some seen, some not.
        unseen: Which classes were not seen, int64, (U,).

    Returns:
        The accuracies, from 0 to 1, each a mean over the classes among the labels; 2 s u / (s + u) is 0 if either is.

    Raises:
        ValueError: If shapes do not fit, or no label is of a seen class or none of an unseen one.

    Example:
        >>> generalised_accuracy(torch.tensor([0, 0, 2, 0]), torch.tensor([0, 1, 2, 2]), torch.tensor([2]))
        GeneralisedAccuracy(seen=0.5, unseen=0.5, harmonic=0.5)
    """
    for name, given in (("predictions", predictions), ("labels", labels), ("unseen", unseen)):
        if given.dtype != torch.int64 or given.ndim != 1:
            raise ValueError(f"{name} must be int64 and one-dimensional, got {given.dtype} {tuple(given.shape)}")
    if len(predictions) != len(labels):
        raise ValueError(f"predictions must be {len(labels)}, as labels are, got {len(predictions)}")
    new = torch.isin(labels, unseen)
    if new.all() or not new.any():
        raise ValueError(f"labels must be of seen and of unseen classes, got {int(new.sum())} of {len(new)} unseen")
    right = (predictions == labels).double()
    seen, told = (
        torch.stack([right[labels == name].mean() for name in labels[chosen].unique()]).mean().item()
        for chosen in (~new, new)
    )
    return GeneralisedAccuracy(seen, told, 2 * seen * told / (seen + told) if seen + told else 0.0)


def _check_attributes(attributes: Tensor, count: int) -> None:
    if attributes.ndim != 2 or not attributes.numel() or len(attributes) != count or not attributes.is_floating_point():
        got = f"{attributes.dtype} {tuple(attributes.shape)}"
        raise ValueError(f"attributes must be floating, of shape ({count}, k) without a 0, got {got}")
