"""INTACT: a meta-learned teacher points at what matters in a point cloud, and a student is attacked there, ever harder.

The teacher is trained over tasks, which are kinds of corruption, so that one step of training on a task serves it. The
gradient of its loss tells which points a cloud is recognised by. A student learns from clouds whose salient points are
moved against it or taken away, by more at each level, and from the teacher's predictions.
Cost: a step takes a pass through the teacher and three through the student; meta-training about three passes a task.

Source:
    N. Darabi, D. Kumar, S. Tayebati, A. R. Trivedi, "INTACT: Inducing Noise Tolerance through Adversarial Curriculum
    Training for LiDAR-based Safety-Critical Perception and Autonomy", 2025, https://arxiv.org/abs/2502.01896.
    Implemented: what its abstract describes.

Deviations:
    - Only the abstract was at hand, and no code of the authors was found. It says that a teacher is meta-learned, that
      its saliency maps say where a student is perturbed, and that noise grows along a curriculum; the rest is a
      reconstruction: the model-agnostic meta-learning of C. Finn, P. Abbeel, S. Levine 2017,
      https://arxiv.org/abs/1703.03400; saliency as the size of the loss's gradient for a point; what is done to
      salient points; levels that go on at an accuracy; and the losses of the student.
    - A point that is taken away becomes a copy of the cloud's least salient one, so that clouds keep their size.
"""

import math
from collections.abc import Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from paperweight.catalogue import Paper
from paperweight.nets import evaluating
from paperweight.robustness._salient_points import check_number, loss_gradient, point_saliency, targeted_noise

__all__ = ["CurriculumTraining", "meta_loss", "point_saliency", "student_loss", "targeted_noise"]

PAPER = Paper(
    title="INTACT: Inducing Noise Tolerance through Adversarial Curriculum Training for LiDAR-based Safety-Critical "
    "Perception and Autonomy",
    authors=("Nastaran Darabi", "Divake Kumar", "Sina Tayebati", "Amit Ranjan Trivedi"),
    year=2025,
    url="https://arxiv.org/abs/2502.01896",
    provides={
        "CurriculumTraining": "training-procedure",
        "meta_loss": "function",
        "point_saliency": "function",
        "student_loss": "loss",
        "targeted_noise": "function",
    },
    null={"lam_changed": 0.0, "lam_teacher": 0.0},
    claim="Noise that a meta-learned teacher aims at salient points makes a network tolerate noise and lost points.",
)

Batch = tuple[Tensor, Tensor]


def meta_loss(
    model: nn.Module,
    support: Sequence[Batch],
    query: Sequence[Batch],
    inner_lr: float = 0.01,
    first_order: bool = False,
) -> Tensor:
    """Compute the mean over tasks of the loss on the query at theta - a grad L_support(theta), a step on the support.

    Args:
        model: Maps inputs to logits (N, classes); its weights stay, and the loss has a gradient to them.
        support: Inputs and class numbers of each task, to step on.
        query: The same, to judge the step by; as many tasks, at least one.
        inner_lr: a, finite and at least 0; at 0 the loss is the mean of the losses on the queries.
        first_order: Whether the gradient leaves out that the step depends on the weights.

    Returns:
        A scalar.

    Raises:
        ValueError: If there are not as many of both, or none, or the rate is outside its range.

    Example:
        >>> batch = torch.eye(2), torch.tensor([0, 1])
        >>> meta_loss(nn.Linear(2, 2), [batch], [batch], inner_lr=0.1).shape
        torch.Size([])
    """
    if not query or len(support) != len(query):
        raise ValueError(f"query must be a batch for each of the supports, one at least, got {len(query)}")
    if isinstance(inner_lr, bool) or not 0 <= inner_lr < math.inf:
        raise ValueError(f"inner_lr must be at least 0 and finite, got {inner_lr!r}")
    weights: dict[str, Tensor] = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    losses: list[Tensor] = []
    for (inputs, labels), (judged, truth) in zip(support, query, strict=True):
        moved = weights
        if inner_lr > 0:
            loss = F.cross_entropy(model(inputs), labels)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=not first_order)
            pairs = zip(weights.items(), gradients, strict=True)
            moved = {name: weight - inner_lr * gradient for (name, weight), gradient in pairs}
        losses.append(F.cross_entropy(functional_call(model, moved, (judged,)), truth))
    return torch.stack(losses).mean()


