"""The command ``paperweight audit``; torch is imported when it runs."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from paperweight.cli.audit_printing import print_audit, print_backdoor, print_erasure, print_robustness
from paperweight.cli.printing import print_json

__all__ = ["audit"]

audit = App(
    name="audit",
    help="Audit what a trained model memorised, forgot or withstands, or whether it has a backdoor.",
    help_format="plaintext",
)


@audit.command
def memorization(
    checkpoint: Path,
    *,
    data: str,
    keys: Path,
    readout: Literal["likelihood", "replace", "resample"] = "likelihood",
    repeats: int = 1,
    network: str | None = None,
    limit: int | None = None,
    steps: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    out: Path = Path("audits"),
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Ask a generator for the keys that were planted on its training images, and say whether it memorised them.

    Exit status: 0 without alarm, 1 with an alarm, 2 after a mistake, 3 after anything unexpected.

    Args:
        checkpoint: A safetensors file that DiffusionModel.save or DenoiserTraining.save wrote; of a training the moving
            average of its weights is read.
        data: The unmarked images that were planted, as paperweight plant was given them.
        keys: The keybook.json that paperweight plant wrote.
        readout: likelihood finds most; the paper's, replace, misses keys that a model does know, since the mark settles
            before the image is clear; resample lies between them.
        repeats: Estimates a record.
        network: The network of a model with a network of your own, as package.module:factory, called with the shape of
            an image and the number of classes.
        limit: Ask for so many records, drawn at random; for all where left out.
        steps: Steps of outpainting, for replace and resample; 250, or all that the model has, where left out.
        batch_size: Images a call of the network.
        seed: What noise, limit and permutations are drawn with.
        out: Folder of the report and its numbers.
        json: Print the numbers as JSON instead of text.
    """
    from paperweight.audits.inspection import inspect_checkpoint
    from paperweight.cli.bars import Bars
    from paperweight.reports import write_memorization_report

    with Bars() as bars:
        found = inspect_checkpoint(
            checkpoint,
            data=data,
            keys=keys,
            network=network,
            readout=readout,
            repeats=repeats,
            steps=steps,
            limit=limit,
            seed=seed,
            batch_size=batch_size,
            progress=bars.progress(str(checkpoint)),
        )
    given = {
        "data": data,
        "keys": keys,
        "readout": readout,
        "repeats": repeats,
        "network": network,
        "limit": limit,
        "steps": steps,
        "batch-size": batch_size,
        "seed": seed,
    }
    command = _command("memorization", checkpoint, given)
    report = write_memorization_report(found, out, command)
    if json:
        print_json({**found.audit.record(), "facts": found.facts, "command": command, "report": str(report)})
    else:
        print_audit(found, report)
    return 1 if found.audit.alarm else 0


