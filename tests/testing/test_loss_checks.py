"""The loss checks catch faulty losses and regularizers, each by the check that is meant to, and pass torch's own."""

from functools import partial

import pytest
import torch
from torch import nn

from paperweight.testing import CheckReport, LossSubject, check_loss
from paperweight.testing.loss import loss_checks


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LOGITS, CLASSES, OTHERS = normal(4, 5), torch.tensor([0, 1, 2, 4]), normal(4, 5, seed=1)
SIGNS, HALVES = OTHERS.sign(), (OTHERS > 0).float()


class Focal:
    """A sound loss, (1 - p)^2 times the cross-entropy, whose parts the faulty ones replace."""

    def __init__(self, reduction="mean"):
        self.reduction = reduction

    def __call__(self, logits, classes):
        terms = self.terms(logits, classes)
        return {"none": terms, "mean": terms.mean(), "sum": terms.sum()}[self.reduction]

    def terms(self, logits, classes):
        surprise = -torch.log_softmax(logits, dim=1).gather(1, classes[:, None])[:, 0]
        return (1 - torch.exp(-surprise)) ** 2 * surprise


def slow_focal(logits, classes):
    total = 0.0
    for row, target in zip(logits.tolist(), classes.tolist(), strict=True):
        exponentials = torch.tensor(row, dtype=torch.float64).exp()
        p = (exponentials[target] / exponentials.sum()).item()
        total -= (1 - p) ** 2 * torch.tensor(p, dtype=torch.float64).log().item()
    return total / len(classes)


class OneTermASample(Focal):
    def __init__(self, reduction="none"):
        super().__init__(reduction)


class WrongSign(Focal):
    def terms(self, logits, classes):
        return -super().terms(logits, classes)


class WrongAxis(Focal):
    def terms(self, logits, classes):
        surprise = -torch.log_softmax(logits, dim=0).gather(1, classes[:, None])[:, 0]
        return (1 - torch.exp(-surprise)) ** 2 * surprise


class DetachesWeight(Focal):
    def terms(self, logits, classes):
        surprise = -torch.log_softmax(logits, dim=1).gather(1, classes[:, None])[:, 0]
        return ((1 - torch.exp(-surprise)) ** 2).detach() * surprise


class Detached(Focal):
    def terms(self, logits, classes):
        return super().terms(logits, classes).detach()


class NaiveExponentials(Focal):
    def terms(self, logits, classes):
        p = (logits.exp() / logits.exp().sum(dim=1, keepdim=True)).gather(1, classes[:, None])[:, 0]
        return -((1 - p) ** 2) * p.log()


class EpsOutsideTheRoot(Focal):
    """Its value is finite, but at 0 the gradient of the root is not."""

    def terms(self, logits, classes):
        return super().terms(logits, classes) + (logits**2).sum(dim=1).sqrt() + 1e-8


class WeighsByPosition(Focal):
    def terms(self, logits, classes):
        return super().terms(logits, classes) * torch.arange(1, len(logits) + 1).to(logits)


class MeanOverClasses(Focal):
    def __call__(self, logits, classes):
        value = super().__call__(logits, classes)
        return value / logits.shape[1] if self.reduction == "mean" else value


class ScalarForNone(Focal):
    def __call__(self, logits, classes):
        return super().__call__(logits, classes).mean()


class DrawsGlobally(Focal):
    def terms(self, logits, classes):
        return super().terms(logits, classes) * (1 + 0.1 * torch.rand(()).to(logits))


class SeedsGlobally(Focal):
    def terms(self, logits, classes):
        torch.manual_seed(0)
        return super().terms(logits, classes)


class ChangesLogits(Focal):
    def terms(self, logits, classes):
        return super().terms(logits.detach().sub_(1) if not logits.requires_grad else logits, classes)


class ChangesClasses(Focal):
    def terms(self, logits, classes):
        return super().terms(logits, classes.copy_(classes.flip(0)).flip(0))


class Upcasts(Focal):
    def terms(self, logits, classes):
        return super().terms(logits.double(), classes)


class OverflowsInBfloat16(Focal):
    def terms(self, logits, classes):
        return super().terms(logits, classes) / (1 + torch.tensor(1e-3, dtype=logits.dtype) - 1)


