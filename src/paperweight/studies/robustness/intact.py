"""Noise aimed by a meta-learned teacher makes a network of point clouds tolerate noise (Darabi et al. 2025).

Not tested here: scans of streets, detection and tracking. Digits become clouds of points in the plane, and a small
network that takes the largest feature over points classifies them. The headline is the mean accuracy under four
corruptions: half of the points lost, three in four lost, all moved at random, a fifth of them anywhere. Arms differ in
what a student learns from, beside the clouds as they are.

What it can show: whether aimed noise that grows is better than the same corruptions at random, which is what a user
would do first, and than plain adversarial training or a curriculum without a teacher, with which the paper compares. An
accuracy under corruptions not above that of random corruptions would refute the claim here. As high a one with a
teacher that was trained as usual would show that meta-learning is not needed for it.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from paperweight.attacks import ProjectedGradient
from paperweight.loops import evaluate_classifier, index_batches, tune, warmed_cosine
from paperweight.robustness.intact import CurriculumTraining, meta_loss
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, Trained, classification
from paperweight.studies.robustness._points import CORRUPTIONS, PointNet, corrupted, points_of_images

_RATES = (0.007, 0.02, 0.06)
_BATCH = 64


class _Plan(NamedTuple):
    """What is done to clouds, and how the teacher learned."""

    by: Literal["nothing", "corruptions", "ascent", "curriculum", "aimed"]
    teacher: Literal["meta", "usual", "none"] = "none"


STUDY = Study(
    paper="intact",
    question="Is noise that a teacher aims at salient points, ever stronger, better than corruptions at random?",
    claim="A student of the meta-learned teacher's curriculum is more accurate under corruptions of point clouds.",
    arms={
        "corruptions": Arm("clouds as they are and with one of the four corruptions", _Plan("corruptions")),
        "intact": Arm("clouds as they are and with aimed noise, by five levels", _Plan("aimed", "meta")),
        "usual_teacher": Arm("part: as intact, the teacher trained as usual", _Plan("aimed", "usual")),
        "curriculum": Arm("control: random noise and losses that grow, no teacher", _Plan("curriculum")),
        "ascent": Arm("control: as they are and adversarial, every point moved", _Plan("ascent")),
        "nothing": Arm("control: clouds as they are", _Plan("nothing")),
    },
    metrics={
        "corrupted": Metric.higher("mean test accuracy under four corruptions", 0.02),
        "lost": Metric.higher("with half of the points lost", 0.02),
        "noise": Metric.higher("with each point moved at random", 0.02),
        "attacked": Metric.higher("under gradient ascent on all points", 0.02),
        "accuracy": Metric.higher("test accuracy of clouds as they are", 0.01),
    },
    headline="corrupted",
    tuned="the learning rate, 3 tries an arm and seed, a factor of 3 apart: by accuracy under corruptions, validation",
    limits=(
        "Small clouds in the plane, one small network, teacher and student of one size; the method is reconstructed "
        "from its abstract, and its sizes are not tuned. Nothing follows for scans of streets. That validation clouds "
        "are corrupted as test clouds are helps every arm alike."
    ),
    seeds=10,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train a teacher where there is one, and a student at each rate; judge the best on corrupted test clouds."""
    plan = arm.make
    task = classification(
        setting, smoke=(100, 40, 40), desk=(900, 300, 597), gpu=(20_000, 2_000, 5_000), normalised=False
    )
    steps, count, levels = setting.pick(smoke=(6, 8, 2), desk=(300, 32, 5), gpu=(10_000, 128, 5))
    source = setting.generator("data")
    clouds = {
        name: (points_of_images(part.images, count, source), part.labels)
        for name, part in (("train", task.train), ("validation", task.data.validation), ("test", task.data.test))
    }
    points, labels = clouds["train"]

    def network() -> PointNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.stream("init"))
            return PointNet(task.classes).to(setting.device)

    def teacher_weights() -> dict[str, Tensor]:
        teacher, draw = network(), setting.generator("method")
        optimizer = Adam(teacher.parameters(), lr=0.006)
        batches = index_batches(len(points), 2 * _BATCH, draw, setting.device)
        schedule = warmed_cosine(optimizer, steps)
        for _, index in zip(range(steps), batches, strict=False):
            halves = index.chunk(2)
            support, query = ([(corrupted(points[i], kind, draw), labels[i]) for kind in CORRUPTIONS] for i in halves)
            if plan.teacher == "meta":
                loss = meta_loss(teacher, support, query, inner_lr=0.05, first_order=True)
            else:
                loss = F.cross_entropy(teacher(points[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return dict(teacher.state_dict())

    teacher = network()
    if plan.teacher != "none":
        teacher.load_state_dict(setting.cached(f"teacher, {plan.teacher}", teacher_weights))

    def train(rate: float) -> Trained:
        model, draw = network(), setting.generator("method")
        optimizer = Adam(model.parameters(), lr=rate)
        schedule, losses = warmed_cosine(optimizer, steps), list[Tensor]()
        training = CurriculumTraining(model, optimizer, teacher, levels, generator=draw)
        ascent = ProjectedGradient(radius=0.1, steps=2, keep_going=True, bounds=(-2.0, 2.0))
        batches = index_batches(len(points), _BATCH, setting.generator("batches"), setting.device)
        for number, index in zip(range(steps), batches, strict=False):
            x, y = points[index], labels[index]
            if plan.by == "aimed":
                losses.append(training.step(x, y))
                if number % 25 == 24:
                    training.judge((model(x).argmax(dim=1) == y).double().mean().item())
            else:
                other = _other(plan.by, x, y, model, ascent, (number + 1) / steps, draw)
                loss = F.cross_entropy(model(x), y)
                loss = loss if other is None else loss + F.cross_entropy(model(other), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            schedule.step()
        return Trained(task.data, model, optimizer, torch.stack(losses), {"training": training}, {"steps": steps})

    def under(model: nn.Module, part: str, kind: str) -> float:
        given, truth = clouds[part]
        return evaluate_classifier(model, corrupted(given, kind, setting.generator("evaluation")), truth).accuracy

    def mean(model: nn.Module, part: str) -> float:
        return sum(under(model, part, kind) for kind in CORRUPTIONS) / len(CORRUPTIONS)

    tuned = tune(_RATES, train, lambda tried: mean(tried.model.eval(), "validation"), better="higher")
    best, (test, truth) = tuned.best.model.eval(), clouds["test"]
    climb = ProjectedGradient(radius=0.1, steps=20, bounds=(-2.0, 2.0))
    attacked = climb(best, test, truth, generator=setting.generator("evaluation"))
    spoilt = evaluate_classifier(best, corrupted(test, "noise", setting.generator("evaluation")), truth)
    return task.outcome(
        tuned,
        metrics={
            "corrupted": mean(best, "test"),
            "lost": under(best, "test", "lost points"),
            "noise": spoilt.accuracy,
            "attacked": evaluate_classifier(best, attacked, truth).accuracy,
            "accuracy": evaluate_classifier(best, test, truth).accuracy,
        },
        arguments={"points": count, **{f"test accuracy, {kind}": under(best, "test", kind) for kind in CORRUPTIONS}},
        curves={"validation accuracy under corruptions, by log10 lr": tuned.curve()},
        tested=spoilt,
    )


def _other(
    by: str, x: Tensor, y: Tensor, model: nn.Module, ascent: ProjectedGradient, part: float, draw: torch.Generator
) -> Tensor | None:
    """Give clouds to learn from beside those as they are."""
    if by == "nothing":
        return None
    if by == "ascent":
        return ascent(model, x, y, generator=draw)
    if by == "corruptions":
        kind = CORRUPTIONS[int(torch.randint(len(CORRUPTIONS), (1,), generator=draw))]
        return corrupted(x, kind, draw)
    moved = x + part * 0.3 * torch.randn(x.shape, generator=draw).to(x)
    lost = torch.rand(x.shape[:2], generator=draw).to(x) < part * 0.5
    return torch.where(lost[..., None], x[:, :1], moved)
