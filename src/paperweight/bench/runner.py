"""The runner: it has the trials of a study run that its ledger does not hold yet, and gives the weighing."""

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from paperweight.bench.anytime import pairs_needed
from paperweight.bench.deciding import until_verdict
from paperweight.bench.declaring import declared_study
from paperweight.bench.engines import chosen_engine
from paperweight.bench.ledger import Ledger
from paperweight.bench.loading import LoadedStudy
from paperweight.bench.sharing import Progress, complete, twice
from paperweight.bench.trial import FINISHED, TrialRecord, TrialSpec
from paperweight.bench.weighing import Weighing
from paperweight.catalogue import nearest, object_hash, official_result
from paperweight.data import source_hash
from paperweight.errors import InputError
from paperweight.loops import check_search
from paperweight.processes import GuardedProcess
from paperweight.studies import BUDGETS, Budget
from paperweight.texts import brief

__all__ = ["TIME_LIMITS", "Progress", "weigh"]

_MOST_PAIRS = 64

TIME_LIMITS: dict[Budget, float] = {"smoke": 120.0, "desk": 300.0, "gpu": 600.0}


def _chosen_arms(study: LoadedStudy, arms: Sequence[str] | None) -> list[str]:
    known = list(study.declaration.arms)
    if arms is None:
        return known
    for arm in arms:
        if arm not in known:
            raise InputError(f"study {study.stem} has no arm {arm!r}; {nearest(arm, known)}")
    chosen = [arm for arm in known if arm in arms or arm == study.declaration.baseline]
    if len(chosen) < 2:
        raise InputError(f"arms must name at least one arm beside the baseline {known[0]!r}; there are {known[1:]}")
    return chosen


def _command(study: LoadedStudy, options: Mapping[str, object], arms: Sequence[str] | None) -> str:
    words = ["paperweight", "weigh", study.name]
    if options["most"] is not None:
        words.append("--until-decided")
    for name, value in options.items():
        if value is not None:
            words += [f"--{name}", str(value)]
    for arm in arms or ():
        words += ["--arms", arm]
    return shlex.join(words)


