"""Faults of generalised pooling."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "maximum and average exchanged", "torch.lerp(average, largest, share)", "torch.lerp(largest, average, share)"
    ),
    Fault("the border counts for the average", ", count_include_pad=False)", ")"),
    Fault("gate without sigmoid", "self._regions)[0].sigmoid()", "self._regions)[0]"),
    Fault(
        "one filter for each channel in turn",
        "filters[:, None].repeat(channels, 1, 1, 1)",
        "filters[:, None].repeat_interleave(channels, 0)",
    ),
    Fault("left and right exchanged", "torch.lerp(right, left, level)", "torch.lerp(left, right, level)"),
    Fault("every level has the gates of the lowest", "gates[len(left) :]", "gates"),
    Fault("leaves far apart are siblings", "values[::2], values[1::2]", "values.chunk(2)"),
    Fault("border is ignored by filters", "padding=regions.padding, groups", "padding=0, groups"),
    Fault("leaves start at zero", "1 / math.prod(self._regions.kernel_size) if mean is None", "0.0 if mean is None"),
    Fault("gates start at the mean", "self._filters(leaves - 1, 0.0,", "self._filters(leaves - 1, start,"),
    Fault("draws from the global stream", "generator=generator, device=device", "device=device"),
    Fault("all places get the tree", "(others if made else first)", "first"),
    Fault("stride left out", "(old.kernel_size, old.stride, old.padding)", "(old.kernel_size, None, old.padding)"),
    Fault("dilation overlooked", "or old.dilation not in (1, (1, 1))", ""),
)
