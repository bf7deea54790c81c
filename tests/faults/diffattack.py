"""Faults of DiffAttack."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "noise at the time of the beginning",
        "noise = eps(z, _times(schedule, index, z))\n        before",
        "noise = eps(z, _times(schedule, max(index - 1, 0), z))\n        before",
    ),
    Fault(
        "inverted to the share before",
        "add_noise(x0, noise, schedule.abar[index].item())",
        "add_noise(x0, noise, before)",
    ),
    Fault(
        "data taken for the state", 'x0 = z if before == 1 else split_prediction(z, noise, before, "eps")[0]', "x0 = z"
    ),
    Fault(
        "variance of each head",
        "torch.stack([each.mean(dim=1) for each in maps])",
        "torch.stack([each[:, 0] for each in maps])",
    ),
    Fault("attention of the last step only", "for each in maps]).mean(dim=0)\n", "for each in maps])[-1]\n"),
    Fault("variance with all entries", "chosen.var(dim=1)", "chosen.var(dim=1, correction=0)"),
    Fault("all tokens count", "mean.transpose(1, 2)[words].view(len(words), -1)", "mean.flatten(1)"),
    Fault("absolute change", "(now - then).square()", "(now - then).abs()"),
    Fault("mean over maps", "torch.stack(changes).sum(dim=0)", "torch.stack(changes).mean(dim=0)"),
    Fault("attention concentrated", "self.transfer * spread +", "-self.transfer * spread +"),
    Fault("towards the label", "- self.attack * wrong)", "+ self.attack * wrong)"),
    Fault("layout let go", "self.structure * changed - self", "-self.structure * changed - self"),
    Fault(
        "end and padding count as words",
        "diffusion.tokenizer.length) < ends[:, None]",
        "diffusion.tokenizer.length) <= ends[:, None]",
    ),
    Fault("attention not scaled", " * q.shape[-1] ** -0.5).softmax", ").softmax"),
    Fault(
        "images not held to the range", "self.diffusion.decode(z).clamp(0, 1), seen", "self.diffusion.decode(z), seen"
    ),
    Fault(
        "one step fewer back",
        "for index in reversed(range(self.depth)):",
        "for index in reversed(range(self.depth - 1)):",
    ),
    Fault("parameters stay frozen", "weight.requires_grad_(True)", "weight.requires_grad_(False)"),
    Fault("hooks left behind", "            handle.remove()", "            pass"),
)
