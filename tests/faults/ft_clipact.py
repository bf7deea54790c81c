"""Faults of FT-ClipAct."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("saturates", ".masked_fill(~(x <= self.threshold), 0)", ".clamp(max=self.threshold)"),
    Fault("what is no number passes", "~(x <= self.threshold)", "x > self.threshold"),
    Fault("threshold excluded", "~(x <= self.threshold)", "~(x < self.threshold)"),
    Fault(
        "one threshold for all", "return ClippedReLU(thresholds[place])", "return ClippedReLU(max(thresholds.values()))"
    ),
    Fault("last batch alone", "max(found.get(name, 0.0), value.max().item())", "value.max().item()"),
    Fault("mean for maximum", "value.max().item()", "value.mean().item()"),
    Fault("faults everywhere", "kind=kind, weights=layers[name]", "kind=kind, weights=None"),
    Fault("last weighted module alone", "since.extend(real", "since[:] = list(real"),
    Fault("smallest of equal thresholds", "(areas[threshold], threshold)", "(areas[threshold], -threshold)"),
    Fault("worst threshold", "best = max(areas, key", "best = min(areas, key"),
    Fault("other faults for each threshold", "manual_seed(seed)", "manual_seed(seed + len(areas))"),
    Fault("layer left at the last one tried", "        part.threshold = best\n", ""),
    Fault("bits of bytes", "size = 8 * weight", "size = weight", part="_weight_faults"),
    Fault("one bit a word", "index_add_(0, order, ones)", "index_copy_(0, order, ones)", part="_weight_faults"),
    Fault("stuck bits swapped", '"stuck at 0": old & ~masks', '"stuck at 0": old | masks', part="_weight_faults"),
    Fault(
        "faults that repeat",
        "chosen = torch.cat([chosen, more]).unique()",
        "chosen = torch.cat([chosen, more])",
        part="_weight_faults",
    ),
    Fault("faults stay", "each.copy_(old)", "each.copy_(each)", part="_weight_faults"),
    Fault("no number may be right", "& ~logits.isnan().any(dim=1)", "", part="_weight_faults"),
    Fault("area by the rate itself", "dtype=torch.float64).log10()", "dtype=torch.float64)", part="_weight_faults"),
    Fault("area not a share", " / (places[-1] - places[0])", "", part="_weight_faults"),
    Fault(
        "train mode",
        "with evaluating(model), torch.no_grad():\n        for row",
        "with torch.no_grad():\n        for row",
        part="_weight_faults",
    ),
)
