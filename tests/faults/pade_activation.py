"""Faults of Padé activations."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "denominator without absolute value",
        "(1 + (x * _polynomial(x, denominator)).abs())",
        "(1 + x * _polynomial(x, denominator))",
    ),
    Fault(
        "absolute value of each factor",
        "(x * _polynomial(x, denominator)).abs()",
        "(x.abs() * _polynomial(x.abs(), denominator)).abs()",
    ),
    Fault("denominator begins at power 0", "(x * _polynomial(x, denominator))", "_polynomial(x, denominator)"),
    Fault(
        "gradients cut off",
        "for coefficient in reversed(rest):",
        "value = value.detach()\n    for coefficient in reversed(rest):",
    ),
    Fault("half precision inside", "precise = torch.promote_types(x.dtype, torch.float32)", "precise = x.dtype"),
    Fault("every type replaced", "isinstance(part, replaced)", "isinstance(part, nn.ReLU)"),
    Fault("one unit for all places", "lambda _: build(),", "lambda _, unit=build(): unit,"),
)
