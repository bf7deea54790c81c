"""What came of learning without labels, in words and in files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor

from paperweight.bench.wording import number
from paperweight.embedding.encoder import Encoder
from paperweight.embedding.judging import Pair, Score
from paperweight.errors import InputError
from paperweight.files import write_failure

__all__ = ["Embedded", "Judged"]

LEARNED, UNTRAINED, PIXELS, CEILING = "learned", "untrained", "pixels", "with labels"


@final
@dataclass(frozen=True)
class Judged:
    """How features do on test images.

    Attributes:
        words: Which features these are.
        linear: Accuracy of a linear classifier on them, or of the network that was trained with labels.
        nearest: Accuracy of their nearest neighbours; ``None`` of that network.
        best: The one of the two that is better on validation images.
        ahead: By how much the best on the learned features is ahead of the best here; ``None`` of these themselves.
        rank: Effective rank of the features.
    """

    words: str
    linear: Score
    nearest: Score | None
    best: Score
    ahead: Score | None
    rank: float


@final
@dataclass(frozen=True)
class Embedded:
    """An encoder that learned a set of images without labels, and what its features are worth.

    Attributes:
        encoder: The encoder.
        features: Features of all images, (N, d).
        images: All images, uint8, (N, C, H, W).
        labels: Their classes from 0, (N,); all 0 where there are none.
        classes: The names of the classes.
        names: Where each image comes from.
        parts: What each image was for: "train", "validation", "test" or "left out", (N,).
        judged: How features do, the learned ones first; empty without labels of two classes.
        rank: Effective rank of the learned features of all images.
        losses: The loss of every update, or of every pass.
        shown: Numbers of the images whose neighbours are shown.
        near: The numbers of the nearest images of each, by the learned features.
        near_pixels: The same by pixels.
        alike: Pairs of images that show the same.
        copies: How many images have the very pixels of an earlier one.
        map_rows: The numbers of the images on the map.
        map: Their places, (M, 2).
        notes: What was done to the source.
        seconds: How long it took.
        command: The command that does the same.
    """

    encoder: Encoder
    features: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    names: Sequence[str]
    parts: np.ndarray
    judged: Mapping[str, Judged]
    rank: float
    losses: Sequence[float]
    shown: Sequence[int]
    near: Tensor
    near_pixels: Tensor
    alike: Sequence[Pair]
    copies: int
    map_rows: np.ndarray
    map: np.ndarray
    notes: tuple[str, ...]
    seconds: float
    command: str

    @property
    def method(self) -> str:
        """The paper by whose method it learned."""
        return self.encoder.card["method"]

    @property
    def data(self) -> str:
        """The name of the data."""
        return self.encoder.card["data"]

    @property
    def verdict(self) -> str:
        """``worth it`` where the learned features are ahead of untrained ones and of pixels by intervals above zero.

        ``not worth it`` where they are behind one of them by an interval below zero, ``not shown`` otherwise, and
        ``not judged`` without labels.
        """
        if not self.judged:
            return "not judged"
        behind = [name for name in (UNTRAINED, PIXELS) if not self._ahead(name).low > 0]
        if not behind:
            return "worth it"
        lost = [name for name in behind if self._ahead(name).high < 0]
        return "not worth it" if lost else "not shown"

    def _ahead(self, name: str) -> Score:
        found = self.judged[name].ahead
        if found is None:
            raise KeyError(name)
        return found

    def words(self) -> str:
        """Return what was found, in a few sentences."""
        card = self.encoder.card
        start = (
            f"An encoder learned {card['images']:,} images of {self.data} without labels by {self.method}, in "
            f"{card['steps']:,} updates."
        )
        end = f"Its features vary in {number(self.rank)} of {self.features.shape[1]} directions (effective rank)."
        if not self.judged:
            return f"{start} Without labels of two classes it cannot be judged whether they are of use. {end}"
        own, tested, rivals = self.judged[LEARNED], int((self.parts == "test").sum()), (UNTRAINED, PIXELS, CEILING)
        sentences = [
            start,
            "The better one of a linear classifier and of nearest neighbours on its features, chosen on validation "
            f"images, is right on {_share(own.best)} of {tested:,} test images: "
            + ", ".join(f"{_difference(self._ahead(name))} {self.judged[name].words}" for name in rivals)
            + ".",
            {
                "worth it": "So these features are worth the training.",
                "not shown": "It is not shown that these features are worth the training.",
                "not worth it": "So these features are not worth the training here.",
            }[self.verdict],
            end,
        ]
        return " ".join(sentences)

    def limits(self) -> list[str]:
        """Return what cannot be concluded."""
        found = [
            "Intervals are those over test images, for this one training and this one division of the images. Another "
            "seed gives other features; run several to see by how much.",
            "Views turn, enlarge and move images and change contrast and brightness. Where that changes what matters "
            "to you, so do features that were made not to see it. Nothing is mirrored.",
        ]
        if not self.judged:
            found.insert(
                0,
                "Without labels nothing says whether near images belong together: look at the pictures. Put all "
                "images into folders, one for each class, and probes tell what the features are worth.",
            )
        else:
            found.append(
                f"The network with labels had the {self.encoder.card['images']:,} labels of the same images, as many "
                "updates and the same rate, which was tuned for nobody; it is a ceiling in name only where that does "
                "not suit it."
            )
        return found

    def numbers(self) -> dict[str, Any]:
        """Return what the report rests on, in JSON's types."""
        return {
            "card": self.encoder.card,
            "verdict": self.verdict,
            "words": self.words(),
            "limits": self.limits(),
            "judged": {name: asdict(each) for name, each in self.judged.items()},
            "effective_rank": self.rank,
            "copies": self.copies,
            "alike": [
                {"one": self.names[pair.one], "other": self.names[pair.other], "correlation": pair.correlation}
                for pair in self.alike
            ],
            "losses": [float(loss) for loss in self.losses[:: max(1, len(self.losses) // 200)]],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 1),
            "command": self.command,
        }

    def save(self, path: str | Path) -> None:
        """Write features, labels, class names, parts and names of all images into an ``.npz`` file without pickles.

        Raises:
            InputError: If the file cannot be written.
        """
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.savez(
                    file,
                    features=self.features,
                    labels=self.labels,
                    classes=np.array(self.classes, dtype=np.str_),
                    names=np.array(self.names, dtype=np.str_),
                    parts=self.parts.astype(np.str_),
                )
            partial.replace(path)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({write_failure(error, path)}); choose another --out"
            ) from error


def _share(score: Score) -> str:
    return f"{number(score.value)} ({number(score.low)} to {number(score.high)})"


def _difference(score: Score) -> str:
    return f"{score.value:+.3g} ({number(score.low)} to {number(score.high)}) against"
