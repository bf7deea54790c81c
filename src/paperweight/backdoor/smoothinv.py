"""SmoothInv: recover the trigger of a backdoor from a single clean image, by descent on a smoothed classifier.

The gradient of a plain classifier leads to noise that fools it on this image alone. Averaged over noisy copies of the
image, the classifier is robust, and its gradient towards the backdoor's target class paints the trigger.
Cost: for each image and step a pass forward and backward of as many noisy copies as are drawn, the paper's 40.

Source:
    M. Sun, J. Z. Kolter, "Single Image Backdoor Inversion via Robust Smoothed Classifiers", CVPR 2023,
    https://arxiv.org/abs/2303.00215, and the authors' code. Implemented: the smoothed classifier, the descent on it,
    and the search for the target class.

Deviations:
    - The denoiser that the paper also puts between noise and classifier is not here: a model that begins with one, such
      as ``nn.Sequential(denoiser, model)``, is inverted as any other.
    - After each step the nearest point of ball and range is taken; the authors go into the range, and then shrink the
      change into the ball. Their logarithm of a probability below 1e-20 is constant, and here it is not.
    - The authors take of three sigmas the one whose trigger works best; here there is one, and the choice the caller's.
    - The target class is that whose recovered trigger works best on other images; the paper also looks at the images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.attacks import project
from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = ["Identification", "SmoothInv", "identify_target", "smoothed_log_probabilities"]

PAPER = Paper(
    title="Single Image Backdoor Inversion via Robust Smoothed Classifiers",
    authors=("Mingjie Sun", "J. Zico Kolter"),
    year=2023,
    url="https://arxiv.org/abs/2303.00215",
    provides={"SmoothInv": "attack", "identify_target": "experiment", "smoothed_log_probabilities": "function"},
    null={"eps": 0.0},
    claim="From one clean image descent on a smoothed classifier recovers triggers that work on other images, where "
    "descent on the classifier itself does not.",
)

_AT_ONCE = 2_048  # noisy copies a pass


def smoothed_log_probabilities(model: Callable[[Tensor], Tensor], images: Tensor, noise: Tensor) -> Tensor:
    """Compute the logarithm of the mean of the probabilities of noisy copies, log mean_i softmax(f(x + noise_i)).

    Args:
        model: Maps images to logits.
        images: Images, floating, (N, C, H, W).
        noise: What is added, with the standard deviation in it, (draws, N, C, H, W).

    Returns:
        Logarithms of probabilities, (N, classes).

    Raises:
        ValueError: If the noise does not fit the images.

    Example:
        >>> images, noise = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1)
        >>> smoothed_log_probabilities(nn.Flatten(), images, noise.expand(2, 1, 1, 1, 2)).exp()
        tensor([[0.2689, 0.7311]])
    """
    if noise.ndim != images.ndim + 1 or noise.shape[1:] != images.shape or not len(noise):
        raise ValueError(f"noise must have the shape (draws, *{tuple(images.shape)}), got {tuple(noise.shape)}")
    logits = model((images + noise).flatten(0, 1)).unflatten(0, noise.shape[:2])
    return logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(noise))


@final
class SmoothInv:
    """Changes each image, within a ball of norm 2, until the smoothed classifier sees it as its target.

    What was added, the result less the image, is the trigger recovered; `paperweight.poisoning.Additive` puts it on
    other images. At ``sigma=0`` it is projected gradient descent on the classifier itself, with normalised gradients.
    The model is in eval mode meanwhile.

    Args:
        eps: Largest change of an image in norm 2, at least 0; 5 and 10 in the paper for images of 3 x 224 x 224. At 0
            the images are returned.
        sigma: Standard deviation of the noise, in units of the images, at least 0; 0.12 to 0.5 in the paper.
        draws: Noisy copies of an image, drawn anew in every step, at least 1.
        steps: Number of steps, at least 1; 400 in the paper.
        step: Length of a step, above 0, by which the momentum of gradients of norm 1 is multiplied, half as long in
            the last quarter of the steps; by default a twentieth of ``eps``, the paper's.
        momentum: Share of the last step that goes into the next, at least 0 and below 1.

    Raises:
        ValueError: If a number is outside its range, or images are.

    Example:
        The second pixel decides; a change of 0.5 may go there.

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[0.0, -9.0], [0.0, 9.0]]))
        >>> image, generator = torch.full((1, 1, 1, 2), 0.25), torch.Generator().manual_seed(0)
        >>> SmoothInv(eps=0.5, steps=60)(model, image, torch.tensor([1]), generator=generator)
        tensor([[[[0.2500, 0.7500]]]])
    """

    def __init__(
        self,
        eps: float = 10.0,
        sigma: float = 0.25,
        draws: int = 40,
        steps: int = 400,
        step: float | None = None,
        momentum: float = 0.9,
    ) -> None:
        for name, value in (("eps", eps), ("sigma", sigma)):
            _require(0 <= value < math.inf, name, "finite and at least 0", value)
        for name, value in (("draws", draws), ("steps", steps)):
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            _require(whole, name, "a whole number of at least 1", value)
        _require(step is None or 0 < step < math.inf, "step", "finite and above 0", step)
        _require(0 <= momentum < 1, "momentum", "at least 0 and below 1", momentum)
        self.eps, self.sigma, self.draws = eps, sigma, draws
        self.steps, self.step, self.momentum = steps, step, momentum

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """Recover a trigger from each image.

        Args:
            model: Maps images to logits.
            inputs: Clean images in [0, 1], (N, C, H, W).
            labels: The classes to be seen, int64, (N,).
            generator: Source of the noise.

        Returns:
            The images with what was recovered on them, (N, C, H, W).
        """
        _check_images("inputs", inputs)
        if labels.shape != inputs.shape[:1] or labels.is_floating_point():
            raise ValueError(f"labels must be class numbers, one of each of {len(inputs)} inputs, got {labels}")
        inputs = inputs.detach()
        if self.eps == 0 or not len(inputs):
            return inputs.clone()
        at_once = max(1, _AT_ONCE // self._copies)
        with evaluating(model), torch.enable_grad():
            parts = zip(inputs.split(at_once), labels.split(at_once), strict=True)
            return torch.cat([self._descend(model, part, targets, generator) for part, targets in parts])

    @property
    def _copies(self) -> int:
        return self.draws if self.sigma else 1

    def _descend(self, model: nn.Module, images: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        changed, velocity = images, torch.zeros_like(images)
        length = self.eps / 20 if self.step is None else self.step
        shape = (self._copies, *images.shape)
        for number in range(self.steps):
            noise = torch.randn(shape, generator=generator, device=generator.device, dtype=images.dtype)
            here = changed.clone().requires_grad_()
            logs = smoothed_log_probabilities(model, here, self.sigma * noise.to(images.device))
            (gradient,) = torch.autograd.grad(-logs.gather(1, targets[:, None]).sum(), here)
            velocity = self.momentum * velocity + F.normalize(gradient.flatten(1), dim=1).view_as(gradient)
            moved = changed - length * (0.5 if 4 * number >= 3 * self.steps else 1.0) * velocity
            changed = project(moved, images, self.eps, 2.0)
        return changed


@final
@dataclass(frozen=True, eq=False)
class Identification:
    """Which class a backdoor leads to.

    Attributes:
        target: The class whose trigger works best.
        rates: Share of other images that the trigger recovered for a class sends to it, float64, (classes,).
        triggers: What was recovered for each class, to be added, (classes, C, H, W).
    """

    target: int
    rates: Tensor
    triggers: Tensor


def identify_target(
    model: nn.Module,
    image: Tensor,
    others: Tensor,
    *,
    inversion: Callable[..., Tensor] | None = None,
    generator: torch.Generator,
) -> Identification:
    """Recover a trigger for every class from one image, and see which works on other images.

    Args:
        model: Maps images to logits.
        image: A clean image in [0, 1], (C, H, W).
        others: Other clean images, (N, C, H, W); those that the model sees as a class already do not count for it.
        inversion: Recovers the triggers, called as `SmoothInv` is, which with its defaults is the default.
        generator: Source of the noise.

    Returns:
        The class, and what was found for each; a rate is 0 where all other images are seen as the class already.

    Raises:
        ValueError: If images are not as above.

    Example:
        The first two pixels are the classes'; the third sends everything to class 1.

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 30.0]]))
        >>> images, generator = torch.eye(2, 3).view(2, 1, 1, 3), torch.Generator().manual_seed(0)
        >>> found = identify_target(model, images[0], images, inversion=SmoothInv(eps=0.3), generator=generator)
        >>> found.target, found.rates
        (1, tensor([0., 1.], dtype=torch.float64))
    """
    _check_images("image", image[None])
    _check_images("others", others)
    if others.shape[1:] != image.shape or not len(others):
        raise ValueError(f"others must have the shape (N, *{tuple(image.shape)}), got {tuple(others.shape)}")
    with evaluating(model), torch.no_grad():
        seen = model(others).argmax(dim=1)
        classes = model(image[None]).shape[1]
    copies, targets = image.expand(classes, *image.shape), torch.arange(classes, device=image.device)
    changed = (inversion or SmoothInv())(model, copies, targets, generator=generator)
    triggers = changed - image
    rates = torch.zeros(classes, dtype=torch.float64)
    with evaluating(model), torch.no_grad():
        for target, trigger in enumerate(triggers):
            rest = others[seen != target]
            if len(rest):
                hits = model((rest + trigger).clamp(0, 1)).argmax(dim=1) == target
                rates[target] = hits.double().mean().item()
    return Identification(int(rates.argmax()), rates, triggers)


def _check_images(name: str, images: Tensor) -> None:
    shaped = images.ndim == 4 and images.is_floating_point()
    _require(shaped, name, "floating, of shape (N, C, H, W), without N a single one", f"{tuple(images.shape)}")
    if len(images):
        within = bool(((images >= 0) & (images <= 1)).all())
        found = f"{images.min():g} to {images.max():g}; put a normalisation into model"
        _require(within, name, "within 0 and 1", found)


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value}")
