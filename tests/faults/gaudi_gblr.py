"""Faults of generalized block-low-rank layers."""

from functools import partial

from tests.faults.planting import Fault

_mask = partial(Fault, part="_gaudi_masks")

FAULTS = (
    _mask("half an entry early", "(1 / n - w - 2 * start)", "(0 - w - 2 * start)"),
    _mask("interval around its start", "(1 / n - w - 2 * start)", "(1 / n - 2 * start)"),
    _mask(
        "other direction",
        "torch.complex(size * angle.cos(), size * angle.sin())",
        "torch.complex(size * angle.cos(), -size * angle.sin())",
    ),
    _mask("denominator left out", "torch.sinc(w * k) / torch.sinc(k / n)", "torch.sinc(w * k)"),
    _mask("width left out", "size = w * torch.sinc", "size = torch.sinc"),
    _mask("smoothing without the half", "(2 * sigma**2)", "(sigma**2)"),
    _mask("highest coefficient left out", "torch.arange(n // 2 + 1, dtype", "torch.arange((n + 1) // 2, dtype"),
    _mask(
        "boxcar cut off at the end", "((places - first) % n < count)", "((places >= first) & (places < first + count))"
    ),
    _mask("width rounded down", "(n * widths)[..., None].round()", "(n * widths)[..., None].floor()"),
    Fault("smooth masks in evaluation", "if self.training:", "if True:"),
    Fault("masks swapped", "return self.left * left, self.right * right", "return self.left * left, self.right"),
    Fault(
        "widths not clipped",
        "rows, columns = self.row_widths.clamp(0, 1), self.column_widths.clamp(0, 1)\n        if",
        "rows, columns = self.row_widths, self.column_widths\n        if",
    ),
    Fault(
        "starts of rows not learned", "gaudi_mask(rows, self.row_starts,", "gaudi_mask(rows, self.row_starts.detach(),"
    ),
    Fault("blocks without a side counted", " * (rows > 0) * (columns > 0)", ""),
    Fault(
        "share of sides swapped",
        "rows / self.in_features + columns / self.out_features",
        "rows / self.out_features + columns / self.in_features",
    ),
    Fault("threshold below the budget, too", "if _share(layers) > budget else 0.0", "if budget else 0.0"),
    Fault("widths not clipped after a step", "(widths - amount).clamp(0, 1)", "(widths - amount)"),
    Fault(
        "layers weighed alike",
        "dense = [layer.in_features * layer.out_features for layer in layers]",
        "dense = [1 for layer in layers]",
    ),
    Fault("penalty below the budget", "F.relu(_share(_layers(model)) - budget)", "(_share(_layers(model)) - budget)"),
    Fault(
        "singular values in one factor twice",
        "roots * u.T[:count], roots * v[:count]",
        "roots * roots * u.T[:count], roots * v[:count]",
    ),
    Fault("blocks beyond the rank not 0", "            new.left.zero_()\n", ""),
    Fault("bias lost", "new.bias.copy_(layer.bias)", "new.bias.zero_()"),
    Fault("subclasses replaced", "type(part) is nn.Linear", "isinstance(part, nn.Linear)"),
    Fault(
        "start of the variance by the rank alone",
        "(3 * in_features * rank * init_width**2)",
        "(3 * rank * init_width**2)",
    ),
    Fault("frozen layers learned", "new.requires_grad_(layer.weight.requires_grad)", "new.requires_grad_()"),
)
