"""Faults of safe latent diffusion."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("active above the threshold", "difference < threshold, 0)", "difference >= threshold, 0)"),
    Fault("size compared with the threshold", "where(difference < threshold", "where(difference.abs() < threshold"),
    Fault("threshold itself is active", "difference < threshold, 0)", "difference <= threshold, 0)"),
    Fault("not bounded by one", ".clamp(max=1)", ".clamp(max=1e9)"),
    Fault("sign lost", "(safety_scale * difference.abs())", "(safety_scale * difference)"),
    Fault("towards the caption", "mu * (concept - without)", "mu * (concept - given)"),
    Fault("momentum left out", " + momentum_scale * momentum\n", "\n"),
    Fault("momentum without memory", "momentum_decay * momentum + (1", "0 * momentum + (1"),
    Fault("decay and share exchanged", "(1 - momentum_decay) * gamma", "momentum_decay * gamma"),
    Fault("warm-up a step too long", "index >= self.warmup", "index > self.warmup"),
    Fault(
        "momentum starts after the warm-up",
        "            index += 1\n",
        "            momentum = momentum if index >= self.warmup else 0 * momentum\n            index += 1\n",
    ),
    Fault("concept added", "given - without - gamma", "given - without + gamma"),
    Fault("guidance forgotten", "without + guidance * direction", "without + direction"),
    Fault("strong for max", '"safety_scale": 5000.0', '"safety_scale": 2000.0'),
    Fault("what to retain is kept off", "steered(model, forget, self)", "steered(model, [*forget, *retain], self)"),
)
