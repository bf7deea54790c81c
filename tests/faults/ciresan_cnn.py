"""Faults of networks of 2011."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("size without the last place", "(size - kernel) // (skip + 1) + 1", "(size - kernel) // (skip + 1)"),
    Fault("skip as a stride", "(size - kernel) // (skip + 1) + 1", "(size - kernel) // max(1, skip) + 1"),
    Fault("stride without the kernel's own pixel", "kernel, stride=skip + 1)", "kernel, stride=max(1, skip))"),
    Fault("tanh not stretched", "torch.tanh(2 / 3 * x)", "torch.tanh(x)"),
    Fault("tanh not scaled", "1.7159 * torch", "1.0 * torch"),
    Fault("one connection too many", "return order < fan_in", "return order <= fan_in"),
    Fault(
        "first maps for all",
        "torch.rand(out_maps, in_maps, generator=generator)",
        "torch.rand(1, in_maps, generator=generator).expand(out_maps, -1)",
    ),
    Fault(
        "table drawn from the global stream",
        "torch.rand(out_maps, in_maps, generator=generator)",
        "torch.rand(out_maps, in_maps)",
    ),
    Fault("table not used", "self.weight if self.fan_in is None else", "self.weight if True else"),
    Fault("table outside the state", 'self.register_buffer("table", table)', "self.table = table"),
    Fault(
        "weights of torch",
        "            nn.init.uniform_(parameter, -0.05, 0.05, generator=generator)",
        "            pass",
    ),
    Fault("weights from the global stream", "-0.05, 0.05, generator=generator)", "-0.05, 0.05)"),
    Fault("global stream drawn from", "enabled=generator is not None", "enabled=False"),
    Fault(
        "no activation after a convolution",
        "skip, seen, self.generator), _ScaledTanh()]",
        "skip, seen, self.generator)]",
    ),
    Fault(
        "means in place of largest values",
        'nn.MaxPool2d if found["pool"] == "M"',
        'nn.AvgPool2d if found["pool"] == "M"',
    ),
    Fault("overlapping pooling", "else nn.AvgPool2d)(kernel))", "else nn.AvgPool2d)(kernel, 1))"),
)
