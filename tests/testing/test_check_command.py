"""The command ``paperweight check``: what it prints, and its exit status."""

import math
import sys
from functools import partial

import pytest
import torch
from tests.testing.test_attack_checks import PGD, LeavesHook, NoProjection, unchanged
from tests.testing.test_loss_checks import EpsOutsideTheRoot
from torch import nn

from paperweight.cli import main
from paperweight.errors import InputError
from paperweight.nets import evaluating
from paperweight.testing import AttackSubject, LossSubject, check_object

HERE = __name__


class WrongAxis(nn.Module):
    def forward(self, x):
        return x.softmax(dim=0)


def linear():
    return nn.Linear(5, 3)


def labels_agree(guesses, truths):
    return (guesses == truths).double().mean()


def not_quite(guesses, truths):
    return guesses.add_(1).eq(truths).double().mean()


def sign_step(model, inputs, labels):
    given = inputs.detach().requires_grad_()
    with evaluating(model), torch.enable_grad():
        loss = nn.functional.cross_entropy(model(given), labels, reduction="sum")
        return (inputs + 0.1 * torch.autograd.grad(loss, given)[0].sign()).clamp(0, 1)


def subject(attack):
    return AttackSubject(make=attack, norm=math.inf, radius=0.1, null=partial(attack, radius=0.0), baseline=unchanged)