def weigh(
    study: str,
    *,
    data: str | Path | None = None,
    network: str | None = None,
    budget: Budget = "desk",
    seeds: int | None = None,
    first_seed: int = 0,
    until_decided: bool = False,
    most: int | None = None,
    arms: Sequence[str] | None = None,
    tune: int | None = None,
    jobs: int | None = None,
    engine: str = "local",
    device: str | None = None,
    time_limit: float | None = None,
    retry: bool = False,
    ledger: str | Path | None = "weighings/ledger.sqlite",
    progress: Progress | None = None,
    worker: GuardedProcess | None = None,
) -> Weighing:
    """Weigh a study: run its trials, or what is missing of them. ``paperweight.reports.write_report`` writes the page.

    Args:
        study: Stem of a paper, or the path of a study file.
        data: The user's data in place of the study's default: a path, or the name of a known set.
        network: The user's network as ``package.module:factory``, called with input shape and number of classes.
        budget: ``"smoke"`` (seconds), ``"desk"`` (minutes on two cores) or ``"gpu"``.
        seeds: Number of pairs, at least 1, as the study declares where left out; below 6 no verdict is possible.
        first_seed: The first seed; the others follow it. Official results use seeds from 0: try and mend a study on
            seeds from 1000 on, and confirm a result with seeds that it has not used.
        until_decided: Whether to look at each pair as it comes, and to stop once the primary comparison has a verdict,
            in place of a fixed number of seeds; interval and p are of a kind that allows for it.
        most: The number of pairs after which it stops without one, at least 6; 64 where left out.
        arms: Arms to run beside the baseline; all where left out.
        tune: Number of tries, at least 3, that each arm gets in place of those of its grids, at values that Optuna
            suggests between the smallest and the largest of the grid (`paperweight.loops.Search`; the extra ``tune``).
        jobs: Number of worker processes; the number of cores where left out, 1 on a GPU.
        engine: Where they are: ``"local"``, ``"ray"`` for Ray's own cluster on this machine, or ``"ray:HOST:PORT"`` for
            one that runs (the extra ``ray``); code, own studies and data lie at the same path on all nodes.
        device: Where to compute; a GPU for the ``gpu`` budget, otherwise the CPU, where left out.
        time_limit: Seconds a trial may take.
        retry: Whether trials that crashed, ran out of memory or time are run again.
        ledger: The path of an SQLite file or the URL of a PostgreSQL database; ``None`` for one in memory. Weighings
            that share one run each trial once, and wait for those of the others.
        progress: Called with words and (trials done, trials in all).
        worker: What ``paperweight.processes.start_worker`` returned before torch was imported; whoever started it
            closes it.

    Returns:
        The weighing: verdict, pairs, costs and rows.

    Raises:
        InputError: If an argument, the data or the network cannot be used, no trial of the baseline finished, or the
            ledger fails; what it holds stays.

    Example:
        >>> weigh("laplacian_smoothing", seeds=0)
        Traceback (most recent call last):
        ...
        paperweight.errors.InputError: seeds must be at least 1, got 0; leave it out for those that the study declares
    """
    if seeds is not None and seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}; leave it out for those that the study declares")
    most = _most_pairs(until_decided, most, seeds)
    if first_seed < 0:
        raise InputError(f"first_seed must be at least 0, got {first_seed}; give the first of the seeds")
    if budget not in BUDGETS:
        raise InputError(f"budget must be one of {', '.join(BUDGETS)}; got {budget!r}")
    if tune is not None:
        check_search(tune)
    loaded = declared_study(study)
    seeds = most or seeds or loaded.declaration.seeds
    chosen = _chosen_arms(loaded, arms)
    device = _device(device, budget)
    if network is not None:
        object_hash(network, "network")
    data_hash = "" if data is None else source_hash(data)
    specs = [
        TrialSpec(
            study=loaded.name,
            arm=arm,
            seed=seed,
            budget=budget,
            device=device,
            data=None if data is None else str(data),
            data_hash=data_hash,
            network=network,
            tune=tune,
        )
        for seed in range(first_seed, first_seed + seeds)
        for arm in chosen
    ]
    runs = chosen_engine(
        engine,
        jobs=jobs,
        device=device,
        time_limit=time_limit if time_limit is not None else TIME_LIMITS[budget],
        progress=progress,
        worker=worker,
    )
    with Ledger("sqlite://" if ledger is None else str(ledger)) as book:
        wanted = None if most is None else partial(until_verdict, loaded.declaration, specs)
        found = complete(book, runs, specs, baseline=chosen[0], retry=retry, progress=progress, wanted=wanted)
        specs = specs if wanted is None else list(wanted(found))
        found = {spec.key(): found[spec.key()] for spec in specs}
        _check_baseline([record for record in found.values() if record.spec.arm == chosen[0]])
        options = {
            "data": data,
            "network": network,
            "budget": budget,
            "seeds": seeds if most is None else None,
            "first-seed": first_seed or None,
            "device": None if device == "cpu" else device,
            "most": most,
            "tune": tune,
        }
        records = [found[spec.key()] for spec in specs]
        weighing = Weighing(
            loaded,
            chosen,
            sorted({spec.seed for spec in specs}),
            records,
            _command(loaded, options, arms),
            units=book.executed(specs, records),
            official=None if loaded.entry is None else official_result(loaded.entry),
            most_pairs=most,
        )
        twice(
            lambda: book.add_verdict(
                study=loaded.stem,
                budget=budget,
                data=None if data is None else str(data),
                network=network,
                record=weighing.record(),
            )
        )
    return weighing


def _most_pairs(until_decided: bool, most: int | None, seeds: int | None) -> int | None:
    """Return the most pairs of a weighing that ends with a verdict; ``None`` for one of a fixed number."""
    if not until_decided:
        if most is not None:
            raise InputError(
                f"most bounds a weighing until it is decided, got {most}; add until_decided, or give seeds"
            )
        return None
    if seeds is not None:
        raise InputError(f"seeds fixes the number of pairs, got {seeds}; until_decided takes most in place of it")
    most = _MOST_PAIRS if most is None else most
    if most < pairs_needed():
        raise InputError(f"most must be at least {pairs_needed()}, with fewer no verdict is possible, got {most}")
    return most


def _check_baseline(records: Sequence[TrialRecord]) -> None:
    if not any(record.status in FINISHED for record in records):
        first = records[0]
        reason = first.message.strip().splitlines()[-1] if first.message.strip() else first.status
        raise InputError(
            f"none of the {len(records)} trials of the baseline {first.spec.arm!r} finished, so there is nothing to "
            f"compare with; the first one, {first.status}: {brief(reason, 300)}; mend that and give the same command"
        )


def _device(device: str | None, budget: Budget) -> str:
    if device is None:
        device = "cuda" if budget == "gpu" else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(f"device must be cpu or cuda, got {device!r}") from error
    if kind not in ("cpu", "cuda"):
        raise InputError(f"device must be cpu or cuda, got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device} is not available here; use --device cpu, or the desk budget")
    return device
