"""What a study of one's own declares, checked before anything is run."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from paperweight.bench.loading import LoadedStudy, load_study
from paperweight.errors import InputError
from paperweight.studies import Arm, Metric, Study
from paperweight.texts import brief

__all__ = ["declared_study"]

_TEXTS = ("paper", "question", "claim", "headline", "tuned", "limits")


def declared_study(name: str) -> LoadedStudy:
    """Return the study of a paper or in a file, as `load_study` does, and see that a file declares what it must.

    Args:
        name: As of `load_study`.

    Raises:
        InputError: If it cannot be loaded; if a text of a file's declaration is none, an arm is no `Arm`, a metric no
            `Metric` with a direction and a finite minimal effect, or seeds no whole number; or if its ``run`` does not
            take an arm and a setting.

    Example:
        >>> declared_study("laplacian_smoothing").declaration.baseline
        'sgd'
    """
    study = load_study(name)
    if study.entry is None:
        _check_declaration(study.declaration, study.path.name)
        _check_run(study.run, study.path.name)
    return study


def _check_declaration(study: Study, where: str) -> None:
    for name in _TEXTS:
        _check(isinstance(getattr(study, name), str), f"{name} of STUDY in {where}", "a text", getattr(study, name))
    for name, kind in (("arms", Arm), ("metrics", Metric)):
        parts: Any = getattr(study, name)
        _check(isinstance(parts, Mapping), f"{name} of STUDY in {where}", f"a dict of names to {kind.__name__}", parts)
        for key, part in parts.items():
            whole = isinstance(key, str) and key.strip() and key.isprintable()
            _check(whole, f"a name among {name} of STUDY in {where}", "a text that can be printed, on one line", key)
            _check(
                isinstance(part, kind), f"{key!r} among {name} of STUDY in {where}", f"made by {kind.__name__}", part
            )
    for key, arm in study.arms.items():
        told: Any = arm.description
        _check(isinstance(told, str), f"description of arm {key!r} in {where}", "a text", told)
    for key, metric in study.metrics.items():
        _check_metric(key, metric, where)
    seeds: Any = study.seeds
    _check(
        isinstance(seeds, int) and not isinstance(seeds, bool), f"seeds of STUDY in {where}", "a whole number", seeds
    )


def _check_metric(key: str, metric: Metric, where: str) -> None:
    for name in ("label", "unit"):
        _check(isinstance(getattr(metric, name), str), f"{name} of metric {key!r} in {where}", "a text", metric)
    better: Any = metric.better
    _check(better in ("higher", "lower"), f"better of metric {key!r} in {where}", "'higher' or 'lower'", better)
    least: Any = metric.minimal_effect
    number = isinstance(least, int | float) and not isinstance(least, bool) and math.isfinite(least)
    _check(number, f"minimal_effect of metric {key!r} in {where}", "a finite number above 0", least)


def _check_run(run: Callable[..., object], where: str) -> None:
    try:
        inspect.signature(run).bind(None, None)
    except TypeError as error:
        raise InputError(f"run in {where} must take (arm, setting): {error}; see CONTRIBUTING.md") from error
    except ValueError:  # it tells no signature
        return


def _check(holds: object, what: str, rule: str, value: object) -> None:
    if not holds:
        shown = " ".join(ascii(value).split())
        raise InputError(f"{what} must be {rule}, got {brief(shown, 200)}; see CONTRIBUTING.md")
