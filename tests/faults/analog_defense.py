"""Faults of the analog defense."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("centred over the batch", "centred = x - x.mean(dim=1, keepdim=True)", "centred = x - x.mean()"),
    Fault("signs about zero", "centred = x - x.mean(dim=1, keepdim=True)", "centred = x"),
    Fault("smooth signs have no unit", "torch.tanh(slope * centred / spread)", "torch.tanh(slope * centred)"),
    Fault("any slope", "return torch.tanh(slope * centred / spread)", "return torch.tanh(centred / spread)"),
    Fault("an input without spread", ".clamp(min=torch.finfo(x.dtype).tiny).sqrt()", ".sqrt()"),
    Fault(
        "the error is not sent to the logits",
        "gradients[0] @ feedback, gradients[0], None",
        "gradients[0] @ feedback, 0 * gradients[0], None",
    ),
    Fault(
        "feedback that sees signs alone",
        "gradients[0] @ feedback, gradients[0]",
        "gradients[0].sign() @ feedback, gradients[0]",
    ),
    Fault("a real matrix", "return (x @ real).square() + (x @ imaginary).square()", "return 2 * (x @ real).square()"),
    Fault(
        "no square",
        "return (x @ real).square() + (x @ imaginary).square()",
        "return (x @ real).abs() + (x @ imaginary).abs()",
    ),
    Fault(
        "the true gradient's sign is kept",
        "return gradients[0] @ back.T, None, None, None",
        "return -gradients[0] @ back.T, None, None, None",
    ),
    Fault(
        "one matrix for both passes",
        "_normal(in_features, out_features, out_features, generator))",
        "(self.real * math.sqrt(2 * in_features / out_features)).clone())",
    ),
    Fault(
        "real and imaginary part alike",
        'for name in ("real", "imaginary"):\n            self.register_buffer(name, _normal(in_features, out_features, 2 * in_features, generator))',
        'both = _normal(in_features, out_features, 2 * in_features, generator)\n        for name in ("real", "imaginary"):\n            self.register_buffer(name, both.clone())',
    ),
    Fault(
        "scaled by the other size",
        "_normal(in_features, out_features, 2 * in_features, generator)",
        "_normal(in_features, out_features, 2 * out_features, generator)",
    ),
    Fault("what is known is not", "        if self.known:\n", "        if False:\n"),
    Fault("no ReLU below the signs", "hidden = self.first(x).relu()", "hidden = self.first(x)"),
    Fault(
        "not centred behind the projection",
        "(projected - projected.mean(dim=1, keepdim=True)).relu()",
        "projected.relu()",
    ),
    Fault(
        "an exposed head still has the feedback",
        "if self.binary and self._slope is None else logits",
        "if self.binary else logits",
    ),
    Fault(
        "always binarised",
        "centred_sign(hidden, self._slope) if self.binary else hidden",
        "centred_sign(hidden, self._slope)",
    ),
    Fault("the head itself is exposed", "result = copy.deepcopy(self)", "result = copy.copy(self)"),
    Fault(
        "a guess of other scale",
        "return torch.randn(rows, columns, generator=generator, device=generator.device) / math.sqrt(divisor)",
        "return torch.rand(rows, columns, generator=generator, device=generator.device) / math.sqrt(divisor)",
    ),
)
