"""Faults of ARREST."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("angles in radians", "2 / math.pi * torch.atan2", "2 * torch.atan2"),
    Fault("half the angle", "2 / math.pi * torch.atan2", "1 / math.pi * torch.atan2"),
    Fault(
        "lengths count",
        "F.normalize(vectors.flatten(1), dim=1, eps=torch.finfo(vectors.dtype).tiny)",
        "vectors.flatten(1)",
    ),
    Fault("no angle of vanishing vectors", "torch.full_like(angles, 0.5)", "torch.zeros_like(angles)"),
    Fault("first linear layer", "next(reversed(layers), None)", "next(iter(layers), None)"),
    Fault("hook stays", "        hook.remove()", "        pass"),
    Fault("last of several calls", "if len(seen) != 1:", "if not seen:"),
    Fault("noise where nothing has drifted", "now) > self.threshold", "now) <= self.threshold"),
    Fault("drift of the attacked image", "self.drifted(model, given)", "self.drifted(model, attacked)"),
    Fault("model in train mode", "with evaluating(model), torch.no_grad():", "with torch.no_grad():"),
    Fault("teacher in train mode", "with evaluating(teacher), torch.no_grad():", "with torch.no_grad():"),
    Fault("gradient to the teacher", "with evaluating(teacher), torch.no_grad():", "with evaluating(teacher):"),
    Fault(
        "teacher sees attacked images",
        "_as_taught(self.teacher, images, self.head)",
        "_as_taught(self.teacher, attacked, self.head)",
    ),
    Fault(
        "model guided on natural images",
        "representations(model, attacked, self.head)",
        "representations(model, images, self.head)",
    ),
    Fault("sum of distances", "now).mean()", "now).sum()"),
    Fault("weight lost", "self.lam * angular_distance", "angular_distance"),
    Fault(
        "noise of twice the radius", "self.attack.radius, self.attack.norm", "2 * self.attack.radius, self.attack.norm"
    ),
    Fault("noise from the global state", "self.attack.bounds, generator)", "self.attack.bounds)"),
)
