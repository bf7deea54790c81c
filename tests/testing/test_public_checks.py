"""The checks of public objects and of functions catch what they are meant to."""

import random
import sys
import types

import numpy as np
import pytest
import torch

from paperweight.testing import (
    CheckFailure,
    CheckReport,
    CheckResult,
    FunctionSubject,
    NotApplicable,
    check_function,
    contract,
    run_check,
)
from paperweight.testing.problems import quadratic, regression
from paperweight.testing.public import (
    check_bad_values,
    check_documented_arguments,
    check_example_runs,
    check_keeps_arguments,
    check_no_var_keywords,
    check_source_and_deviations,
)


def sound(x: float, y: float = 1.0) -> float:
    """Add.

    Args:
        x: One number,
            on two lines: this is no argument.

        y: The other.

    Returns:
        result: Their sum.

    Example:
        >>> sound(1.0)
        2.0
    """
    if x < 0:
        raise ValueError(f"x must be at least 0, got {x}")
    return x + y


def test_a_sound_function_passes():
    check_no_var_keywords(sound)
    check_documented_arguments(sound)
    check_example_runs(sound)
    check_bad_values(lambda x=0.0: sound(x), {"x": (-1.0, -2)})


def test_var_keywords_are_caught():
    with pytest.raises(CheckFailure, match=r"has \*\*options; name every argument"):
        check_no_var_keywords(lambda x, **options: x)


@pytest.mark.parametrize(
    "text", ["", "Args:\n    x: One.", "Args:\n    y: B.\n    x: A.", "Args:\n    x: A.\n    y: B.\n    z: C."]
)
def test_other_arguments_than_documented_are_caught(text):
    def wrong(x, y):
        return x

    wrong.__doc__ = text
    with pytest.raises(CheckFailure, match=r"the signature has \['x', 'y'\]"):
        check_documented_arguments(wrong)


@pytest.mark.parametrize(
    ("text", "reason"), [("None.", "no example"), ("Example:\n    >>> 1 + 1\n    3", "1 lines of the example fail")]
)
def test_missing_and_wrong_examples_are_caught(text, reason):
    def wrong():
        return None

    wrong.__doc__ = text
    with pytest.raises(CheckFailure, match=reason):
        check_example_runs(wrong)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("A. Source: in passing.\n\nDeviations:\n    none known", "Source"),
        ("A.\n\nSource:\n    A. Author.", "Deviations"),
        ("A.\n\nSource: A. Author.\n\nDeviations:", "Deviations"),
        ("A.\n\nSource:\n    A. Author.\n\nDeviations:\n    none known", None),
    ],
)
def test_module_docstring(monkeypatch, text, missing):
    module = types.ModuleType("paper_module", text)
    monkeypatch.setitem(sys.modules, "paper_module", module)

    def public():
        return None

    public.__module__ = "paper_module"
    result = run_check("check", lambda: check_source_and_deviations(public))
    assert result.passed == (missing is None)
    assert missing is None or f"has no {missing};" in str(result)


def refusing(message: str, error: type[Exception] = ValueError):
    def call(x: float = 0.0) -> None:
        if x < 0:
            raise error(message)

    return call


@pytest.mark.parametrize(
    ("call", "bad", "reason"),
    [
        (lambda x=0.0: None, {"x": (-1.0,)}, "x=-1.0 is accepted; validate"),
        (refusing("got -1.0"), {"x": (-1.0,)}, r"raised ValueError\('got -1.0'\); write 'x must"),
        (refusing("xx must be positive, got -1.0"), {"x": (-1.0,)}, "write 'x must"),
        (refusing("x must be positive"), {"x": (-1.0,)}, "write 'x must"),
        (refusing("x must be positive, got -1.0", TypeError), {"x": (-1.0,)}, "raise ValueError"),
        (refusing("x must be positive, got -1.0"), {"x": (-1.0, 2.0)}, "x=2.0 is accepted"),
        (refusing("x must be positive, got -1.0"), {}, "no bad value is declared"),
    ],
)
def test_accepted_values_and_poor_messages_are_caught(call, bad, reason):
    with pytest.raises(CheckFailure, match=reason):
        check_bad_values(call, bad)


def adds_noise(x):
    return x + torch.randn(())


def shuffles(x):
    random.shuffle([1, 2, 3])
    np.random.rand()
    return 2 * x


@pytest.mark.parametrize(
    ("function", "caught"),
    [
        (adds_noise, {"check_repeatable", "check_global_random_state"}),
        (lambda x: x.mul_(2), {"check_arguments_unmodified"}),
        (shuffles, {"check_global_random_state"}),
        (lambda x: {"twice": 2 * x, "sum": [x.sum().item()]}, set()),
    ],
)
def test_impure_functions_are_caught(function, caught):
    report = check_function(function, {"x": torch.ones(3)})
    assert {result.name for result in report.failures} == caught