FAULTY = {
    OneTermASample: "check_gives_a_scalar",
    WrongSign: "check_equals_slow_form",
    WrongAxis: "check_equals_slow_form",
    DetachesWeight: "check_gradients",
    Detached: "check_gradients",
    NaiveExponentials: "check_finite_at_extremes",
    EpsOutsideTheRoot: "check_finite_at_extremes",
    WeighsByPosition: "check_order_of_samples",
    MeanOverClasses: "check_reductions",
    ScalarForNone: "check_reductions",
    DrawsGlobally: "check_repeatable",
    SeedsGlobally: "check_global_random_state",
    ChangesLogits: "check_inputs_unmodified",
    ChangesClasses: "check_inputs_unmodified",
    Upcasts: "check_dtype_and_device_preserved",
    OverflowsInBfloat16: "check_dtype_and_device_preserved",
}


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def test_the_sound_loss_passes_every_check():
    report = check_loss(Focal, LOGITS, CLASSES, slow=slow_focal, null=Focal, baseline=Focal)
    assert report.passed, str(report)
    assert {result.name for result in report.results} == {*FAULTY.values(), "check_null"}


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = check_loss(faulty, LOGITS, CLASSES, slow=slow_focal)
    caught = {result.name: result for result in report.failures}
    assert FAULTY[faulty] in caught, str(report)
    assert not caught[FAULTY[faulty]].reason.startswith("it raised"), str(report)


class OneBitOff(Focal):
    def terms(self, logits, classes):
        return super().terms(logits, classes) * (1 + 2**-52)


class OtherGradient(Focal):
    def terms(self, logits, classes):
        terms = super().terms(logits, classes)
        return terms + (logits.sum() - logits.sum().detach())


@pytest.mark.parametrize("null", [OneBitOff, OtherGradient])
def test_null_law_catches_one_bit_and_the_gradient(null):
    assert failed(check_loss(Focal, LOGITS, CLASSES, null=null, baseline=Focal)) == {"check_null"}


def test_declared_extremes_replace_the_default_ones():
    certain = (torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.eye(2))
    assert failed(check_loss(nn.BCELoss, LOGITS.sigmoid(), HALVES)) == {"check_finite_at_extremes"}
    assert check_loss(nn.BCELoss, LOGITS.sigmoid(), HALVES, extremes=(certain,)).passed

    def unguarded(p, y):
        return -(y * p.log() + (1 - y) * (1 - p).log()).mean()

    report = check_loss(partial(partial, unguarded), LOGITS.sigmoid(), HALVES, extremes=(certain,))
    assert failed(report) == {"check_finite_at_extremes"}


def squares(weights, strength=1.0):
    """A sound regularizer on a list of weights."""
    return strength * sum((weight**2).sum() for weight in weights)


def test_a_regularizer_takes_a_list_of_tensors():
    weights = [normal(3, 2), normal(3)]

    def slow(weights):
        return sum(x**2 for weight in weights for x in weight.flatten().tolist())

    assert check_loss(partial(partial, squares), weights, slow=slow).passed
    other = [normal(3, 2), normal(4)]
    assert failed(check_loss(partial(partial, squares), other, slow=slow)) == {"check_order_of_samples"}


def gradient_penalty(model, x, tidy=True):
    """A regularizer on a network and inputs; untidy, it leaves mode, gradients and hooks behind."""
    given = x.detach().clone().requires_grad_()
    was_training = model.training
    model.eval()
    if not tidy:
        model.register_forward_hook(lambda *_: None)
        model(given).sum().backward()
    slope = torch.autograd.grad(model(given).sum(), given, create_graph=True)[0]
    if tidy:
        model.train(was_training)
    return slope.square().sum(1).mean()


def test_a_network_among_the_inputs_is_watched():
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    checks = {tidy: partial(partial, gradient_penalty, tidy=tidy) for tidy in (True, False)}
    reports = {tidy: check_loss(make, model, LOGITS, differentiable=()) for tidy, make in checks.items()}
    assert failed(reports[True]) <= {"check_gradients", "check_finite_at_extremes"}
    (result,) = (result for result in reports[False].failures if result.name == "check_inputs_unmodified")
    for word in ("mode of Sequential", "hooks of Sequential", "gradient of 0.weight"):
        assert word in result.reason


