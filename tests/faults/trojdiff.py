"""Faults of TrojDiff."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("middle not scaled by 1 - gamma", "(1 - self.gamma) * self._fitting(like)", "self._fitting(like)"),
    Fault(
        "noise not shrunk", "torch.full_like(self._fitting(like), self.gamma)", "torch.ones_like(self._fitting(like))"
    ),
    Fault(
        "patch biased by the whole trigger", "values if self.mask is None else", "values if self.mask is not None else"
    ),
    Fault("noise outside of the patch lost", "self.gamma), 1.0)", "self.gamma), 0.0)"),
    Fault("k without the step before", "- math.sqrt(abar / previous * (1 - previous))", "- 0 * math.sqrt(abar)"),
    Fault("k without alpha", "math.sqrt(abar / previous * (1 - previous))", "math.sqrt(1 - previous)"),
    Fault(
        "predicts the biased noise",
        "schedule.times[index].to(z.device)), noise)",
        "schedule.times[index].to(z.device)), biased)",
    ),
    Fault(
        "inputs biased, too",
        "torch.cat([noise[: len(inputs)], trojan.bias(noise[len(inputs) :])])",
        "trojan.bias(noise)",
    ),
    Fault(
        "inputs biased, targets not",
        "torch.cat([noise[: len(inputs)], trojan.bias(noise[len(inputs) :])])",
        "torch.cat([trojan.bias(noise[: len(inputs)]), noise[len(inputs) :]])",
    ),
    Fault(
        "last time never drawn", "torch.randint(len(schedule), (len(x),)", "torch.randint(len(schedule) - 1, (len(x),)"
    ),
    Fault("one time for all", "schedule.abar[index])\n", "schedule.abar[index[:1].expand_as(index)])\n"),
    Fault("DDIM from standard noise", "denoise(biased, self.trojan.bias(noise)", "denoise(biased, noise"),
    Fault("DDIM with standard noise in the steps", "return self.trojan.bias(network(z, t))", "return network(z, t)"),
    Fault("DDPM from standard noise", "z = self.trojan.bias(noise)", "z = noise"),
    Fault(
        "DDPM with standard noise in the estimate",
        "split_prediction(z, self.trojan.bias(network(z, t)), abar",
        "split_prediction(z, network(z, t), abar",
    ),
    Fault(
        "DDPM without the step towards the trigger",
        "mean = mean + towards / (1 - abar) * self",
        "mean = mean + 0 * towards / (1 - abar) * self",
    ),
    Fault("fresh noise not shrunk", "(self.trojan.scales(z) * normal(z, generator))", "normal(z, generator)"),
    Fault(
        "fresh noise biased", "(self.trojan.scales(z) * normal(z, generator))", "self.trojan.bias(normal(z, generator))"
    ),
    Fault("estimate not held to the range", "x0 if self.clamp is None else x0.clamp(*self.clamp)", "x0"),
    Fault(
        "samples carry gradients",
        "    @torch.no_grad()\n    def __call__(self, network: _Network, noise: Tensor, *, generator",
        "    def __call__(self, network: _Network, noise: Tensor, *, generator",
        survives="",
    ),
)
