"""The definitions of a source tree, which of them a result depends on, and whether they have changed.

A *unit* is a function, a method, what remains of a class without its methods, or a module-level statement. It is named
``module:qualified.name``; all module-level statements that bind no name are the unit ``module:<module>``.
"""

import ast
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, final

from paperweight.provenance.kept import keep, recall
from paperweight.provenance.normal import digest, local_names, names_in
from paperweight.provenance.recording import Recording

__all__ = ["SourceTree", "Unit", "changed", "file_digest", "here"]

PACKAGE = "paperweight"
_UNIT_OF_MODULE = "<module>"
_DECLARATION = "STUDY"
_ROOM = Path(__file__).parent.name
_LABELS = ("PAPER", "__all__")
_CALLED_LATER = ("partial", "Arm")
_SETS = ("names", "called", "imports")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@final
@dataclass(frozen=True, slots=True)
class Unit:
    """A definition.

    Args:
        name: Its qualified name in the file.
        kind: ``function``, ``class`` or ``statement``.
        first: Its first line, decorators included.
        last: Its last line.
        digest: Hash of its normal form.
        names: The names it looks up, where it has not bound them itself.
        called: Those that are called while the module is imported, and their arguments.
        imports: What it imports itself, as (module, name in it).
    """

    name: str
    kind: str
    first: int
    last: int
    digest: str
    names: frozenset[str]
    called: frozenset[str]
    imports: frozenset[tuple[str, str]]


@final
@dataclass(frozen=True, slots=True)
class _Module:
    """What a file defines and imports.

    Args:
        units: Its units by name.
        bound: Name to the unit that binds it.
        imports: Name to (module, name in it), the second empty where the module itself is imported.
        texts: Pairs of constants in dictionaries, by which packages name the homes of what they export.
    """

    units: dict[str, Unit] = field(default_factory=dict[str, Unit])
    bound: dict[str, str] = field(default_factory=dict[str, str])
    imports: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    texts: dict[str, str] = field(default_factory=dict[str, str])

    def plain(self) -> dict[str, Any]:
        """Return it as values of JSON, always in the same order."""
        units = [asdict(unit) | {name: sorted(getattr(unit, name)) for name in _SETS} for unit in self.units.values()]
        return {"units": units, "bound": self.bound, "imports": self.imports, "texts": self.texts}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "_Module":
        """Return what `plain` gave."""
        units = [
            Unit(
                **each
                | {
                    "names": frozenset(each["names"]),
                    "called": frozenset(each["called"]),
                    "imports": frozenset((module, name) for module, name in each["imports"]),
                }
            )
            for each in plain["units"]
        ]
        imports = {name: (module, target) for name, (module, target) in plain["imports"].items()}
        return cls({unit.name: unit for unit in units}, plain["bound"], imports, plain["texts"])