def student_loss(
    logits: Tensor,
    changed: Tensor,
    teacher: Tensor,
    labels: Tensor,
    lam_changed: float = 1.0,
    lam_teacher: float = 0.5,
) -> Tensor:
    """Compute CE(f(x), y) + lam CE(f(x'), y) + lam' KL(teacher(x) || f(x')), means over the batch.

    Args:
        logits: The student's on clouds as they are, (N, classes).
        changed: The student's on changed clouds, same shape.
        teacher: The teacher's on clouds as they are, same shape; no gradient flows to them.
        labels: Class numbers, int64, (N,).
        lam_changed: lam, finite and at least 0.
        lam_teacher: lam', finite and at least 0.

    Returns:
        A scalar.

    Raises:
        ValueError: If a weight is outside its range.

    Example:
        >>> logits = torch.zeros(1, 4)
        >>> student_loss(logits, logits, logits, torch.tensor([0]))
        tensor(2.7726)
    """
    check_number("lam_changed", lam_changed)
    check_number("lam_teacher", lam_teacher)
    wanted, given = teacher.detach().log_softmax(dim=1), changed.log_softmax(dim=1)
    divergence = F.kl_div(given, wanted, reduction="batchmean", log_target=True)
    attacked = F.cross_entropy(changed, labels)
    return F.cross_entropy(logits, labels) + lam_changed * attacked + lam_teacher * divergence


@final
class CurriculumTraining:
    """Trains a student on clouds, as they are and with `targeted_noise` of the present level.

    At level t of T the noise has t / T of its sizes; it begins at the first level. With both weights 0 it is plain
    training, bit for bit.

    Args:
        model: The student, maps clouds (N, points, coordinates) to logits (N, classes); trained in place.
        optimizer: Holds its parameters; steps without a closure.
        teacher: As the student, trained; looked at in eval mode.
        levels: T, at least 1.
        threshold: Accuracy from which on `judge` goes on to the next level, from 0 to 1.
        eps: As in `targeted_noise`, at the last level, and the following, too.
        background: What moves other points.
        drop: Share of salient points taken away.
        share: Share of points that are salient.
        lam_changed: As in `student_loss`.
        lam_teacher: As there.
        generator: Source of what is random.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> model, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(6, 2)) for _ in range(2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> training = CurriculumTraining(model, optimizer, teacher, generator=torch.Generator())
        >>> training.step(torch.zeros(4, 3, 2), torch.tensor([0, 1, 0, 1])).shape, training.level
        (torch.Size([]), 1)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        teacher: nn.Module,
        levels: int = 5,
        threshold: float = 0.8,
        eps: float = 0.3,
        background: float = 0.05,
        drop: float = 0.5,
        share: float = 0.25,
        lam_changed: float = 1.0,
        lam_teacher: float = 0.5,
        *,
        generator: torch.Generator,
    ) -> None:
        if not isinstance(levels, int) or isinstance(levels, bool) or levels < 1:
            raise ValueError(f"levels must be a whole number of at least 1, got {levels!r}")
        for name, value, most in (
            ("threshold", threshold, 1),
            ("eps", eps, math.inf),
            ("background", background, math.inf),
            ("drop", drop, 1),
            ("share", share, 1),
            ("lam_changed", lam_changed, math.inf),
            ("lam_teacher", lam_teacher, math.inf),
        ):
            check_number(name, value, most)
        self.model, self.optimizer, self.teacher, self.levels, self.threshold = (
            model,
            optimizer,
            teacher,
            levels,
            threshold,
        )
        self.eps, self.background, self.drop, self.share = eps, background, drop, share
        self.lam_changed, self.lam_teacher, self.generator = lam_changed, lam_teacher, generator
        self.level = 1

    def step(self, points: Tensor, labels: Tensor) -> Tensor:
        """Take one update on clouds, (n, points, coordinates), and give the loss before it."""
        self.model.train()
        if self.lam_changed == 0 and self.lam_teacher == 0:
            loss = F.cross_entropy(self.model(points), labels)
        else:
            changed = self._changed(points, labels)
            with evaluating(self.teacher), torch.no_grad():
                wanted = self.teacher(points)
            logits, attacked = self.model(torch.cat([points, changed])).chunk(2)
            loss = student_loss(logits, attacked, wanted, labels, self.lam_changed, self.lam_teacher)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def judge(self, accuracy: float) -> int:
        """Go on to the next level if an accuracy at the present one, from 0 to 1, is high enough; give the level."""
        check_number("accuracy", accuracy, 1)
        self.level = min(self.levels, self.level + (accuracy >= self.threshold))
        return self.level

    def _changed(self, points: Tensor, labels: Tensor) -> Tensor:
        saliency = point_saliency(self.teacher, points, labels, self.generator)
        with evaluating(self.model):
            gradient = loss_gradient(self.model, points.detach(), labels)
        part = self.level / self.levels
        sizes = {"eps": part * self.eps, "background": part * self.background, "drop": part * self.drop}
        return targeted_noise(points, gradient, saliency, self.generator, share=self.share, **sizes)

    def state_dict(self) -> dict[str, Any]:
        """Give what is needed to go on beside the weights: states of optimizer and generator, and the level."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "level": self.level,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.generator.set_state(state_dict["generator"])
        self.level = state_dict["level"]