def test_own_parameters_are_differentiated():
    class Centres(nn.Module):
        def __init__(self):
            super().__init__()
            self.centres = nn.Parameter(torch.zeros(5, 5))

        def forward(self, x, classes):
            return ((x - self.centres[classes]) ** 2).mean()

    class Stuck(Centres):
        def forward(self, x, classes):
            return ((x - self.centres.detach()[classes]) ** 2).mean() + 0 * self.centres.sum()

    assert check_loss(Centres, LOGITS, CLASSES).passed
    assert failed(check_loss(Stuck, LOGITS, CLASSES)) == {"check_gradients"}


CONTROLS = [
    (nn.MSELoss, {}, (LOGITS, OTHERS)),
    (nn.L1Loss, {}, (LOGITS, OTHERS)),
    (nn.SmoothL1Loss, {}, (LOGITS, OTHERS)),
    (nn.HuberLoss, {}, (LOGITS, OTHERS)),
    (nn.CrossEntropyLoss, {}, (LOGITS, CLASSES)),
    (nn.CrossEntropyLoss, {"label_smoothing": 0.1}, (LOGITS, OTHERS.softmax(1))),
    (nn.NLLLoss, {}, (LOGITS, CLASSES)),
    (nn.GaussianNLLLoss, {}, (LOGITS, OTHERS, HALVES + 0.5)),
    (nn.BCEWithLogitsLoss, {}, (LOGITS, HALVES)),
    (nn.HingeEmbeddingLoss, {}, (LOGITS, SIGNS)),
    (nn.MultiLabelSoftMarginLoss, {}, (LOGITS, HALVES)),
    (nn.CosineEmbeddingLoss, {}, (LOGITS, OTHERS, SIGNS[:, 0])),
    (nn.MarginRankingLoss, {}, (LOGITS, OTHERS, SIGNS)),
    (nn.TripletMarginLoss, {}, (LOGITS, OTHERS, normal(4, 5, seed=2))),
    (nn.TripletMarginWithDistanceLoss, {}, (LOGITS, OTHERS, normal(4, 5, seed=2))),
]
KNOWN_FAILURES = [
    # It takes probabilities, and refuses others.
    (nn.BCELoss, {}, (LOGITS.sigmoid(), HALVES), {"check_finite_at_extremes"}),
    # They take the exponential of what they are given.
    (nn.PoissonNLLLoss, {}, (LOGITS, HALVES), {"check_finite_at_extremes"}),
    (nn.SoftMarginLoss, {}, (LOGITS, SIGNS), {"check_finite_at_extremes"}),
    # They have no kernel for bfloat16 on the CPU.
    (nn.MultiMarginLoss, {}, (LOGITS, CLASSES), {"check_dtype_and_device_preserved"}),
    (
        nn.MultiLabelMarginLoss,
        {},
        (LOGITS, torch.tensor([[0, -1, 0, 0, 0]] * 4)),
        {"check_dtype_and_device_preserved"},
    ),
    # Its mean is weighted, its terms are not divided by the weights.
    (nn.NLLLoss, {"weight": torch.arange(1.0, 6.0)}, (LOGITS, CLASSES), {"check_reductions"}),
    # Its "batchmean" is the mean over the samples, its "mean" one over all entries, with a warning.
    (nn.KLDivLoss, {"reduction": "batchmean"}, (LOGITS.log_softmax(1), OTHERS.softmax(1)), {"check_reductions"}),
]


@pytest.mark.parametrize(
    ("loss", "arguments", "inputs", "expected"),
    [*((*control, set()) for control in CONTROLS), *KNOWN_FAILURES],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_torch_losses_pass(loss, arguments, inputs, expected):
    report = check_loss(partial(loss, **arguments), *inputs)
    assert failed(report) == expected, str(report)


def test_subject_binds_bad_values_and_finds_the_reduction_of_class_and_function():
    def loss(x, y, *, margin=1.0, reduction="mean"):
        if margin < 0:
            raise ValueError(f"margin must be at least 0, got {margin}")
        return torch.relu(margin - x * y).mean()

    for make, has_reduction in ((partial(partial, loss), True), (nn.MSELoss, True), (partial(partial, squares), False)):
        subject = LossSubject(make=make, inputs=(LOGITS, OTHERS), slow=None)
        assert ("check_reductions" in loss_checks(subject)) == has_reduction
    with pytest.raises(ValueError, match="margin must be at least 0, got -1"):
        LossSubject(make=partial(partial, loss), inputs=(LOGITS, SIGNS), slow=None).use(margin=-1)