@final
class SourceTree:
    """A folder that holds the package, such as ``src`` of a checkout.

    Args:
        folder: The folder.

    Example:
        >>> tree = SourceTree(Path(__file__).parents[2])
        >>> len(tree.digest("provenance.units:SourceTree.digest"))
        12
        >>> tree.digest("provenance.units:nothing")
        ''
    """

    def __init__(self, folder: Path) -> None:
        self.package = folder.resolve() / PACKAGE

    def digest(self, name: str) -> str:
        """Return the hash of a unit, empty where there is none of that name."""
        module, _, qualified = name.rpartition(":")
        path = self._file(module)
        unit = None if path is None else _read(path).units.get(qualified)
        return "" if unit is None else unit.digest

    def path(self, name: str) -> Path | None:
        """Return the file of a unit, where there is one."""
        return self._file(name.rpartition(":")[0])

    def unit_at(self, path: Path, line: int) -> str:
        """Return the name of the innermost unit that holds a line of a file, empty where none does."""
        unit = _innermost(_read(path), line)
        return "" if unit is None else f"{self._module(path)}:{unit.name}"

    def state(self) -> str:
        """Return a hash of all files of the package, their layout and words included."""
        found = hashlib.sha256()
        for (*folders, name), entry in sorted(_sources(self.package, ()), key=lambda source: source[0]):
            module = ".".join(folders if name == "__init__.py" else (*folders, name.removesuffix(".py")))
            found.update(f"{module} {_content(entry)}".encode())
        return found.hexdigest()[:16]

    def used(self, record: Recording) -> dict[str, str]:
        """Return what a run depends on.

        Args:
            record: Tells which functions it executed.

        Returns:
            Name to hash of every unit that was executed, and of the statements and classes that these refer to, as far
            as they were executed when their modules were imported; sorted by name.
        """
        seen: dict[tuple[Path, str], Unit] = {}
        waiting: list[tuple[Path, Unit, bool]] = []

        def visit(path: Path, unit: Unit, imported: bool) -> None:
            if (path, unit.name) not in seen and path.parent.name != _ROOM:
                seen[path, unit.name] = unit
                waiting.append((path, unit, imported))

        for file, line in record.lines:
            path = Path(file).resolve()
            if not path.is_relative_to(self.package):
                continue
            module = _read(path)
            if (unit := _innermost(module, line)) is not None:
                visit(path, unit, False)
            for name in (_UNIT_OF_MODULE, _DECLARATION):
                if name in module.units:
                    visit(path, module.units[name], True)
        while waiting:
            path, unit, imported = waiting.pop()
            *classes, _ = unit.name.split(".")
            for depth in range(len(classes)):
                owner = _read(path).units.get(".".join(classes[: depth + 1]))
                if owner is not None:
                    visit(path, owner, True)
            for name in unit.names:
                follow = imported and (unit.kind == "function" or name in unit.called)
                for where, target in self._resolve(path, name):
                    if target.kind != "function" or follow:
                        visit(where, target, True)
            for module, name in unit.imports:
                for where, target in self._imported(module, name, set()):
                    if target.kind != "function":
                        visit(where, target, True)
            for name in unit.called if unit.kind == "function" and not imported else ():
                for where, target in self._resolve(path, name):
                    visit(where, target, True)
        found = {f"{self._module(path)}:{name}": unit.digest for (path, name), unit in seen.items()}
        return dict(sorted((record.units | found).items()))

    def _module(self, path: Path) -> str:
        """Return the dotted name of a file below the package."""
        folders = path.parts[len(self.package.parts) : -1]
        return ".".join(folders if path.stem == "__init__" else (*folders, path.stem))

    def _file(self, module: str) -> Path | None:
        """Return the file that a module's name stands for, where there is one."""
        base = self.package.joinpath(*module.split(".")) if module else self.package
        return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)

    def _resolve(self, path: Path, name: str) -> Iterator[tuple[Path, Unit]]:
        """Yield the units that a name in a file stands for."""
        module = _read(path)
        if name in module.bound:
            yield path, module.units[module.bound[name]]
        elif name in module.imports:
            yield from self._imported(*module.imports[name], set())

    def _imported(self, module: str, name: str, asked: set[tuple[str, str]]) -> Iterator[tuple[Path, Unit]]:
        if (module, name) in asked:
            return
        asked.add((module, name))
        path = self._file(module.partition(".")[2]) if module.split(".")[0] == PACKAGE else None
        if path is None:
            return
        found = _read(path)
        if not name:
            yield from ((path, unit) for unit in found.units.values() if unit.kind == "statement")
        elif name in found.bound:
            yield path, found.units[found.bound[name]]
        elif name in found.imports:
            yield from self._imported(*found.imports[name], asked)
        elif path.name == "__init__.py":
            home = found.texts.get(name)
            if home is not None:
                yield from self._imported(home if home.startswith(PACKAGE) else f"{module}.{home}", name, asked)
            elif self._file(f"{module}.{name}".partition(".")[2]) is not None:
                yield from self._imported(f"{module}.{name}", "", asked)
            else:
                for paper in sorted(path.parent.glob("[!_]*.py")):
                    if name in _read(paper).bound:
                        yield paper, _read(paper).units[_read(paper).bound[name]]
                        return


def file_digest(path: Path) -> str:
    """Return a hash of all definitions of a file, or of its bytes where it cannot be read as Python.

    Args:
        path: The file.

    Example:
        >>> len(file_digest(Path(__file__)))
        12
    """
    try:
        text = ";".join(sorted(f"{unit.name}={unit.digest}" for unit in _read(path).units.values())).encode()
    except (SyntaxError, ValueError):
        text = path.read_bytes()
    return hashlib.sha256(text).hexdigest()[:12]


def here() -> SourceTree:
    """Return the tree that this package runs from."""
    return SourceTree(Path(__file__).parents[2])


def changed(tree: SourceTree, units: Mapping[str, str]) -> list[str]:
    """Return the units of a result that a tree no longer has, or has otherwise.

    Args:
        tree: The tree as it is now.
        units: Name to hash, as `SourceTree.used` returned them when the result was made.
    """
    return [name for name, hashed in units.items() if tree.digest(name) != hashed]


def _innermost(module: _Module, line: int) -> Unit | None:
    around = [unit for unit in module.units.values() if unit.first <= line <= unit.last]
    return min(around, key=lambda unit: unit.last - unit.first, default=None)


