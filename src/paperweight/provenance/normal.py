"""The normal form of a definition: what it does, without what changes no number.

Layout, comments, docstrings, annotations, the texts of raised errors and the names of local variables do not count;
names of arguments do, since callers use them.
"""

import ast
import hashlib
from collections.abc import Iterator
from typing import cast

__all__ = ["digest", "local_names", "names_in"]

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_WITHOUT_EFFECT = ("annotation", "returns", "type_comment", "type_params")
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
_WORDS = {
    "Study": ("paper", "question", "claim", "metrics", "headline", "tuned", "limits"),
    "Arm": ("description",),
}


def digest(node: ast.AST, bound: tuple[str, ...] = ()) -> str:
    """Return twelve hexadecimal digits of the SHA-256 of a definition's normal form.

    Args:
        node: A function, class or statement.
        bound: What imported names mean, and what else the definition depends on beside its text.

    Example:
        >>> first, second = "def f(x): y = x; return y", "def f(x: int): z = x; return z"
        >>> digest(ast.parse(first).body[0]) == digest(ast.parse(second).body[0])
        True
    """
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        node = ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)
    names = {name: f"local {number}" for number, name in enumerate(local_names(node))}
    form = repr((_normal(node, names), bound))
    return hashlib.sha256(form.encode()).hexdigest()[:12]


def local_names(node: ast.AST) -> list[str]:
    """Return the names that a function gives to variables of its own, arguments left out, as they first occur."""
    if not isinstance(node, _FUNCTIONS):
        return []
    stored: dict[str, None] = {}
    kept: set[str] = set()
    for part in (part for child in ast.iter_child_nodes(node) for part in _walk(child)):
        if isinstance(part, ast.Global):
            kept.update(part.names)
        elif isinstance(part, ast.arg):
            kept.add(part.arg)
        elif isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
            stored[part.id] = None
        elif isinstance(part, _NAMED) and part.name:
            stored[part.name] = None
        elif isinstance(part, ast.alias):
            stored[(part.asname or part.name).split(".")[0]] = None
    return [name for name in stored if name not in kept]


def names_in(node: ast.AST) -> Iterator[ast.Name]:
    """Yield the names that a definition looks up, those of annotations and raised errors left out."""
    for part in _walk(node, skipped=ast.Raise):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            yield part


def _walk(node: ast.AST, skipped: type[ast.AST] | None = None) -> Iterator[ast.AST]:
    """Yield a node and all its parts, in the order of the text; of thousands of definitions, so it is quick."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if skipped is not None and isinstance(part, skipped):
            continue
        yield part
        children: list[ast.AST] = []
        for name in part._fields:
            value = getattr(part, name, None)
            if isinstance(value, ast.AST):
                if name not in _WITHOUT_EFFECT:
                    children.append(value)
            elif isinstance(value, list) and name not in _WITHOUT_EFFECT:
                children += [child for child in cast(list[object], value) if isinstance(child, ast.AST)]
        waiting += reversed(children)


def _normal(node: object, names: dict[str, str]) -> object:
    if isinstance(node, list):
        return tuple(_normal(part, names) for part in cast(list[object], node))
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Name):
        return ("Name", names.get(node.id, node.id), type(node.ctx).__name__)
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return ("Raise", _normal(node.exc.func, names))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _WORDS:
        node = _without_words(node, _WORDS[node.func.id])
    if isinstance(node, ast.JoinedStr):
        return ("JoinedStr", tuple(_merged(node.values, names)))
    parts: list[tuple[str, object]] = []
    for name, value in ast.iter_fields(node):
        if name in (*_WITHOUT_EFFECT, "ctx", "kind", "simple"):
            continue
        if name == "body" and isinstance(value, list) and not isinstance(node, ast.Lambda):
            value = _without_docstring(node, cast(list[ast.stmt], value))
        if name in ("name", "asname") and isinstance(value, str) and not isinstance(node, ast.alias):
            value = names.get(value, value)
        if value is not None and value != []:
            parts.append((name, _normal(cast(object, value), names)))
    if isinstance(node, ast.alias):
        bound = (node.asname or node.name).split(".")[0]
        return ("alias", node.name, names.get(bound, bound))
    return (type(node).__name__, tuple(parts))


def _merged(values: list[ast.expr], names: dict[str, str]) -> Iterator[object]:
    """Yield the parts of a formatted string, neighbouring texts as one: Python's versions split them differently."""
    text = ""
    for value in values:
        if isinstance(value, ast.Constant):
            text += str(value.value)
            continue
        if text:
            yield text
        text = ""
        yield _normal(value, names)
    if text:
        yield text


def _without_docstring(node: ast.AST, body: list[ast.stmt]) -> list[ast.stmt]:
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    return body[1:] if documented and ast.get_docstring(node, clean=False) is not None else body


def _without_words(call: ast.Call, words: tuple[str, ...]) -> ast.Call:
    """Return a declaration without what only words and conclusions depend on."""
    first = call.args[1:] if call.args and isinstance(call.args[0], ast.Constant) else call.args
    kept = [keyword for keyword in call.keywords if keyword.arg not in words]
    return ast.copy_location(ast.Call(func=call.func, args=first, keywords=kept), call)
