"""The laws of each kind are those that its words name; they apply to all, but where a subject must declare something.

That a paper runs all laws that apply to it is asserted in its own test file, see `tests.paper`.
"""

import re

import pytest
from tests.subjects import checks

from paperweight import kinds
from paperweight.catalogue import KINDS, entries
from paperweight.testing import KIND_LAWS, always, declares_null

WORDS = {kind: getattr(kinds, "".join(part.title() for part in kind.split("-"))).__doc__ for kind in KIND_LAWS}
WORDS["network"], WORDS["regularizer"] = WORDS["layer"], WORDS["loss"]

DECLARED = {
    "attack": {"check_inside_the_ball", "check_samples_are_independent"},
    "data-transform": {"check_labels"},
    "defense": {"check_certificates_hold"},
    "experiment": {"check_known_answers"},
    "layer": {"check_shape", "check_parameter_count"},
    "network": {"check_shape", "check_parameter_count"},
    "loss": {"check_equals_slow_form", "check_reductions"},
    "metric": {"check_known_values", "check_symmetries", "check_stream_equals_batch"},
    "sampler": {"check_order_of_convergence"},
    "schedule": {"check_documented_values"},
}
DECLARED["regularizer"] = DECLARED["loss"]
"""Laws that apply only where a subject declares what they need, beside the null law; all others always apply."""

UNUSED = {"check_reductions"}
"""Laws that no paper has switched on yet."""


def laws(condition: object) -> dict[str, set[str]]:
    """Return for each kind the laws that apply under a condition."""
    return {
        kind: {check.__name__ for check, applies in found.items() if applies is condition}
        for kind, found in KIND_LAWS.items()
    }


def test_every_kind_but_those_without_a_method_has_laws():
    assert KIND_LAWS.keys() <= set(KINDS)
    assert {kind for entry in entries() for kind in entry.paper.provides.values()} <= KIND_LAWS.keys()


@pytest.mark.parametrize("kind", KIND_LAWS)
def test_the_laws_of_a_kind_are_those_that_its_words_name(kind):
    public = set(re.findall(r"`(check_\w+)`", WORDS["function"])[:6]) if kind == "function" else set()
    named = set(re.findall(r"`(check_\w+)`", WORDS[kind])) - public
    assert len(named) >= 4
    assert {check.__name__ for check in KIND_LAWS[kind]} == named


@pytest.mark.parametrize("kind", KIND_LAWS)
def test_a_law_always_applies_unless_a_subject_must_declare_something(kind):
    named = {check.__name__ for check in KIND_LAWS[kind]}
    assert laws(declares_null)[kind] == {"check_null"}
    assert laws(always)[kind] == named - {"check_null"} - DECLARED.get(kind, set())


def test_every_law_is_switched_on_by_some_paper():
    ran = {
        (kind, check)
        for entry in entries()
        for name, kind in entry.paper.provides.items()
        for public, check in checks(entry)
        if public == name
    }
    used = {kind for kind, _ in ran}
    assert {check for kind in used for check in DECLARED.get(kind, ()) if (kind, check) not in ran} == UNUSED
