"""What two attacks leave of a network: its accuracy under FGSM, and how near Carlini-Wagner finds what fools it.

Under FGSM as it stands large logits mask gradients. The accuracy that is left with gradients unmasked is that of the
images which the network tells rightly whatever its logits are divided by before the attack, by 1, 20 or 100. Under
Carlini-Wagner an image is left within a distance where the nearest image that fools the network, in norm 2, is further
away, or where none is found.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor, nn

from paperweight.loops import Evaluation, evaluate_classifier
from paperweight.robustness.defensive_distillation import FGSM, CarliniWagnerL2
from paperweight.studies import Trained

__all__ = ["UnderAttack", "under_attack"]

_DIVISORS = (20.0, 100.0)
_WITHIN = 0.6
_SIZES = (0.0, 0.05, 0.1, 0.2, 0.3)
_DISTANCES = (0.0, 0.3, 0.6, 1.0, 2.0)


@final
@dataclass(frozen=True, eq=False)
class UnderAttack:
    """What is left of a network.

    Attributes:
        tested: Its evaluation under FGSM; right is what is told rightly with gradients unmasked.
        metrics: ``fgsm`` and ``fgsm_unmasked``, accuracies; ``carlini_wagner``, that within a distance of 0.6, and
            ``distance``, the mean of what the attack needs where it succeeds; ``accuracy`` without attack.
        arguments: How many images were searched for the nearest, in which share none was found, and the share of
            pixels, in images that were right, that FGSM leaves where they are.
        curves: The accuracies by the size of the attacks.
        images: Some images, as given and attacked.
    """

    tested: Evaluation
    metrics: Mapping[str, float]
    arguments: Mapping[str, object]
    curves: Mapping[str, list[tuple[float, float]]]
    images: Mapping[str, Tensor]


def under_attack(trained: Trained, fgsm: FGSM, carlini_wagner: CarliniWagnerL2, *, searched: int) -> UnderAttack:
    """Attack a network on its test images.

    Args:
        trained: The network.
        fgsm: Attacks all of the images.
        carlini_wagner: Attacks the first of them.
        searched: How many these are.
    """
    model, images, labels = trained.model.eval(), trained.data.test.images, trained.data.test.labels
    fooled = fgsm(model, images, labels)
    masked = evaluate_classifier(model, fooled, labels)
    withstood = masked.correct
    for divisor in _DIVISORS:
        attacked = fgsm(nn.Sequential(model, _Divided(divisor)), images, labels)
        withstood = withstood & evaluate_classifier(model, attacked, labels).correct
    few, of = images[:searched], labels[:searched]
    nearest = carlini_wagner(model, few, of)
    distances = (nearest - few).flatten(1).norm(dim=1)
    missed = evaluate_classifier(model, nearest, of).correct
    fallen = trained.tested.correct[:searched] & ~missed

    def left_within(radius: float) -> float:
        return (missed | (distances > radius)).double().mean().item()

    return UnderAttack(
        tested=replace(masked, correct=withstood),
        metrics={
            "fgsm": masked.accuracy,
            "fgsm_unmasked": withstood.double().mean().item(),
            "carlini_wagner": left_within(_WITHIN),
            "distance": (distances * fallen).sum().item() / max(int(fallen.sum()), 1),
            "accuracy": trained.tested.accuracy,
        },
        arguments={
            "images_under_carlini_wagner": len(nearest),
            "carlini_wagner_fails": missed.double().mean().item(),
            "pixels_without_gradient": (fooled == images)[trained.tested.correct].double().mean().item(),
        },
        curves={
            "test accuracy under FGSM, by size of change": [
                (eps, evaluate_classifier(model, FGSM(eps)(model, images, labels), labels).accuracy) for eps in _SIZES
            ],
            "test accuracy under Carlini-Wagner, by distance": [(radius, left_within(radius)) for radius in _DISTANCES],
        },
        images={"given": images[:16], "under FGSM": fooled[:16], "under Carlini-Wagner": nearest[:16]},
    )


@final
class _Divided(nn.Module):
    """Divides logits by a number."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, logits: Tensor) -> Tensor:
        return logits / self.divisor
