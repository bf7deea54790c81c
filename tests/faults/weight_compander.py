"""Faults of the weight compander."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("tanh in place of arctan", "return a * torch.atan(v / b)", "return a * torch.tanh(v / b)"),
    Fault("b multiplied", "return a * torch.atan(v / b)", "return a * torch.atan(v * b)"),
    Fault("inverse by division", "return b * torch.tan(angles)", "return torch.tan(angles) / b"),
    Fault("bound of the angle left out", "(angles.abs() < math.pi / 2).all()", "(angles.abs() < math.inf).all()"),
    Fault("a and b not as logarithms", "torch.tensor(math.log(a))", "torch.tensor(float(a))"),
    Fault("b started at a", "torch.tensor(math.log(b))", "torch.tensor(math.log(a))"),
    Fault("frozen b learned", "torch.tensor(math.log(b)), requires_grad=learnable", "torch.tensor(math.log(b))"),
    Fault("a cut off from its gradient", "compand(v, self.log_a.exp()", "compand(v, self.log_a.detach().exp()"),
    Fault(
        "format of a in place of that of v",
        "compand(v, self.log_a.exp().to(v.dtype)",
        "compand(v.to(self.log_a.dtype), self.log_a.exp()",
    ),
    Fault("weights taken as the numbers", "return expand(weight, self", "return 0 * expand(weight, self"),
    Fault(
        "standard deviation in place of the largest",
        "weight.detach().abs().max().item()",
        "weight.detach().std().item()",
    ),
    Fault(
        "scale ignored", "return WeightCompander(start, start,", "return WeightCompander(start / scale, start / scale,"
    ),
    Fault("frozen a of frozen weights learned", "learnable and weight.requires_grad", "learnable"),
    Fault("a scale too small let through", "2 / math.pi < scale < math.inf", "0 < scale < math.inf"),
)
