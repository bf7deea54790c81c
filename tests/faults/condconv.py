"""Faults of conditionally parameterized convolutions."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("softmax in place of sigmoid", '"sigmoid": torch.sigmoid', '"sigmoid": lambda scores: scores.softmax(1)'),
    Fault("softmax over examples", "scores.softmax(1)", "scores.softmax(0)"),
    Fault("one mixture for the whole batch", "route(x.mean((2, 3))", "route(x.mean((0, 2, 3)).expand(len(x), -1)"),
    Fault("sum over pixels", "route(x.mean((2, 3))", "route(x.sum((2, 3))"),
    Fault("biases not mixed", "(shares @ biases).flatten()", "biases[0].repeat(len(inputs))"),
    Fault("groups lost", "groups * len(inputs))", "len(inputs))"),
    Fault(
        "parts by the shares of the first", "alphas.split(part), strict=True", "[alphas[:part]] * len(x), strict=False"
    ),
    Fault(
        "dilation and padding swapped",
        "stride, padding, dilation, groups * len",
        "stride, dilation, padding, groups * len",
    ),
    Fault(
        "experts start alike", "for expert in self.experts:", "for expert in self.experts[:1].expand_as(self.experts):"
    ),
    Fault("router without a gradient", "return route(x.mean", "return route(x.detach().mean"),
    Fault("other experts in the old order", "weight[torch.randperm(len(weight))]", "weight"),
    Fault("first expert shuffled, too", "weight if number == 0 else weight[", "weight["),
    Fault("images' convolution replaced", "layer.in_channels > 3,", "True,"),
    Fault(
        "frozen weights learned",
        "new.experts.requires_grad_(layer.weight.requires_grad)",
        "new.experts.requires_grad_()",
    ),
    Fault("padding mode ignored", ' and part.padding_mode == "zeros"', ""),
    Fault("empty batch convolved in no groups", "if not len(x):", "if len(x) < 0:"),
)