def test_a_generator_argument_is_no_impurity():
    def draw(generator):
        return torch.rand(2, generator=generator)

    assert check_function(draw, {"generator": torch.Generator().manual_seed(3)}).passed


def test_null_law_of_a_function_catches_one_bit():
    given = {"x": torch.arange(1.0, 4.0)}
    assert check_function(torch.sin, given, null=lambda x: 1.0 * x, baseline=lambda x: x).passed
    report = check_function(torch.sin, given, null=lambda x: x * (1 + 2**-23), baseline=lambda x: x)
    assert [result.name for result in report.failures] == ["check_null"]


class Keeping:
    def __init__(self, lr: float = 0.1, *, steps: int = 3, loss=torch.sin, batches=()) -> None:
        self.lr, self.steps, self.loss, self.batches = lr, steps, loss, batches


class Forgetting:
    def __init__(self, lr: float = 0.1, steps: int = 3) -> None:
        self.lr, self._steps = lr, steps


class Resolving:
    def __init__(self, loss=None) -> None:
        self.loss = torch.sin if loss is None else loss


class Confusing(Keeping):
    def __init__(self, lr: float = 0.1, steps: int = 3) -> None:
        super().__init__(0.1, steps=steps)


@pytest.mark.parametrize("use", [Keeping, lambda: Keeping(0.5, steps=1), lambda: Keeping(batches=iter([]))])
def test_an_object_that_keeps_its_arguments_passes(use):
    check_keeps_arguments(Keeping, use)


@pytest.mark.parametrize(
    ("public", "use", "reason"),
    [
        (Forgetting, Forgetting, "Forgetting does not keep its argument steps"),
        (Resolving, Resolving, "the argument loss was None and is kept as 'torch.sin'"),
        (Confusing, lambda: Confusing(lr=0.5), r"the argument lr was 0\.5 and is kept as 0\.1"),
        (Keeping, dict, "the subject makes no Keeping"),
    ],
)
def test_an_argument_that_is_not_kept_is_caught(public, use, reason):
    with pytest.raises(CheckFailure, match=reason):
        check_keeps_arguments(public, use)
    assert public().lr == 0.1 if public is not Resolving else public().loss is torch.sin


def test_an_optimizer_keeps_its_arguments_in_its_defaults():
    check_keeps_arguments(torch.optim.SGD, lambda: torch.optim.SGD([torch.ones(1)], lr=0.5))


def test_contract_needs_a_known_kind_and_binds_the_arguments():
    with pytest.raises(ValueError, match="kind must have a contract, got 'layers'"):
        contract("layers", sound, FunctionSubject(make=sound, arguments={}))
    checks = contract("function", sound, FunctionSubject(make=sound, arguments={"x": 1.0}, bad={"x": (-1.0,)}))
    results = {name: run_check(name, check).passed for name, check in checks.items()}
    assert [name for name, passed in results.items() if not passed] == ["check_source_and_deviations"]


def test_report_is_readable():
    report = CheckReport((CheckResult("check_a", True), CheckResult("check_b", False, "it rose", "turn the sign")))
    assert not report.passed
    assert str(report) == "passed  check_a\nFAILED  check_b: it rose; turn the sign\n1 of 2 checks passed"


def test_toy_problems_are_convex_and_their_gradients_right():
    problem = quadratic(generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parameters = problem.parameters()
    problem.loss(parameters).backward()
    for p, target, curvature in zip(parameters, problem.target, problem.curvature, strict=True):
        torch.testing.assert_close(p.grad, curvature * (p.detach() - target))
        assert (curvature > 0).all()
    assert problem.loss(problem.target).item() == 0
    assert {p.is_contiguous() for p in parameters} == {True, False}
    fitted = regression(generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inputs, outputs = fitted.inputs[1], fitted.outputs[1]
    design = torch.cat([inputs, torch.ones(16, 1, dtype=torch.float64)], dim=1)
    solution = torch.linalg.lstsq(design, outputs).solution
    best = [solution[:5].T.clone().requires_grad_(), solution[5].clone().requires_grad_()]
    fitted.loss(best, step=5).backward()
    assert max(p.grad.abs().max().item() for p in best) < 1e-12


def test_what_does_not_apply_is_neither_passed_nor_failed():
    def refuses():
        raise NotApplicable("it refuses closures: none, please")

    result = run_check("check_closure", refuses)
    assert (result.passed, result.applicable, result.reason) == (False, False, "it refuses closures: none, please")
    report = CheckReport((CheckResult("check_a", True), result))
    assert report.passed
    assert report.failures == ()
    assert report.inapplicable == (result,)
    assert str(report).splitlines() == [
        "passed  check_a",
        "not applicable  check_closure: it refuses closures: none, please",
        "1 of 2 checks passed, 1 not applicable",
    ]
    assert not CheckReport((result, CheckResult("check_b", False, "it rose", "turn the sign"))).passed
