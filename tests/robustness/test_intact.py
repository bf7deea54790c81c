"""INTACT: meta-learning against a step by hand, saliency of a linear model, noise point by point, levels and losses."""

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.robustness.intact import (
    CurriculumTraining,
    meta_loss,
    point_saliency,
    student_loss,
    targeted_noise,
)
from paperweight.testing import FunctionSubject, LossSubject, PlainTraining, TrainingProcedureSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


class Clouds(nn.Module):
    """A small network of point clouds: each point by itself, then the largest of all points."""

    def __init__(self, seed: int = 0, coordinates: int = 2) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.last = nn.Linear(coordinates, 12), nn.Linear(12, 3)

    def forward(self, points: Tensor) -> Tensor:
        return self.last(self.first(points).tanh().amax(dim=1))


POINTS = normal(32, 6, 2, seed=1)
LABELS = torch.arange(32) % 3
FEW = POINTS[:5], LABELS[:5]
CENTRES = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]])
DATA = (0.3 * POINTS + CENTRES[LABELS][:, None], LABELS)
SHARES = torch.tensor([[0.4, 0.1, 0.2, 0.05, 0.05, 0.2]])
NUMBERS = (-0.1, math.nan, math.inf, True)
UNIT = (-0.1, 1.1, math.nan, True)
BATCHES = [FEW, (POINTS[5:9], LABELS[5:9])]


def made(model: nn.Module, data: Any, generator: torch.Generator, **given: Any) -> CurriculumTraining:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return CurriculumTraining(model, optimizer, Clouds(7).to(data[0]), **given, generator=generator)


def loop(logits: Tensor, changed: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    total = torch.zeros((), dtype=logits.dtype)
    for a, b, t, y in zip(logits, changed, teacher, labels, strict=True):
        p, q = t.softmax(dim=0), b.softmax(dim=0)
        divergence = sum(p[k] * (p[k] / q[k]).log() for k in range(len(p)))
        total = total - a.log_softmax(dim=0)[y] - 0.7 * b.log_softmax(dim=0)[y] + 0.3 * divergence
    return total / len(logits)


CONTRACT = {
    "CurriculumTraining": TrainingProcedureSubject(
        make=made,
        evaluations=8 * 3 * 8,
        random=True,
        model=Clouds,
        data=DATA,
        bad={
            "levels": (0, 1.0, True),
            "threshold": UNIT,
            "eps": NUMBERS,
            "background": NUMBERS,
            "drop": UNIT,
            "share": UNIT,
            "lam_changed": NUMBERS,
            "lam_teacher": NUMBERS,
        },
        null=partial(made, lam_changed=0.0, lam_teacher=0.0),
        baseline=lambda model, data, generator: PlainTraining(model, lr=0.1, momentum=0.9),
    ),
    "meta_loss": FunctionSubject(
        make=meta_loss,
        arguments={"model": Clouds(), "support": BATCHES, "query": BATCHES[::-1]},
        bad={"query": ([], BATCHES[:1]), "inner_lr": NUMBERS},
    ),
    "point_saliency": FunctionSubject(
        make=lambda generator=None, **given: point_saliency(generator=generator or seeded(), **given),
        arguments={"model": Clouds(), "points": FEW[0], "labels": FEW[1]},
        bad={"points": (POINTS[:0], POINTS[0], POINTS.long()), "noise": NUMBERS, "draws": (0, 1.0, True)},
    ),
    "student_loss": LossSubject(
        make=partial(partial, student_loss, lam_changed=0.7, lam_teacher=0.3),
        inputs=(normal(4, 3, seed=2), normal(4, 3, seed=3), normal(4, 3, seed=4), LABELS[:4]),
        slow=loop,
        bad={"lam_changed": NUMBERS, "lam_teacher": NUMBERS},
    ),
    "targeted_noise": FunctionSubject(
        make=lambda generator=None, **given: targeted_noise(generator=generator or seeded(), **given),
        arguments={"points": POINTS[:1], "gradient": POINTS[1:2], "saliency": SHARES},
        bad={
            "points": (POINTS[:0], POINTS[0]),
            "gradient": (POINTS[:2],),
            "saliency": (SHARES[0],),
            "eps": NUMBERS,
            "background": NUMBERS,
            "drop": UNIT,
            "share": UNIT,
        },
    ),
}


@pytest.mark.parametrize("first_order", [False, True])
def test_meta_learning_is_the_gradient_of_the_loss_after_a_step(first_order: bool) -> None:
    model = Clouds().double()
    support, query = ([(x.double(), y) for x, y in batches] for batches in (BATCHES, BATCHES[::-1]))
    loss = meta_loss(model, support, query, 0.3, first_order)
    expected = torch.zeros((), dtype=torch.float64)
    gradients = [torch.zeros_like(p) for p in model.parameters()]
    for (x, y), (x_, y_) in zip(support, query, strict=True):
        stepped = copy.deepcopy(model)
        steps = torch.autograd.grad(F.cross_entropy(stepped(x), y), list(stepped.parameters()))
        with torch.no_grad():
            for p, step in zip(stepped.parameters(), steps, strict=True):
                p -= 0.3 * step
        judged = F.cross_entropy(stepped(x_), y_)
        expected += judged.detach() / 2
        for total, each in zip(gradients, torch.autograd.grad(judged, list(stepped.parameters())), strict=True):
            total += each / 2
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, list(model.parameters()))
    same = [torch.allclose(one, other) for one, other in zip(found, gradients, strict=True)]
    assert all(same) if first_order else not any(same)
    if not first_order:  # the whole gradient, against differences
        moved = copy.deepcopy(model)
        with torch.no_grad():
            moved.last.weight[0, 0] += 1e-6
        slope = (meta_loss(moved, support, query, 0.3) - loss) / 1e-6
        assert found[2][0, 0].item() == pytest.approx(slope.item(), rel=1e-4)


