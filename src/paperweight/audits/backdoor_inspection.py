"""From a classifier's weights, its network and images to an audit for backdoors, with every mistake named."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from paperweight.audits.backdoor import audit_backdoor
from paperweight.audits.backdoor_findings import BackdoorAudit
from paperweight.audits.classifier import read_classifier

__all__ = ["BackdoorInspection", "inspect_backdoor"]


@final
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BackdoorInspection:
    """An audit and what it was made of.

    Args:
        audit: What was found.
        checkpoint: The file.
        data: Name of the data.
        facts: About model, data and machine, in words.
    """

    audit: BackdoorAudit
    checkpoint: Path
    data: str
    facts: dict[str, str]


def inspect_backdoor(
    checkpoint: str | Path,
    *,
    data: str | Path,
    network: str = "paperweight.nets:LeNet",
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    side: int = 32,
    twins: int = 12,
    limit: int = 200,
    steps: int = 300,
    training_steps: int = 400,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> BackdoorInspection:
    """Audit the weights of a classifier.

    Args:
        checkpoint: A safetensors file of the network's state.
        data: Clean labelled images; twins learn from some and the rest are looked at, the test part if there is one.
        network: The network, as ``package.module:factory``, called with shape and number of classes.
        mean: What is subtracted from images in [0, 1], one number or one a channel.
        std: What they are then divided by, likewise, above 0.
        side: Largest side of the images that the classifier takes; larger ones are resized.
        twins: As in `audit_backdoor`.
        limit: Likewise.
        steps: Likewise.
        training_steps: Likewise.
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
    audit = audit_backdoor(
        given.model,
        given.test,
        given.training,
        given.classes,
        make=given.make,
        twins=twins,
        limit=limit,
        steps=steps,
        training_steps=training_steps,
        seed=seed,
        progress=progress,
    )
    return BackdoorInspection(audit=audit, checkpoint=Path(checkpoint), data=given.data, facts=given.facts)