def _sources(
    folder: Path | os.DirEntry[str], parts: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], os.DirEntry[str]]]:
    """Find the files of Python below a folder, with the names that lead to each; every trial asks, so it is quick."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _sources(entry, (*parts, entry.name))
            elif entry.name.endswith(".py"):
                yield (*parts, entry.name), entry


def _content(file: os.DirEntry[str]) -> str:
    stat = file.stat()
    return _hashed(file.path, stat.st_mtime_ns, stat.st_size)


@cache
def _hashed(path: str, _modified: int, _size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _read(path: Path) -> _Module:
    stat = path.stat()
    return _parsed(str(path), stat.st_mtime_ns, stat.st_size)


@cache
def _parsed(path: str, _modified: int, _size: int) -> _Module:
    content = Path(path).read_bytes()
    kept = recall(Path(path), content)
    if kept is not None:
        return _Module.of(kept)
    found = _found(content)
    keep(Path(path), content, found.plain())
    return found


def _found(content: bytes) -> _Module:
    tree = ast.parse(content)
    found = _Module()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.imports.update(_import_targets(node))
    found.texts.update(_constant_pairs(tree))
    statements: dict[str, list[ast.stmt]] = {}
    for position, node in enumerate(tree.body):
        if isinstance(node, _DEFINITIONS):
            for unit in _definitions(node, "", found.imports):
                found.units[unit.name] = unit
            found.bound[node.name] = node.name
        elif not (isinstance(node, ast.Import | ast.ImportFrom) or _says_nothing(node, position)):
            names = _stored(node)
            owner = next((found.bound[name] for name in names if name in found.bound), None)
            owner = owner or (names[0] if names and isinstance(node, ast.Assign | ast.AnnAssign) else _UNIT_OF_MODULE)
            if owner not in found.units:
                statements.setdefault(owner, []).append(node)
            found.bound.update(dict.fromkeys(names, owner))
    for owner, nodes in statements.items():
        found.units[owner] = _unit(owner, "statement", nodes, found.imports)
    return found


def _definitions(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, prefix: str, imports: Mapping[str, tuple[str, str]]
) -> Iterator[Unit]:
    name = f"{prefix}{node.name}"
    if not isinstance(node, ast.ClassDef):
        yield _unit(name, "function", [node], imports)
        return
    methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = [part for part in node.body if isinstance(part, ast.ClassDef)]
    derived = bool(node.bases)
    meant = sorted(m.name for m in methods if m.name.startswith("__") or (derived and not m.name.startswith("_")))
    body = [part for part in node.body if not isinstance(part, _DEFINITIONS)] or [ast.Pass()]
    rest = ast.ClassDef(
        name=node.name, bases=node.bases, keywords=node.keywords, body=body, decorator_list=node.decorator_list
    )
    yield _unit(name, "class", [ast.copy_location(rest, node)], imports, tuple(meant), node)
    for part in (*methods, *inner):
        yield from _definitions(part, f"{name}.", imports)


def _unit(
    name: str,
    kind: str,
    nodes: list[ast.stmt],
    imports: Mapping[str, tuple[str, str]],
    more: tuple[str, ...] = (),
    span: ast.stmt | None = None,
) -> Unit:
    names: set[str] = set()
    called: set[str] = set()
    digests: list[str] = []
    inner: set[tuple[str, str]] = set()
    for node in nodes:
        own = {*local_names(node), *_arguments(node)}
        here = {part.id for part in names_in(node)}
        for part in ast.walk(node):
            if isinstance(part, ast.Import | ast.ImportFrom):
                inner.update(_import_targets(part).values())
        names |= here - own
        called |= set(_called(node))
        meant = tuple(sorted(f"{n} is {':'.join(imports[n])}" for n in here - own if n in imports))
        digests.append(digest(node, (*meant, *more)))
    around = [span] if span is not None else nodes
    return Unit(
        name=name,
        kind=kind,
        first=min(_first_line(node) for node in around),
        last=max(node.end_lineno or node.lineno for node in around),
        digest=digests[0] if len(digests) == 1 else digest(ast.Pass(), tuple(digests)),
        names=frozenset(names),
        called=frozenset(called),
        imports=frozenset(inner),
    )


def _called(node: ast.AST) -> Iterator[str]:
    """Yield the names that are called, or handed to what is called, while the module is imported."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        parts: list[ast.AST] = [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
        yield from (name.id for part in node.decorator_list for name in names_in(part))
    else:
        parts = [node]
    while parts:
        part = parts.pop()
        if isinstance(part, ast.Lambda):
            continue
        if isinstance(part, ast.Call):
            yield from (name.id for name in names_in(part.func))
            if not (isinstance(part.func, ast.Name) and part.func.id in _CALLED_LATER):
                handed = (*part.args, *(keyword.value for keyword in part.keywords))
                yield from (given.id for given in handed if isinstance(given, ast.Name))
        if isinstance(part, ast.ClassDef):
            yield from (name.id for base in (*part.bases, *part.decorator_list) for name in names_in(base))
        parts.extend(ast.iter_child_nodes(part))


def _arguments(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from (part.arg for part in ast.walk(node) if isinstance(part, ast.arg))


def _first_line(node: ast.stmt) -> int:
    decorators = node.decorator_list if isinstance(node, _DEFINITIONS) else []
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _says_nothing(node: ast.stmt, position: int) -> bool:
    """Return whether a statement is a text, a card, a list of public names, or for type checkers alone."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) in _LABELS
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _stored(node: ast.stmt) -> list[str]:
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]


def _import_targets(node: ast.Import | ast.ImportFrom) -> dict[str, tuple[str, str]]:
    if isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        return {alias.asname or alias.name: (module, alias.name) for alias in node.names}
    return {alias.asname or alias.name.split(".")[0]: (alias.name, "") for alias in node.names}


def _constant_pairs(tree: ast.Module) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    pairs[str(key.value)] = str(value.value)
    return pairs