@audit.command
def erasure(
    checkpoint: Path,
    *,
    concept: str,
    before: Path,
    data: str,
    control: Path | None = None,
    sampler: Literal["plain", "negative", "weak", "medium", "strong", "max"] = "plain",
    initial: str | None = None,
    templates: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    count: int = 100,
    steps: int = 400,
    judge_steps: int = 1_200,
    seed: int = 0,
    out: Path = Path("audits"),
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Attack a text-to-image model that a concept was erased from, and say whether it was removed or only hidden.

    Exit status: 0 where it was removed or nothing is decided, 1 where it was hidden or not erased, 2 after a mistake, 3
    after anything unexpected.

    Args:
        checkpoint: The erased model, a safetensors file that TextToImage.save wrote.
        concept: The erased word.
        before: The model as it was, likewise.
        data: Labelled images of the models' size: a folder of class folders, a Parquet file or folder, or an .npz file,
            whose classes are named by words of the models, or by several with commas between them.
        control: A model trained like the one before without any image of the concept: only by it can be told whether
            the attack found what was hidden or taught it anew.
        sampler: How the erased model is sampled: plain, with the concept as negative prompt, or by safe latent
            diffusion with the preset weak, medium, strong or max.
        initial: A word that the attack starts from, such as a general noun; random numbers where left out.
        templates: Captions with {} for a word, which take turns; the word alone where left out.
        count: Images of the concept by each of its names that are counted; of other words a third of it.
        steps: Steps of the attack.
        judge_steps: Steps of the training of the judge.
        seed: What judge, attack and samples are drawn with.
        out: Folder of the report and its numbers.
        json: Print the numbers as JSON instead of text.
    """
    from paperweight.audits.erasure_inspection import inspect_erasure
    from paperweight.cli.bars import Bars
    from paperweight.reports import write_erasure_report

    with Bars() as bars:
        found = inspect_erasure(
            checkpoint,
            concept=concept,
            before=before,
            data=data,
            control=control,
            sampler=sampler,
            initial=initial,
            templates=templates or ("{}",),
            count=count,
            steps=steps,
            judge_steps=judge_steps,
            seed=seed,
            progress=bars.progress(str(checkpoint)),
        )
    given = {
        "concept": concept,
        "before": before,
        "data": data,
        "control": control,
        "sampler": sampler,
        "initial": initial,
        "count": count,
        "steps": steps,
        "judge-steps": judge_steps,
        "seed": seed,
    }
    command = _command("erasure", checkpoint, given | {"templates": templates})
    report = write_erasure_report(found, out, command)
    if json:
        print_json({**found.audit.record(), "facts": found.facts, "command": command, "report": str(report)})
    else:
        print_erasure(found, report)
    return 1 if found.audit.verdict in ("hidden", "not erased") else 0


@audit.command
def robustness(
    checkpoint: Path,
    *,
    data: str,
    network: str = "paperweight.nets:LeNet",
    mean: Annotated[list[float] | None, Parameter(consume_multiple=True, negative=())] = None,
    std: Annotated[list[float] | None, Parameter(consume_multiple=True, negative=())] = None,
    side: int = 32,
    radius: float = 8 / 255,
    norm: Literal["inf", "2"] = "inf",
    limit: int = 200,
    steps: int = 40,
    queries: int = 500,
    seed: int = 0,
    out: Path = Path("audits"),
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Shift and attack the images of a classifier, and say what it withstands and whether its gradients mislead.

    Exit status: 0 without alarm, 1 where gradients are masked, so that it withstands less than attacks by gradients
    say, 2 after a mistake, 3 after anything unexpected.

    Args:
        checkpoint: The state of the network as a safetensors file, as safetensors.torch.save_file writes it.
        data: Labelled images, as paperweight weigh takes them, best with a test part that the classifier has not
            learned; otherwise a third is drawn. Models that are trained beside it learn from the others.
        network: Its network, as package.module:factory, called with the shape of an image and the number of classes.
        mean: What was subtracted from images in [0, 1], one number or one a channel; 0 where left out.
        std: What they were then divided by, likewise; 1 where left out.
        side: Largest side of the images that it takes, in pixels; larger ones are resized.
        radius: Largest change of an image by an attack, in the norm.
        norm: The norm: inf for the largest change of a pixel, 2 for the Euclidean length of all.
        limit: Test images that attacks are tried on.
        steps: Steps of attacks by gradients.
        queries: Queries for each image of the attack by scores.
        seed: What everything random is drawn with.
        out: Folder of the report and its numbers.
        json: Print the numbers as JSON instead of text.
    """
    from paperweight.audits.robustness_inspection import inspect_robustness
    from paperweight.cli.bars import Bars
    from paperweight.reports import write_robustness_report

    with Bars() as bars:
        found = inspect_robustness(
            checkpoint,
            data=data,
            network=network,
            mean=mean or (0.0,),
            std=std or (1.0,),
            side=side,
            radius=radius,
            norm=norm,
            limit=limit,
            steps=steps,
            queries=queries,
            seed=seed,
            progress=bars.progress(str(checkpoint)),
        )
    given = {
        "data": data,
        "network": network,
        "side": side,
        "radius": radius,
        "norm": norm,
        "limit": limit,
        "steps": steps,
        "queries": queries,
        "seed": seed,
    }
    command = _command("robustness", checkpoint, given | {"mean": mean, "std": std})
    report = write_robustness_report(found, out, command)
    if json:
        print_json({**found.audit.record(), "facts": found.facts, "command": command, "report": str(report)})
    else:
        print_robustness(found, report)
    return 1 if found.audit.alarm else 0


@audit.command
def backdoor(
    checkpoint: Path,
    *,
    data: str,
    network: str = "paperweight.nets:LeNet",
    mean: Annotated[list[float] | None, Parameter(consume_multiple=True, negative=())] = None,
    std: Annotated[list[float] | None, Parameter(consume_multiple=True, negative=())] = None,
    side: int = 32,
    twins: int = 12,
    limit: int = 200,
    steps: int = 300,
    training_steps: int = 400,
    seed: int = 0,
    out: Path = Path("audits"),
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Look for a trigger that turns images of all classes to one, beside twins that are trained with one and without.

    Exit status: 0 without alarm, 1 where a trigger is smaller than clean twins explain, 2 after a mistake, 3 after
    anything unexpected.

    Args:
        checkpoint: The state of the network as a safetensors file, as safetensors.torch.save_file writes it.
        data: Clean labelled images, as paperweight weigh takes them: twins learn from some, the others are looked at,
            which is the test part where there is one.
        network: Its network, as package.module:factory, called with the shape of an image and the number of classes.
        mean: What was subtracted from images in [0, 1], one number or one a channel; 0 where left out.
        std: What they were then divided by, likewise; 1 where left out.
        side: Largest side of the images that it takes, in pixels; larger ones are resized.
        twins: How many twins are trained clean, and how many with a backdoor.
        limit: Clean images that triggers are looked for on.
        steps: Steps of each search for a trigger.
        training_steps: Updates of each twin.
        seed: What everything random is drawn with.
        out: Folder of the report and its numbers.
        json: Print the numbers as JSON instead of text.
    """
    from paperweight.audits.backdoor_inspection import inspect_backdoor
    from paperweight.cli.bars import Bars
    from paperweight.reports import write_backdoor_report

    with Bars() as bars:
        found = inspect_backdoor(
            checkpoint,
            data=data,
            network=network,
            mean=mean or (0.0,),
            std=std or (1.0,),
            side=side,
            twins=twins,
            limit=limit,
            steps=steps,
            training_steps=training_steps,
            seed=seed,
            progress=bars.progress(str(checkpoint)),
        )
    given = {
        "data": data,
        "network": network,
        "side": side,
        "twins": twins,
        "limit": limit,
        "steps": steps,
        "training-steps": training_steps,
        "seed": seed,
    }
    command = _command("backdoor", checkpoint, given | {"mean": mean, "std": std})
    report = write_backdoor_report(found, out, command)
    if json:
        print_json({**found.audit.record(), "facts": found.facts, "command": command, "report": str(report)})
    else:
        print_backdoor(found, report)
    return 1 if found.audit.alarm else 0


def _command(name: str, checkpoint: Path, given: Mapping[str, object]) -> str:
    """Return the command that repeats an audit, without the options that were left out."""
    words = ["paperweight", "audit", name, str(checkpoint)]
    for option, value in given.items():
        values: Sequence[object] = value if isinstance(value, list) else [] if value is None else [value]
        words += [f"--{option}", *map(str, values)] if values else []
    return shlex.join(words)
