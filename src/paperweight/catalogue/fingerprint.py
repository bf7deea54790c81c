"""Hashes of code, so that a number expires when the code that made it changes.

The hash of a file leaves out comments, docstrings, layout, the card and ``__all__``. The shared code of a study is
every file of the package that the method or the study imports, directly or through others; it is found by reading
imports, so nothing is run. A package's ``__init__`` is followed name by name: adding a network to ``nets`` expires no
result of a study that does not use it. The catalogue and the texts of errors change no number and do not count.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import cast

from paperweight.catalogue.lookup import find
from paperweight.catalogue.reading import package_root
from paperweight.errors import InputError

__all__ = ["code_hashes", "file_hash", "imported_files"]


def _canonical(node: object) -> object:
    """Return a syntax tree as nested tuples without positions, docstrings and empty parts."""
    if isinstance(node, list):
        return tuple(_canonical(item) for item in cast(list[object], node))
    if not isinstance(node, ast.AST):
        return repr(node)
    parts: list[tuple[str, object]] = []
    for name, value in ast.iter_fields(node):
        if (
            name == "body"
            and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            value = value[1:]
        if isinstance(node, ast.Module) and name == "body":
            value = [part for part in value if not _is_label(part)]
        if value is not None and value != []:
            parts.append((name, _canonical(value)))
    return (type(node).__name__, tuple(parts))


def _is_label(node: ast.AST) -> bool:
    """Return whether a statement is a file's card or its list of public names."""
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("PAPER", "__all__")


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def _hashed(text: str) -> str:
    return hashlib.sha256(repr(_canonical(_parsed(text))).encode()).hexdigest()


@cache
def _import_statements(text: str) -> tuple[ast.AST, ...]:
    return tuple(node for node in ast.walk(_parsed(text)) if isinstance(node, ast.Import | ast.ImportFrom))


def _tree(path: Path) -> ast.Module:
    return _parsed(path.read_text(encoding="utf-8"))


def file_hash(path: Path) -> str:
    """Return the SHA-256 of what a Python file does: comments, docstrings, layout and the card do not count.

    Example:
        >>> from paperweight.catalogue.reading import package_root
        >>> len(file_hash(package_root() / "errors.py"))
        64
    """
    return _hashed(path.read_text(encoding="utf-8"))


def _module_file(module: str) -> Path | None:
    base = package_root().parent.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _named_source(package: Path, module: str, name: str) -> Iterator[Path]:
    """Yield the files that ``from module import name`` reaches, where ``module`` is a package."""
    submodule = _module_file(f"{module}.{name}")
    if submodule is not None:
        yield submodule
        return
    for node in ast.walk(_tree(package)):
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            yield from _imports(node)
            return
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == name and isinstance(value, ast.Constant):
                    target = _module_file(str(value.value)) or _module_file(f"{module}.{value.value}")
                    if target is not None:
                        yield target
                        return
    try:
        yield find(name).path
    except InputError:
        yield package


def _imports(node: ast.AST) -> Iterator[Path]:
    if isinstance(node, ast.Import):
        names = [(alias.name, None) for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module is not None:
        names = [(node.module, alias.name) for alias in node.names]
    else:
        return
    for module, name in names:
        path = _module_file(module) if module.split(".")[0] == "paperweight" else None
        if path is None:
            continue
        if name is not None and path.name == "__init__.py":
            yield from _named_source(path, module, name)
        else:
            yield path


def imported_files(start: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return every file of the package that the given files import, themselves left out, sorted.

    Args:
        start: Python files, inside the package or outside it.
    """
    seen = set(start)
    waiting = list(start)
    while waiting:
        for node in _import_statements(waiting.pop().read_text(encoding="utf-8")):
            for path in _imports(node):
                if path not in seen:
                    seen.add(path)
                    waiting.append(path)
    return tuple(sorted(seen - set(start)))


def code_hashes(method: Path | None, study: Path) -> dict[str, str]:
    """Return the hashes that a result is filed under: of the method, its study and all shared code.

    Args:
        method: The method's file; ``None`` for a study of something outside the library.
        study: The study's file.

    Returns:
        ``method``, ``study`` and ``shared`` to SHA-256 digests in hexadecimal.

    Example:
        >>> entry = find("laplacian_smoothing")
        >>> sorted(code_hashes(entry.path, entry.study_path))
        ['method', 'shared', 'study']
    """
    start = (study,) if method is None else (method, study)
    shared = hashlib.sha256()
    for path in imported_files(start):
        if path.is_relative_to(package_root() / "catalogue") or path.name == "errors.py":
            continue
        shared.update(f"{path.relative_to(package_root()).as_posix()}={file_hash(path)};".encode())
    return {
        "method": "" if method is None else file_hash(method),
        "study": file_hash(study),
        "shared": shared.hexdigest(),
    }
