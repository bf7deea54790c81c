"""Faults of INTACT."""

from tests.faults.planting import Fault

P = "_salient_points"

FAULTS = (
    Fault(
        "judged on the support",
        "functional_call(model, moved, (judged,)), truth)",
        "functional_call(model, moved, (inputs,)), labels)",
    ),
    Fault("a step uphill", "weight - inner_lr * gradient", "weight + inner_lr * gradient"),
    Fault("always of first order", "create_graph=not first_order", "create_graph=False"),
    Fault("tasks add up", "return torch.stack(losses).mean()", "return torch.stack(losses).sum()"),
    Fault("teacher and student swapped", "F.kl_div(given, wanted,", "F.kl_div(wanted, given,"),
    Fault("a gradient to the teacher", "teacher.detach().log_softmax", "teacher.log_softmax"),
    Fault(
        "the teacher's weight on labels",
        "lam_changed * attacked + lam_teacher * divergence",
        "lam_teacher * attacked + lam_changed * divergence",
    ),
    Fault(
        "attacked by the teacher's gradient",
        "gradient = loss_gradient(self.model, points.detach(), labels)",
        "gradient = loss_gradient(self.teacher, points.detach(), labels)",
    ),
    Fault(
        "saliency of the student",
        "point_saliency(self.teacher, points, labels, self.generator)",
        "point_saliency(self.model, points, labels, self.generator)",
    ),
    Fault("all noise at the first level", "part = self.level / self.levels", "part = 1.0"),
    Fault("levels go on above the threshold", "(accuracy >= self.threshold)", "(accuracy > self.threshold)"),
    Fault(
        "levels do not end",
        "min(self.levels, self.level + (accuracy >= self.threshold))",
        "self.level + (accuracy >= self.threshold)",
    ),
    Fault("the level is lost", '        self.level = state_dict["level"]\n', ""),
    Fault(
        "saliency in train mode",
        "    with evaluating(model):\n        for _ in range(draws):",
        "    if True:\n        for _ in range(draws):",
        part=P,
    ),
    Fault("one noisy copy", "        for _ in range(draws):", "        for _ in range(1):", part=P),
    Fault("one coordinate counts", ".norm(dim=2)\n", "[..., 0].abs()\n", part=P),
    Fault(
        "least salient points",
        "saliency.argsort(dim=1, descending=True",
        "saliency.argsort(dim=1, descending=False",
        part=P,
    ),
    Fault(
        "direction of a cloud",
        "size = gradient.norm(dim=2, keepdim=True)",
        "size = gradient.norm(dim=(1, 2), keepdim=True)",
        part=P,
    ),
    Fault("against the gradient", "points + eps * direction", "points - eps * direction", part=P),
    Fault(
        "any point may be taken",
        "return torch.where(salient, moved, shaken)",
        "return torch.where(salient | taken, moved, shaken)",
        part=P,
    ),
    Fault("copies of the most salient point", "saliency.argmin(dim=1)", "saliency.argmax(dim=1)", part=P),
)
