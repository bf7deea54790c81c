"""Faults of self-expanding networks."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "the square of the mean in place of the mean of squares",
        "each.mean(0).square() / (each.square().mean(0) + damping)",
        "each.mean(0).square() / (each.mean(0).square() + damping)",
    ),
    Fault("mean of squares above the fraction line", "each.mean(0).square() / (each", "each.square().mean(0) / (each"),
    Fault("the mean over parameters", "term.double().sum().item()", "term.double().mean().item()"),
    Fault("frozen parameters count", "model.named_parameters() if p.requires_grad}", "model.named_parameters()}"),
    Fault("scored in train mode", "    with evaluating(model):\n        gradients", "    if model:\n        gradients"),
    Fault("penalty by the number, not its square", "math.exp(-self.lam * new**2)", "math.exp(-self.lam * new)"),
    Fault("no factor", "self.tau * natural_expansion_score(self.model", "natural_expansion_score(self.model"),
    Fault(
        "the last candidate that passes",
        "                best, highest = candidate, score",
        "                best = candidate",
    ),
    Fault(
        "noise that was not scored",
        "        self.generator.set_state(state)\n        return best",
        "        return best",
    ),
    Fault("no cooldown after an expansion", "self.expanded[-1][0] if self.expanded else 0", "0"),
    Fault("what is new is not trained", '        self.optimizer.param_groups[0]["params"] = _trained(model)\n', ""),
    Fault("the optimizer forgets", "self.optimizer.state.pop(old, {})", "{}"),
    Fault("passes are not saved", '        self.epoch = state_dict["epoch"]\n', ""),
    Fault("an added layer of noise", "(identity + noisy(identity.shape))", "noisy(identity.shape)", part="_expanding"),
    Fault(
        "momentum of noise",
        "each._replace(make=torch.zeros) for each in inserts",
        "each for each in inserts",
        part="_expanding",
    ),
    Fault(
        "channels of the first block at the end",
        "[size] if number == 0 else []",
        "[self.mix.in_channels] if number == 0 else []",
        part="_expanding",
    ),
    Fault(
        "scale 0 for a new channel",
        '(block.norm, "weight"): [_Insert(0, size, extra, torch.ones)]',
        '(block.norm, "weight"): [_Insert(0, size, extra, torch.zeros)]',
        part="_expanding",
    ),
    Fault(
        "variance 0 of a new channel",
        '(block.norm, "running_var"): [_Insert(0, size, extra, torch.ones)]',
        '(block.norm, "running_var"): [_Insert(0, size, extra, torch.zeros)]',
        part="_expanding",
    ),
    Fault("added layers keep their size", "for dim in (0, 1)]", "for dim in (0,)]", part="_expanding"),
    Fault("frozen weights thaw", "requires_grad=old.requires_grad)", "requires_grad=True)", part="_expanding"),
    Fault(
        "noise from the global stream",
        "torch.randn(*shape, generator=generator, device=device)",
        "torch.randn(*shape)",
        part="_expanding",
    ),
    Fault(
        "one layer too many",
        "len(_of(block).added) + 1 < capacity",
        "len(_of(block).added) < capacity",
        part="_expanding",
    ),
)