def test_without_a_step_meta_learning_is_joint_learning_and_frozen_weights_do_not_step() -> None:
    model = Clouds()
    joint = torch.stack([F.cross_entropy(model(x), y) for x, y in BATCHES]).mean()
    assert torch.equal(meta_loss(model, BATCHES, BATCHES, 0.0), joint)
    model.first.requires_grad_(False)
    loss = meta_loss(model, BATCHES, BATCHES, 0.1)
    loss.backward()
    assert model.first.weight.grad is None
    assert model.last.weight.grad is not None


def test_saliency_of_a_linear_model_is_the_size_of_its_weights() -> None:
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    found = point_saliency(model, POINTS[:4].double(), torch.tensor([0, 1, 0, 1]), seeded(), draws=3)
    size = (model[1].weight[0] - model[1].weight[1]).view(6, 2).norm(dim=1)
    torch.testing.assert_close(found, (size / size.sum()).expand(4, 6))


def test_saliency_is_the_mean_size_over_noisy_copies() -> None:
    model, source = Clouds().double(), seeded(3)
    x = POINTS[:2].double()
    total = torch.zeros(2, 6, dtype=torch.float64)
    for _ in range(2):
        shaken = (x + 0.5 * torch.randn(2, 6, 2, generator=source)).requires_grad_()
        losses = F.cross_entropy(model(shaken), LABELS[:2], reduction="sum")
        total += torch.autograd.grad(losses, shaken)[0].norm(dim=2)
    found = point_saliency(model, x, LABELS[:2], seeded(3), noise=0.5, draws=2)
    torch.testing.assert_close(found, total / total.sum(dim=1, keepdim=True))


def test_saliency_is_shared_equally_where_there_is_none_and_mode_and_weights_stay() -> None:
    model: Any = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(12, 2)).train()
    nn.init.zeros_(model[2].weight)
    found = point_saliency(model, POINTS[:3], LABELS[:3] % 2, seeded())
    torch.testing.assert_close(found, torch.full((3, 6), 1 / 6))
    assert model.training
    assert model[2].weight.grad is None


def test_salient_points_move_along_the_gradient_and_others_by_noise() -> None:
    gradient = normal(1, 6, 2, seed=5)
    found = targeted_noise(POINTS[:1], gradient, SHARES, seeded(6), eps=0.7, background=0.01, drop=0.0, share=0.5)
    noise = 0.01 * torch.randn(1, 6, 2, generator=seeded(6))
    for point in range(6):
        expected = POINTS[0, point] + noise[0, point]
        if point in (0, 2, 5):
            expected = POINTS[0, point] + 0.7 * gradient[0, point] / gradient[0, point].norm()
        torch.testing.assert_close(found[0, point], expected)


def test_salient_points_are_taken_away_as_often_as_told() -> None:
    many, shares = POINTS[:1].expand(4000, 6, 2), SHARES.expand(4000, 6)
    still = torch.zeros(4000, 6, 2)
    found = targeted_noise(many, still, shares, seeded(), eps=1.0, background=0.0, drop=0.3, share=1 / 3)
    gone = (found == POINTS[0, 3]).all(dim=2)
    assert gone.double().mean(dim=0).tolist() == pytest.approx([0.3, 0, 0.3, 1, 0, 0], abs=0.03)
    assert torch.equal(found[~gone], many[~gone])


def test_without_strength_clouds_stay_as_they_are() -> None:
    found = targeted_noise(POINTS[:1], POINTS[1:2], SHARES, seeded(), eps=0.0, background=0.0, drop=0.0)
    assert torch.equal(found, POINTS[:1])


def test_an_update_is_made_of_its_parts_and_grows_with_the_level() -> None:
    x, y = DATA[0][:8], DATA[1][:8]
    training = made(Clouds(), DATA, seeded(8), levels=4, drop=0.0)
    training.judge(0.9)
    source, model, teacher = seeded(8), Clouds(), Clouds(7)
    saliency = point_saliency(teacher, x, y, source)
    given = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(given), y, reduction="sum"), given)
    changed = targeted_noise(x, gradient, saliency, source, eps=0.15, background=0.025, drop=0.0, share=0.25)
    expected = student_loss(model(x), model(changed), teacher(x), y)
    torch.testing.assert_close(training.step(x, y), expected.detach())
    assert all(p.grad is None for p in training.teacher.parameters())


def test_levels_go_on_at_the_threshold_and_end() -> None:
    training = made(Clouds(), DATA, seeded(), levels=3, threshold=0.6)
    assert [training.judge(value) for value in (0.59, 0.6, 0.1, 1.0, 1.0)] == [1, 2, 2, 3, 3]
    with pytest.raises(ValueError, match="accuracy must be from 0 to 1"):
        training.judge(60.0)
    other = made(Clouds(), DATA, seeded())
    other.load_state_dict(training.state_dict())
    assert other.level == 3


def test_no_gradient_flows_to_the_teacher_s_logits() -> None:
    teacher = normal(4, 3, seed=4).requires_grad_()
    logits = normal(4, 3, seed=2).requires_grad_()
    loss = student_loss(logits, 2 * logits, teacher, LABELS[:4])
    (found,) = torch.autograd.grad(loss, teacher, allow_unused=True)
    assert found is None


def test_saliency_is_looked_at_in_eval_mode() -> None:
    model: Any = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(12, 2)).train()
    with torch.no_grad():
        model[2].weight[0].fill_(1.0)
    found = point_saliency(model, POINTS[:3], LABELS[:3] % 2, seeded())
    assert (found > 0).all()
    assert model.training
