"""Public names and arguments use the glossary's words and none of those in whose place they stand."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from paperweight.catalogue import package_root

GLOSSARY = (Path(__file__).resolve().parents[2] / "GLOSSARY.md").read_text(encoding="utf-8")


def synonyms() -> dict[str, str]:
    """Return each word that is not used, and the word in whose place it stands."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|([^|]*)\|$", GLOSSARY, re.MULTILINE)
    return {
        synonym.strip(): word
        for word, replaced in rows
        if word not in ("word", "---")
        for synonym in replaced.split(",")
        if synonym.strip()
    }


def public_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield where it is and the name of each public class, function and argument."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node.name
            kept = OF_ESTIMATORS if any(isinstance(b, ast.Name) and b.id == "BaseEstimator" for b in node.bases) else ()
            yield from ((f"{node.name}.{where}", name) for where, name in public_names(node) if name not in kept)
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name in CALLED):
            yield node.name, node.name
            arguments = node.args
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                yield node.name, argument.arg


CALLED = ("__init__", "__call__")
OF_ESTIMATORS = ("random_state",)
"""What scikit-learn asks of its estimators, whatever the glossary says."""


def clashes(source: str) -> list[str]:
    """List the names of a source text that are a phrase that is not used, or hold such a word."""
    replaced = synonyms()
    return [
        f"{where}: {name} has {synonym}, say {replaced[synonym]}"
        for where, name in public_names(ast.parse(source))
        for synonym in replaced
        if name.lower() == synonym or synonym in name.lower().split("_")
    ]


def test_no_public_name_has_a_word_that_the_glossary_replaces():
    files = sorted(package_root().rglob("*.py"))
    found = {str(path): clashes(path.read_text(encoding="utf-8")) for path in files if "migrations" not in path.parts}
    assert len(found) > 60
    assert {path: names for path, names in found.items() if names} == {}


def test_a_replaced_word_is_found_in_classes_functions_and_arguments():
    source = """
def weigh_treatment(num_classes): ...
def _private(rng): ...
class Config:
    def __init__(self, *, learning_rate): ...
    def step(self, epsilon, steps): ...
    def _hidden(self, net): ...
"""
    assert clashes(source) == [
        "weigh_treatment: weigh_treatment has treatment, say arm",
        "weigh_treatment: num_classes has num_classes, say classes",
        "Config: Config has config, say setting",
        "Config.__init__: learning_rate has learning_rate, say lr",
        "Config.step: epsilon has epsilon, say eps",
    ]


def test_an_estimator_keeps_the_argument_that_scikit_learn_asks_for():
    of_estimator = "class Grouping(BaseEstimator):\n    def __init__(self, random_state, rng): ..."
    assert clashes(of_estimator) == ["Grouping.__init__: rng has rng, say generator"]
    assert "Grouping.__init__: random_state has random_state, say generator" in clashes(
        of_estimator.replace("BaseEstimator", "Estimator")
    )


def test_the_glossary_lists_each_word_once_and_replaces_none_of_its_own():
    rows = re.findall(r"^\| ([^|]+) \|", GLOSSARY, re.MULTILINE)
    words = [word for row in rows if row not in ("word", "---") for word in row.split(", ")]
    assert len(words) == len(set(words)) > 40
    replaced = synonyms()
    assert len(replaced) > 60
    assert not set(words) & set(replaced)
