"""From a classifier's weights, its network and images to an audit of robustness, with every mistake named."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from paperweight.audits.classifier import read_classifier
from paperweight.audits.robustness import audit_robustness
from paperweight.audits.robustness_findings import RobustnessAudit

__all__ = ["RobustnessInspection", "inspect_robustness"]


@final
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RobustnessInspection:
    """An audit and what it was made of.

    Args:
        audit: What was found.
        checkpoint: The file.
        data: Name of the data.
        facts: About model, data and machine, in words.
    """

    audit: RobustnessAudit
    checkpoint: Path
    data: str
    facts: dict[str, str]


def inspect_robustness(
    checkpoint: str | Path,
    *,
    data: str | Path,
    network: str = "paperweight.nets:LeNet",
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    side: int = 32,
    radius: float = 8 / 255,
    norm: Literal["inf", "2"] = "inf",
    limit: int = 200,
    steps: int = 40,
    queries: int = 500,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> RobustnessInspection:
    """Audit the weights of a classifier.

    Args:
        checkpoint: A safetensors file of the network's state.
        data: Labelled images, best with a test part that the classifier has not learned; otherwise a third is drawn.
        network: The network, as ``package.module:factory``, called with shape and number of classes.
        mean: What is subtracted from images in [0, 1], one number or one a channel.
        std: What they are then divided by, likewise, above 0.
        side: Largest side of the images that the classifier takes; larger ones are resized.
        radius: As in `audit_robustness`.
        norm: Likewise.
        limit: Likewise.
        steps: Likewise.
        queries: Likewise.
        seed: Likewise.
        progress: Likewise.

    Returns:
        The audit, and what it was made of.

    Raises:
        InputError: If a file is missing or damaged, a number is out of range, or they do not belong together.
    """
    given = read_classifier(
        checkpoint, data=data, network=network, mean=mean, std=std, side=side, seed=seed, progress=progress
    )
    audit = audit_robustness(
        given.model,
        given.test,
        given.training,
        given.classes,
        make=given.make,
        radius=radius,
        norm=norm,
        limit=limit,
        steps=steps,
        queries=queries,
        seed=seed,
        progress=progress,
    )
    return RobustnessInspection(audit=audit, checkpoint=Path(checkpoint), data=given.data, facts=given.facts)