SOUND = subject(PGD)
FAULTY = subject(NoProjection)
CONTRACT = {"sound": SOUND, "faulty": FAULTY, "else": LossSubject(make=nn.MSELoss, inputs=(), slow=None)}


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Give exit status, output and error output."""
    try:
        main(["check", *words])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


def test_a_sound_object_exits_with_0_and_names_each_check(capsys):
    status, output, _ = run(capsys, "loss", "torch.nn:CrossEntropyLoss", "--input", "8x5", "8:5")
    assert status == 0
    assert "passed  check_reductions\n" in output
    assert output.endswith("9 of 9 checks passed\n")


def test_a_faulty_object_exits_with_1_and_tells_reason_and_remedy(capsys):
    status, output, _ = run(capsys, "layer", f"{HERE}:WrongAxis", "--input", "4x5")
    assert status == 1
    (line,) = (line for line in output.splitlines() if line.startswith("FAILED"))
    assert line.startswith(
        "FAILED  check_samples_are_independent: another sample changes the output of sample 1; in eval"
    )


def test_what_is_refused_in_words_is_printed_and_no_failure(capsys):
    status, output, _ = run(capsys, "optimizer", "torch.optim:Muon")
    assert status == 0
    assert "not applicable  check_takes_every_shape: it refuses parameters of shapes (), (1,), (2,), (7,)" in output
    assert output.endswith("16 of 17 checks passed, 1 not applicable\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["layers", "torch.nn:ReLU"], "kind must be one of optimizer, schedule, layer"),
        (["layer", "torch.nn:ReLU"], "kind layer needs --input, one for each argument"),
        (["optimizer", "torch.optim:SGD", "--input", "4x5"], "kind optimizer takes no --input, got 4x5"),
        (["layer", "torch.nn:ReLU", "--input", "4,5"], "input must be a shape such as 8x5"),
        (["layer", "torch.nn:ReLU", "--input", "4x0"], "input must be a shape such as 8x5"),
        (["layer", "torch.nn:ReLU", "--input", "1x5"], "inputs must hold at least 2 samples"),
        (["layer", "torch.nn:Linear", "--input", "4x5"], "can be called without arguments, got 'Linear'; write a"),
        (["layer", "torch.nn:Nothing", "--input", "4x5"], "cannot be imported"),
        (["layer", "ReLU", "--input", "4x5"], "must be written package.module:name"),
        (["schedule", "torch.optim.lr_scheduler:StepLR"], "with an optimizer alone, got 'StepLR'"),
        (
            ["attack", "math:sqrt"],
            "is called as (model, inputs, labels), or makes that without arguments, got 'sqrt'",
        ),
        (["attack", f"{HERE}:SOUND", "--input", "4x5"], "kind attack takes no --input"),
        (["loss", f"{HERE}:SOUND"], "name must be of a LossSubject or of a loss, got a AttackSubject"),
        (["defense", f"{HERE}:linear"], "called with a model alone, got 'linear'"),
        (["loss", "torch.nn.functional:mse_loss", "--input", "4x5"], "without arguments, got 'mse_loss'"),
        (["function", "torch.nn.functional:mse_loss", "--input", "4x5"], "a function of 1 arguments"),
        (["experiment", "math:sqrt"], "without arguments, or with a generator alone, got 'sqrt'"),
    ],
)
def test_a_mistake_exits_with_2_and_one_message(capsys, words, message):
    status, output, errors = run(capsys, *words)
    assert (status, output) == (2, "")
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "name", "inputs"),
    [
        ("optimizer", "torch.optim:Adam", ()),
        ("schedule", "torch.optim.lr_scheduler:ConstantLR", ()),
        ("layer", f"{HERE}:linear", ("4x5",)),
        ("network", f"{HERE}:linear", ("4x5",)),
        ("loss", "torch.nn.functional:mse_loss", ("4x5", "4x5")),
        ("regularizer", "torch.linalg:matrix_norm", ("4x5",)),
        ("metric", f"{HERE}:labels_agree", ("8:3", "8:3")),
        ("function", "torch:sin", ("4x5",)),
        ("attack", "tests.testing.test_attack_checks:PGD", ()),
        ("attack", f"{HERE}:sign_step", ()),
        ("defense", "tests.testing.test_defense_checks:Noise", ()),
        ("unlearner", "tests.testing.test_unlearner_checks:FineTuning", ()),
        ("sampler", "tests.testing.test_sampler_checks:Heun", ()),
        ("compressor", "tests.testing.test_compressor_checks:Pruning", ()),
        ("training-procedure", "paperweight.testing:PlainTraining", ()),
        ("data-transform", "tests.testing.test_data_transform_checks:Noise", ()),
        ("experiment", f"{HERE}:coin", ()),
        ("estimator", "sklearn.naive_bayes:GaussianNB", ()),
        ("attack", f"{HERE}:SOUND", ()),
    ],
)
def test_every_kind_can_be_checked(kind, name, inputs):
    report = check_object(kind, name, inputs=inputs)
    assert report.passed, str(report)
    assert len(report.results) >= 3


def test_faults_of_functions_are_found():
    report = check_object("metric", f"{HERE}:not_quite", inputs=("8:3", "8:3"))
    assert [result.name for result in report.failures] == ["check_inputs_unmodified"]
    report = check_object("function", "torch:relu_", inputs=("8",))
    assert [result.name for result in report.failures] == ["check_arguments_unmodified"]
    report = check_object("loss", f"{EpsOutsideTheRoot.__module__}:EpsOutsideTheRoot", inputs=("4x5", "4:5"))
    assert [result.name for result in report.failures] == ["check_finite_at_extremes"]


def test_a_subject_has_what_only_its_author_knows_checked():
    assert check_object("attack", "tests.testing.test_attack_checks:NoProjection").passed
    report = check_object("attack", f"{HERE}:FAULTY")
    assert "check_inside_the_ball" in {result.name for result in report.failures}
    ran = {result.name for result in report.results}
    assert {"check_null", "check_optimum_on_linear_model"} <= ran
    with pytest.raises(InputError, match="of a DefenseSubject or of a defense, got a AttackSubject"):
        check_object("defense", f"{HERE}:SOUND")


def test_of_a_contract_every_subject_of_the_kind_is_checked():
    report = check_object("attack", f"{HERE}:CONTRACT")
    names = [result.name for result in report.results]
    assert names.count("check_inside_the_ball") == 2
    assert "check_inside_the_ball" in {result.name for result in report.failures}
    with pytest.raises(InputError, match="a mapping that holds a DefenseSubject"):
        check_object("defense", f"{HERE}:CONTRACT")


def test_faults_of_what_takes_a_generator_are_found():
    for kind, module, fault, caught in (
        ("attack", LeavesHook.__module__, "LeavesHook", "check_model_unmodified"),
        ("unlearner", "tests.testing.test_unlearner_checks", "DrawsGlobally", "check_global_random_state"),
        ("sampler", "tests.testing.test_sampler_checks", "GivesTrajectory", "check_meets_protocol"),
        ("data-transform", "tests.testing.test_data_transform_checks", "KeepsGraph", "check_meets_protocol"),
        ("defense", "tests.testing.test_defense_checks", "DrawsGlobally", "check_repeatable"),
    ):
        report = check_object(kind, f"{module}:{fault}")
        assert caught in {result.name for result in report.failures}, str(report)


def test_from_python_a_mistake_is_an_input_error():
    with pytest.raises(InputError, match="kind must be one of"):
        check_object("layers", "torch.nn:ReLU")


def coin(throws: int = 10, *, generator: torch.Generator) -> dict[str, float]:
    return {"heads": torch.rand(throws, generator=generator).mean().item()}


class Exits:
    """A loss that ends the program when it is called."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        sys.exit(0)


def test_an_object_that_ends_the_program_fails_its_checks(capsys):
    status, output, _ = run(capsys, "loss", f"{HERE}:Exits", "--input", "8x5", "8:5")
    assert status == 1
    assert "it ended the program with status 0" in output
