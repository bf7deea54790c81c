"""Finding papers by name, field, kind or text, and re-exporting what their cards provide."""

import importlib
from collections.abc import Callable
from difflib import get_close_matches

from paperweight.catalogue.card import FIELDS, KINDS
from paperweight.catalogue.reading import Entry, entries
from paperweight.errors import InputError

__all__ = ["find", "lazy_exports", "nearest", "select"]


def nearest(name: str, known: list[str]) -> str:
    """Return a sentence that suggests the known names nearest to a mistyped one.

    Example:
        >>> nearest("laplacian_smothing", ["laplacian_smoothing", "edm"])
        'did you mean laplacian_smoothing?'
        >>> nearest("zzz", ["edm"])
        'known: edm'
    """
    by_lower = {other.lower(): other for other in known}
    asked = name.lower().replace("-", "_")
    close = [by_lower[other] for other in get_close_matches(asked, list(by_lower), n=3, cutoff=0.5)]
    close += [other for other in known if asked in other.lower() and other not in close][:3]
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"


def find(name: str) -> Entry:
    """Return the paper with a stem, or the one that provides a public name.

    Args:
        name: A stem such as ``laplacian_smoothing``, or a public name such as ``LaplacianSmoothingSGD``.

    Raises:
        InputError: If nothing has this name; the message suggests the nearest.

    Example:
        >>> find("LaplacianSmoothingSGD").stem
        'laplacian_smoothing'
    """
    for entry in entries():
        if name == entry.stem or name in entry.paper.provides:
            return entry
    known = [entry.stem for entry in entries()] + [public for entry in entries() for public in entry.paper.provides]
    raise InputError(f"there is no paper called {name!r}; {nearest(name, known)}")


def select(*, field: str | None = None, kind: str | None = None, search: str | None = None) -> tuple[Entry, ...]:
    """Return the papers that meet every given condition.

    Args:
        field: A research field.
        kind: A kind that the paper must provide.
        search: Words, all of which must occur in stem, title, authors, claim or public names, whatever their case.

    Raises:
        InputError: If the field or the kind does not exist.

    Example:
        >>> [entry.stem for entry in select(field="optim", search="laplacian gradient")]
        ['laplacian_smoothing']
    """
    for name, value, known in (("field", field, FIELDS), ("kind", kind, KINDS)):
        if value is not None and value not in known:
            raise InputError(f"{name} {value!r} does not exist; {nearest(value, list(known))}")

    def matches(entry: Entry) -> bool:
        paper = entry.paper
        text = " ".join((entry.stem, paper.title, *paper.authors, paper.claim, *paper.provides)).lower()
        return (
            (field is None or entry.field == field)
            and (kind is None or kind in paper.provides.values())
            and all(word in text for word in (search or "").lower().split())
        )

    return tuple(entry for entry in entries() if matches(entry))


def lazy_exports(package: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return the module functions ``__getattr__`` and ``__dir__``, and ``__all__``, of a field's package.

    Args:
        package: The package's dotted name, ``paperweight.<field>``.

    Example:
        >>> __getattr__, __dir__, __all__ = lazy_exports("paperweight.optim")
        >>> "LaplacianSmoothingSGD" in __all__
        True
    """
    field = package.rpartition(".")[2]
    modules = {public: entry.module for entry in entries() if entry.field == field for public in entry.paper.provides}

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; {nearest(name, sorted(modules))}")
        return getattr(importlib.import_module(modules[name]), name)

    return get, lambda: sorted(modules), sorted(modules)
