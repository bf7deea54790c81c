"""Faults of the randomized feature defense."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("uniform noise", "torch.randn(features.shape,", "torch.rand(features.shape,"),
    Fault("one noise for all inputs", "torch.randn(features.shape,", "torch.randn(features[:1].shape,"),
    Fault("variance for deviation", "features + deviation * noise", "features + deviation**0.5 * noise"),
    Fault("noise multiplies", "features + deviation * noise", "features * (1 + deviation * noise)"),
    Fault("units do not count", "self.nu * self.layers[name]", "self.nu"),
    Fault("no null setting", "        if self.nu == 0:\n            return self.model(inputs)\n", ""),
    Fault(
        "a module that is not called passes",
        "if missing := self.layers.keys() - called:",
        "if missing := called - self.layers.keys():",
    ),
    Fault("spread about zero", "square / count - (total / count) ** 2", "square / count"),
    Fault("last chunk alone", "sums[name] + moments if name in sums else moments", "moments"),
    Fault(
        "spreads in train mode",
        "with ExitStack() as hooks, evaluating(model), torch.no_grad():",
        "with ExitStack() as hooks, torch.no_grad():",
    ),
    Fault("features changed in place", "return features.clone()", "return features"),
    Fault("ratio of sums", "(norms[counted] / first[counted]).mean()", "(norms.sum() / first.sum())"),
    Fault("ratio upside down", "norms[counted] / first[counted]", "first[counted] / norms[counted]"),
    Fault(
        "another loss", "losses = loss(model(given), labels).sum()", "losses = margin_loss(model(given), labels).sum()"
    ),
    Fault("other noise at each size", "manual_seed(seed)", "manual_seed(seed + int(1e6 * nu))"),
    Fault("drop from a perfect accuracy", "least = accuracy(0.0, 1) - max_drop", "least = 1 - max_drop"),
    Fault("one draw", "accuracy(nu, draws) >= least", "accuracy(nu, 1) >= least"),
    Fault("too large a noise", "    return low\n", "    return nu\n"),
    Fault(
        "looked for in train mode",
        "        with evaluating(model), torch.no_grad():\n            found",
        "        with torch.no_grad():\n            found",
    ),
)
