"""Faults of ghost batch normalization."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("the whole batch one part", "_sizes(len(input), self.ghost_size)", "_sizes(len(input), len(input))"),
    Fault("one part less", "-(-samples // most)", "samples // most"),
    Fault("parts of unequal size", "samples // parts + (part < samples % parts)", "min(most, samples - part * most)"),
    Fault("rate by the batch", "lr * math.sqrt(large / small)", "lr * large / small"),
    Fault("milestones rounded down", "-(-epoch * large // small)", "epoch * large // small"),
    Fault("averages not taken over", "        new.load_state_dict(old.state_dict())\n", ""),
    Fault("momentum not taken over", "old.eps, old.momentum, old.affine", "old.eps, 0.5, old.affine"),
    Fault("parts in reverse order", "for part in input.split(sizes)])", "for part in input.split(sizes)[::-1]])"),
)
