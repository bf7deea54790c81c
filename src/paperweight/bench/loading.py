"""Finding a study by the name of its paper or by the path of its file."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from paperweight.catalogue import Entry, find
from paperweight.errors import InputError
from paperweight.files import check_file, expanded
from paperweight.processes import allow_folder
from paperweight.studies import Arm, Outcome, Setting, Study
from paperweight.studies.screening import PREFIX, screening
from paperweight.texts import brief

__all__ = ["STUDY_MODULE", "LoadedStudy", "load_study"]

STUDY_MODULE = "paperweight_study_"
"""How the names of the modules begin that studies in files are loaded as."""


@dataclass(frozen=True, slots=True)
class LoadedStudy:
    """A study that can be run.

    Args:
        name: The name by which a worker finds it again: a stem, or the path of a file.
        entry: The paper in the catalogue; ``None`` for a study of one's own.
        declaration: What the study declares.
        run: Its function.
        path: Its file.
    """

    name: str
    entry: Entry | None
    declaration: Study
    run: Callable[[Arm[Any], Setting], Outcome]
    path: Path

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


def load_study(name: str) -> LoadedStudy:
    """Return the study of a paper, or the one in a file, which may import modules beside it.

    Args:
        name: A stem, a public name that a paper provides, the path of a study file, or what a
            `paperweight.studies.screening.ScreenData` is called.

    Raises:
        InputError: If there is no such paper or file, or the file does not define ``STUDY`` and ``run``.

    Example:
        >>> load_study("laplacian_smoothing").declaration.baseline
        'sgd'
    """
    if name.startswith(PREFIX):
        declaration, run, path = screening(name)
        return LoadedStudy(name, None, declaration, run, path)
    if name.endswith(".py"):
        path = expanded(name)
        check_file(path, "study file", "give the stem of a paper or the path of a file")
        path = path.resolve()
        entry, module_name, name = None, f"{STUDY_MODULE}{path.stem}", str(path)
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise InputError(f"study file {name} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        allow_folder(path.parent)
        try:
            spec.loader.exec_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise InputError(
                f"study file {name} fails on import: {brief(' '.join(f'{type(error).__name__}: {error}'.split()), 300)}"
                "; correct it"
            ) from error
    else:
        entry = find(name)
        path, name = entry.study_path, entry.stem
        if not path.is_file():
            raise InputError(f"{entry.stem} has no study yet; it would be studies/{entry.field}/{path.name}")
        module = importlib.import_module(f"paperweight.studies.{entry.field}.{entry.stem}")
    declaration, run = getattr(module, "STUDY", None), getattr(module, "run", None)
    if not isinstance(declaration, Study) or not callable(run):
        raise InputError(f"{path.name} must define STUDY = Study(...) and run(arm, setting); see CONTRIBUTING.md")
    return LoadedStudy(name, entry, declaration, cast(Callable[[Arm[Any], Setting], Outcome], run), path)
