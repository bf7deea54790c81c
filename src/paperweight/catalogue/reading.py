"""Reading cards and signatures from method files by ``ast``, so that nothing of theirs is imported."""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from paperweight.catalogue.card import FIELDS, Paper
from paperweight.errors import InputError

__all__ = ["Entry", "entries", "package_root", "read_card", "signatures"]

_RECIPE = re.compile(r"^RECIPE = Recipe\($", re.MULTILINE)
_EMBEDDING = re.compile(r"^EMBEDDING = Embedding\($", re.MULTILINE)
_CARD = re.compile(r"^PAPER = (Paper\(.*?^\))$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """One paper of the catalogue: its card and where it lives.

    Args:
        stem: The file's name without its ending; unique over the whole tree.
        field: The research field, which is the folder.
        path: The method file.
        paper: The card.

    Example:
        >>> from paperweight.catalogue import find
        >>> find("laplacian_smoothing").module
        'paperweight.optim.laplacian_smoothing'
    """

    stem: str
    field: str
    path: Path
    paper: Paper

    @property
    def module(self) -> str:
        """Dotted name of the method's module."""
        return f"paperweight.{self.field}.{self.stem}"

    @property
    def study_path(self) -> Path:
        """The study's file: same field, same stem."""
        return package_root() / "studies" / self.field / self.path.name

    @property
    def has_recipe(self) -> bool:
        """Whether a screen can apply it: its study says how by ``RECIPE``."""
        return self._says(_RECIPE)

    @property
    def has_embedding(self) -> bool:
        """Whether an encoder can learn by it without labels: its study says how by ``EMBEDDING``."""
        return self._says(_EMBEDDING)

    def _says(self, declaration: re.Pattern[str]) -> bool:
        path = self.study_path
        return path.is_file() and declaration.search(path.read_text(encoding="utf-8")) is not None


def package_root() -> Path:
    """Return the folder of the ``paperweight`` package."""
    return Path(__file__).resolve().parents[1]


def read_card(path: Path) -> Paper | None:
    """Read the literal ``PAPER = Paper(...)`` of a method file without importing it.

    Args:
        path: A Python file.

    Returns:
        The card, or ``None`` where the file has none.

    Raises:
        InputError: If the card is not made of literals, or its values break a rule.

    Example:
        >>> from paperweight.catalogue.reading import package_root
        >>> read_card(package_root() / "optim" / "laplacian_smoothing.py").year
        2022
    """
    match = _CARD.search(path.read_text(encoding="utf-8"))
    if match is None:
        return None
    try:
        call = ast.parse(match.group(1), mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("a card takes keyword arguments only")
        values = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        return Paper(**values)
    except (ValueError, TypeError, SyntaxError) as error:
        raise InputError(f"{path}: the card PAPER must hold literal keyword arguments only; {error}") from error


@cache
def entries() -> tuple[Entry, ...]:
    """Return every paper of the library, ordered by field and stem.

    Example:
        >>> any(entry.stem == "laplacian_smoothing" for entry in entries())
        True
    """
    found: list[Entry] = []
    for field in FIELDS:
        for path in sorted((package_root() / field).glob("[!_]*.py")):
            paper = read_card(path)
            if paper is not None:
                found.append(Entry(path.stem, field, path, paper))
    return tuple(found)


def signatures(entry: Entry) -> dict[str, str]:
    """Return what each public name of a paper is called with, read from its source.

    Args:
        entry: A paper of the catalogue.

    Returns:
        Public name to its call, such as ``"f(x, sigma=1.0)"``, in the card's order.

    Example:
        >>> from paperweight.catalogue import find
        >>> signatures(find("laplacian_smoothing"))["noise_reduction_factor"].startswith("noise_reduction_factor(n")
        True
    """
    calls: dict[str, str] = {}
    for node in ast.parse(entry.path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            calls[node.name] = f"{node.name}({ast.unparse(node.args)})"
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    method.args.args = method.args.args[1:]
                    calls[node.name] = f"{node.name}({ast.unparse(method.args)})"
    return {name: calls.get(name, name) for name in entry.paper.provides}
