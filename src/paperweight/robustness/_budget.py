"""Training sets of a given size, from one source or several, with labels that are true, matched from captions or wrong.

Source:
    B. Feuer, A. Joshi, M. Pham, C. Hegde, "Distributionally Robust Classification on a Data Budget", 2023,
    https://arxiv.org/abs/2308.03821: what is varied there, as its abstract and its code,
    https://github.com/penfever/vlhub, say.

Deviations:
    - The budget counts images that can be learned from: those without a label are not drawn.
    - A label that is no class is refused; the authors' code takes it for class 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from paperweight.data import wrong_labels
from paperweight.robustness._caption_labeler import CaptionLabeler

__all__ = ["BudgetedData", "DataBudget", "TrainingSource"]


@final
@dataclass(frozen=True, eq=False)
class TrainingSource:
    """Images of one origin, with what is known of them.

    Args:
        images: (N, ...), N at least 1.
        labels: True class numbers, int64, (N,), -1 where not known; None where none is.
        captions: One text an image, or None.

    Raises:
        ValueError: If the numbers of images, labels and captions differ, or labels have another type.

    Example:
        >>> len(TrainingSource(torch.rand(2, 1, 4, 4), captions=("a dog", "a cat")))
        2
    """

    images: Tensor
    labels: Tensor | None = None
    captions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.images) if self.images.ndim else 0
        if not count:
            raise ValueError(f"images must be of shape (N, ...), at least one, got {tuple(self.images.shape)}")
        if self.labels is not None and (self.labels.dtype != torch.int64 or self.labels.shape != (count,)):
            raise ValueError(
                f"labels must be int64 of shape ({count},), got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if isinstance(self.captions, str):
            raise ValueError(f"captions must be a tuple of texts, got the text {self.captions!r}")
        if self.captions is not None and len(self.captions) != count:
            raise ValueError(f"captions must be {count} texts, one an image, got {len(self.captions)}")

    def __len__(self) -> int:
        return len(self.images)


@final
@dataclass(frozen=True, eq=False)
class BudgetedData:
    """A training set.

    Attributes:
        images: (budget, ...).
        labels: Class numbers to train on, int64, (budget,); -1 where captions take their place.
        captions: One text an image, or None where a source that was drawn from has none.
        origins: Which source each image is of, by its number in the order of the sources, int64, (budget,).
    """

    images: Tensor
    labels: Tensor
    captions: tuple[str, ...] | None
    origins: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@final
class DataBudget:
    """Draws training sets of exactly one size, so that what else differs between them is known.

    Args:
        sources: By name where images come from; all of one shape.
        budget: Number of images, at least 1.
        classes: Number of classes, at least 2.
        shares: Share of the budget of each source, adding up to 1; by default in proportion to what they hold.
        balance: ``"natural"`` for classes as they come, ``"uniform"`` for as many of each, in each source.
        label_source: ``"true"`` for the labels of the sources; ``"matched"`` for those that ``labeler`` finds in the
            captions; ``"captions"`` for none, where a contrastive loss learns from captions.
        labeler: Finds labels, by the strategy "single" or "strict".
        label_noise: Share of the labels that are replaced by wrong ones, from 0 to 1.

    Raises:
        ValueError: If an argument is not as above, or arguments contradict each other.

    Example:
        >>> old = TrainingSource(torch.zeros(6, 1, 2, 2), torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> new = TrainingSource(torch.ones(4, 1, 2, 2), torch.tensor([0, 1, 0, 1]))
        >>> budget = DataBudget({"old": old, "new": new}, 4, 2, shares={"old": 0.5, "new": 0.5}, balance="uniform")
        >>> drawn = budget.build(torch.Generator().manual_seed(0))
        >>> drawn.origins.tolist(), sorted(drawn.labels.tolist())
        ([0, 0, 1, 1], [0, 0, 1, 1])
    """

    def __init__(
        self,
        sources: Mapping[str, TrainingSource],
        budget: int,
        classes: int,
        *,
        shares: Mapping[str, float] | None = None,
        balance: Literal["natural", "uniform"] = "natural",
        label_source: Literal["true", "matched", "captions"] = "true",
        labeler: CaptionLabeler | None = None,
        label_noise: float = 0.0,
    ) -> None:
        for name, value, least in (("budget", budget, 1), ("classes", classes, 2)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if len({source.images.shape[1:] for source in sources.values()}) != 1:
            raise ValueError(f"sources must be at least one, with images of one shape, got {list(sources)}")
        if shares is not None and (
            set(shares) != set(sources)
            or not all(0 <= share <= 1 for share in shares.values())
            or abs(sum(shares.values()) - 1) > 1e-6
        ):
            raise ValueError(f"shares must be one number a source, adding up to 1, got {dict(shares)}")
        if balance not in ("natural", "uniform"):
            raise ValueError(f"balance must be 'natural' or 'uniform', got {balance!r}")
        if label_source not in ("true", "matched", "captions"):
            raise ValueError(f"label_source must be 'true', 'matched' or 'captions', got {label_source!r}")
        if (labeler is not None) != (label_source == "matched"):
            raise ValueError(f"labeler must be given for matched labels and for no others, got {labeler!r}")
        if labeler is not None and (labeler.strategy == "multi" or len(labeler.class_terms) != classes):
            raise ValueError(
                f"labeler must find one label an image, of {classes} classes, got the strategy {labeler.strategy!r} "
                f"and {len(labeler.class_terms)} classes; train on several labels with multi_tag_ce"
            )
        if not 0 <= label_noise <= 1 or (label_noise and label_source == "captions"):
            raise ValueError(f"label_noise must be from 0 to 1, and 0 where there are no labels, got {label_noise}")
        if balance == "uniform" and label_source == "captions":
            raise ValueError("balance must be 'natural' where there are no labels, got 'uniform'")
        self.sources, self.budget, self.classes, self.shares = sources, budget, classes, shares
        self.balance: Literal["natural", "uniform"] = balance
        self.label_source: Literal["true", "matched", "captions"] = label_source
        self.labeler, self.label_noise = labeler, label_noise
        self._labels = {name: self._labelled(name, source) for name, source in sources.items()}

    def _labelled(self, name: str, source: TrainingSource) -> Tensor:
        """Give the labels that a source is used with, on the CPU; -1 where an image is not used."""
        if self.label_source != "true":
            if source.captions is None:
                raise ValueError(f"sources must have captions for {self.label_source}, {name!r} has none")
            if self.labeler is not None:
                return self.labeler.label(source.captions)
            return torch.zeros(len(source), dtype=torch.int64)
        if source.labels is None or not ((source.labels >= -1) & (source.labels < self.classes)).all():
            raise ValueError(f"sources must have labels from 0 to {self.classes - 1}, or -1, {name!r} has not")
        return source.labels.cpu()

    def build(self, generator: torch.Generator) -> BudgetedData:
        """Draw the training set, without replacement, source by source.

        From generators in one state, a smaller budget is drawn from what a larger one is, with the same shares and
        natural balance.

        Args:
            generator: Draws images and wrong labels, on the CPU.

        Returns:
            Exactly ``budget`` images, on the device of each source's.

        Raises:
            ValueError: If a source, or a class of it, has too few images with a label.
        """
        usable = {name: int((labels >= 0).sum()) for name, labels in self._labels.items()}
        total = max(1, sum(usable.values()))
        shares = self.shares or {name: count / total for name, count in usable.items()}
        sizes = _whole([self.budget * shares[name] for name in self.sources], self.budget)
        rows: list[Tensor] = []
        for (name, labels), size in zip(self._labels.items(), sizes, strict=True):
            rows.append(self._rows(name, labels, size, sum(map(len, rows)), generator))
        parts = [*zip(self.sources.values(), self._labels.values(), rows, strict=True)]
        labels = torch.cat([labels[chosen] for _, labels, chosen in parts])
        if self.label_source == "captions":
            labels = torch.full_like(labels, -1)
        elif self.label_noise:
            labels = wrong_labels(labels, self.label_noise, self.classes, generator)
        captions: tuple[str, ...] | None = ()
        for source, _, chosen in parts:
            if source.captions is None and len(chosen):
                captions = None
            if captions is not None and source.captions is not None:
                captions = (*captions, *(source.captions[row] for row in chosen.tolist()))
        images = torch.cat([source.images[chosen.to(source.images.device)] for source, _, chosen in parts])
        origins = torch.cat([torch.full_like(chosen, index) for index, chosen in enumerate(rows)])
        return BudgetedData(images, labels.to(images.device), captions, origins.to(images.device))

    def _rows(self, name: str, labels: Tensor, size: int, before: int, generator: torch.Generator) -> Tensor:
        """Draw rows of a source; the classes that get one more of a remainder follow on those of the sources before."""
        order = torch.randperm(len(labels), generator=generator)
        order = order[labels[order] >= 0]
        if self.balance == "natural":
            if size > len(order):
                raise ValueError(f"budget must be at most what sources hold, got {size} of {len(order)} from {name!r}")
            return order[:size]
        wanted = [size // self.classes] * self.classes
        for extra in range(size % self.classes):
            wanted[(before + extra) % self.classes] += 1
        chosen: list[Tensor] = []
        for label, count in enumerate(wanted):
            members = order[labels[order] == label]
            if count > len(members):
                raise ValueError(
                    f"budget must be at most what sources hold, got {count} of {len(members)} of class {label} from "
                    f"{name!r}; lower it or take the natural balance"
                )
            chosen.append(members[:count])
        return torch.cat(chosen)


def _whole(parts: list[float], total: int) -> list[int]:
    """Round parts to whole numbers that add up to a total, those with the largest remainders up."""
    sizes = [int(part) for part in parts]
    order = sorted(range(len(parts)), key=lambda index: sizes[index] - parts[index])
    for index in order[: total - sum(sizes)]:
        sizes[index] += 1
    return sizes
