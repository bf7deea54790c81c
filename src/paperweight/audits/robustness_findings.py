"""The findings of an audit of robustness: what a classifier is right on when images change, and signs of masking."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, final

from torch import Tensor

from paperweight.audits.erasure_findings import Rate
from paperweight.audits.robustness_proofs import Proofs
from paperweight.robustness.data_budget import EffectiveRobustness, RobustnessCurve, effective_robustness

__all__ = ["AttackedImages", "Reference", "RobustnessAudit", "rate"]

_SHARE = 0.01
_SPAN, _BEYOND = 0.25, 0.5  # in logits of accuracy


def rate(right: Tensor) -> Rate:
    """Count what is right.

    Args:
        right: Which are, bool, (N,), N at least 1.

    Example:
        >>> import torch
        >>> rate(torch.tensor([True, False])).share
        0.5
    """
    return Rate(int(right.sum()), len(right))


class Reference(NamedTuple):
    """A model that the audit trained: on so many images, with its accuracy, and its average over the shifts."""

    images: int
    accuracy: float
    average: float


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttackedImages:
    """What an attack left of the images that it was tried on.

    Attributes:
        name: Its name.
        words: What it does, in words.
        box: ``white`` if it has the model's gradients, ``black`` if it asks for its scores or has other models.
        held: Which images are right afterwards, bool, (N,).
    """

    name: str
    words: str
    box: Literal["white", "black"]
    held: Tensor


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RobustnessAudit:
    """What an audit found.

    Attributes:
        radius: Largest change of an image by an attack.
        norm: Its norm, 2 or infinity.
        classes: Names of the classes.
        labels: True classes of the test images, (N,).
        clean: Which test images are right, bool, (N,).
        shifted: By shift which of its images are right, bool.
        references: Models that were trained beside, on fewer and more images; empty where none learned.
        attacked: What each attack left of the first test images.
        by_radius: By radius which of these images are right after steps along the margin's gradient, bool; the largest
            radius is the whole range.
        single: Which are right after a single step of the whole radius.
        flat: Of which images the gradient of the margin is zero or not finite, bool.
        astray: Of which a random step does more to the margin than one along its gradient, both a tenth of the radius,
            bool; of none where the model is random.
        proofs: Which of these images are proved to stay right, at each of these radii but the whole range.
        random: Whether the model answers otherwise when it is asked again.
        distance: Median distance, in norm 2, of the nearest image found that is taken for another class; of images
            that were right. Infinite where fewer than half were changed.
        calibration: Expected calibration error by what was shown: ``clean``, each shift, and ``attacked``.
        images: Caption to images, (N, C, H, W), in [0, 1].
        cpu_seconds: Computing time of all of it.
    """

    radius: float
    norm: float
    classes: tuple[str, ...]
    labels: Tensor
    clean: Tensor
    shifted: Mapping[str, Tensor]
    references: tuple[Reference, ...]
    attacked: tuple[AttackedImages, ...]
    by_radius: Mapping[float, Tensor]
    single: Tensor
    flat: Tensor
    astray: Tensor
    proofs: Proofs
    random: bool
    distance: float
    calibration: Mapping[str, float]
    images: Mapping[str, Tensor] = field(repr=False)
    cpu_seconds: float

    @property
    def tried(self) -> Tensor:
        """Which of the images that attacks were tried on are right unchanged, bool."""
        return self.clean[: len(self.flat)]

    @property
    def proved(self) -> Tensor | None:
        """Of which of them no change of the radius makes them wrong, bool; None where nothing can be proved."""
        return self.proofs.by_radius.get(self.radius)

    @property
    def accuracy(self) -> Rate:
        """The test images that are right."""
        return rate(self.clean)

    @property
    def by_class(self) -> dict[str, Rate]:
        """The same by class, of classes with test images."""
        parts = {name: self.clean[self.labels == number] for number, name in enumerate(self.classes)}
        return {name: rate(right) for name, right in parts.items() if len(right)}

    @property
    def worst_class(self) -> str:
        """The class with the smallest share of right images."""
        return min(self.by_class, key=lambda name: self.by_class[name].share)

    @property
    def worst_shift(self) -> str:
        """The shift with the smallest share of right images, without the hard ones, which were chosen for that."""
        names = [name for name in self.shifted if name != "hard"]
        return min(names or self.shifted, key=lambda name: rate(self.shifted[name]).share)

    @property
    def average(self) -> float:
        """Mean accuracy over the shifts, each of which counts the same."""
        return sum(rate(right).share for right in self.shifted.values()) / len(self.shifted)

    @property
    def curve(self) -> RobustnessCurve | None:
        """What the models trained beside reach at an accuracy; None where there are no two that differ."""
        known = {each.accuracy for each in self.references}
        if len(known) < 2:
            return None
        return RobustnessCurve.fit(self._accuracies, [each.average for each in self.references])

    @property
    def effective(self) -> EffectiveRobustness | None:
        """Average robustness, its ratio to the accuracy and its residual to the curve.

        None where the accuracy lies by more than half a logit outside those of the models beside, or these are within
        a quarter of one, or their line falls: it says nothing that far from its points, nor by points that are one.
        """
        curve, accuracy = self.curve, self.accuracy.share
        if curve is None or accuracy == 0:
            return None
        least, own, most = (_logit(x) for x in (min(self._accuracies), accuracy, max(self._accuracies)))
        if curve.slope <= 0 or most - least < _SPAN or not least - _BEYOND <= own <= most + _BEYOND:
            return None
        return effective_robustness(accuracy, [rate(right).share for right in self.shifted.values()], curve)

    @property
    def _accuracies(self) -> list[float]:
        return [each.accuracy for each in self.references]

    @property
    def scatter(self) -> float:
        """By how much the models beside lie off their own line, the one that lies off most; 0 without a line."""
        curve = self.curve
        if curve is None:
            return 0.0
        return max(abs(curve.residual(each.accuracy, each.average).item()) for each in self.references)

    def held(self, box: Literal["white", "black", "any"] = "any") -> Rate:
        """Count the images that are right after each attack of a kind."""
        return rate(self._held(box))

    def _held(self, box: Literal["white", "black", "any"]) -> Tensor:
        held = self.tried.clone()
        if box != "black":
            held = self._after_steps() & self.single
        for attack in self.attacked:
            if box in (attack.box, "any"):
                held = held & attack.held
        return held

    def _after_steps(self) -> Tensor:
        """Tell what is right after all attacks of many steps along gradients, within the radius."""
        held = self.tried.clone()
        for right in (each.held for each in self.attacked if each.box == "white"):
            held = held & right
        for radius, right in self.by_radius.items():
            held = held & right if radius <= self.radius else held
        return held

    @property
    def signs(self) -> tuple[str, ...]:
        """What tells that gradients are masked, in sentences; each of more than one image in a hundred, surely."""
        white, count = self._held("white"), len(self.flat)
        farthest = max(self.by_radius)
        found = {
            "images that no attack by gradients changes are misclassified after an attack without the model's "
            "gradients": white & ~self._held("black"),
            "images are still right when every pixel may take any value": self.tried & self.by_radius[farthest],
            "images give a gradient that is zero or not finite": self.tried & self.flat,
            "images are misclassified after one step, but not after many": self._after_steps() & ~self.single,
            "images have a gradient along which a short step does less than one at random": self.tried & self.astray,
        }
        rates = {words: rate(which) for words, which in found.items()}
        return tuple(f"{each.hits} of {count} {words}." for words, each in rates.items() if each.low > _SHARE)

    @property
    def alarm(self) -> bool:
        """Whether gradients are masked, so that the attacks by gradients say too much good of the model."""
        return bool(self.signs)

    @property
    def verdict(self) -> str:
        """The same in two words."""
        return "gradients masked" if self.alarm else "no alarm"

    def in_words(self) -> str:
        """Return the conclusion in a few sentences."""
        held, size = self.held(), f"{self.radius:.3g} in norm {'infinity' if self.norm == math.inf else 2}"
        parts = [
            f"{_percent(self.accuracy)} of {self.accuracy.count:,} test images are right, on average "
            f"{self.average:.0%} of shifted ones; the worst shift is {self.worst_shift}, with "
            f"{rate(self.shifted[self.worst_shift]).share:.0%}.",
            self._effectively(),
            f"Of {held.count} images {_percent(held)} are right after every attack by changes of at most {size}"
            + self._proved,
        ]
        if self.alarm:
            parts.append(
                f"The model's gradients mislead attacks: {' '.join(self.signs)} It may withstand less than this."
            )
        return " ".join(filter(None, parts))

    def _effectively(self) -> str:
        found = self.effective
        if found is None:
            return ""
        points = 100 * found.residual.item()
        return (
            f"That average lies {abs(points):.1f} points {'above' if points > 0 else 'below'} the line through models "
            f"that were trained for comparison, which lie up to {100 * self.scatter:.1f} points off it themselves."
        )

    @property
    def _proved(self) -> str:
        if self.proved is None:
            return f". Whether any is safe is not proved: {self.proofs.words}."
        return f"; of {rate(self.proved).hits} it is proved that no such change makes them wrong."

    def limits(self) -> tuple[str, ...]:
        """Return what cannot be concluded, in sentences."""
        tried = len(self.flat)
        found = [
            f"Attacks were tried on {tried} images, and stronger ones exist: what is right after them all is an upper "
            "bound of what is safe. What is proved is a lower one, often far too low for a network not trained for "
            "it.",
            "Shifts are computed from the test images, as stand-ins for pictures that others took; what holds for "
            "them need not hold for another camera. Hard images are those that a small model gets wrong.",
            "No alarm does not prove that gradients are sound; the alarm looks for five signs, each of more than one "
            "image in a hundred.",
        ]
        if self.effective is None:
            found.append(
                "Nothing is said of effective robustness: the models trained beside it differ too little in accuracy, "
                "or are less robust the more accurate they are, or its own accuracy lies too far from theirs."
            )
        else:
            found.append(
                f"The line is that of {len(self.references)} networks of the same kind, each trained once for a short "
                "time without augmentation, on fewer images and more. Another draw gives another line: a residual of "
                "some points, or no larger than what these lie off it, is none."
            )
        if self.random:
            found.append("The model is random: its answers are means over several, and an attacker may ask more often.")
        return tuple(found)

    def record(self) -> dict[str, object]:
        """Return the numbers as they go into JSON."""
        effective = self.effective
        return {
            "verdict": self.verdict,
            "signs": list(self.signs),
            "words": self.in_words(),
            "accuracy": self.accuracy.record(),
            "by_class": {name: each.record() for name, each in self.by_class.items()},
            "shifted": {name: rate(right).record() for name, right in self.shifted.items()},
            "average": self.average,
            "ratio": None if effective is None else effective.ratio.item(),
            "residual": None if effective is None else effective.residual.item(),
            "scatter": self.scatter,
            "references": [each._asdict() for each in self.references],
            "radius": self.radius,
            "norm": "infinity" if self.norm == math.inf else self.norm,
            "attacks": {each.name: {"box": each.box, **rate(each.held).record()} for each in self.attacked},
            "held": {box: self.held(box).record() for box in ("white", "black", "any")},
            "by_radius": {f"{radius:g}": rate(right).record() for radius, right in self.by_radius.items()},
            "single_step": rate(self.single).record(),
            "zero_gradients": rate(self.flat).record(),
            "gradients_astray": rate(self.astray).record(),
            "proved": None if self.proved is None else rate(self.proved).record(),
            "proved_by_radius": {f"{radius:g}": rate(each).record() for radius, each in self.proofs.by_radius.items()},
            "proofs": self.proofs.words,
            "random": self.random,
            "median_distance": self.distance if math.isfinite(self.distance) else None,
            "calibration": dict(self.calibration),
            "cpu_seconds": self.cpu_seconds,
        }


def _percent(found: Rate) -> str:
    return f"{found.share:.1%} ({found.low:.1%} to {found.high:.1%})"


def _logit(share: float) -> float:
    share = min(max(share, 1e-4), 1 - 1e-4)
    return math.log(share / (1 - share))
