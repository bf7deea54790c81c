"""Faults of AToP."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "order used as rank", "drawn.argsort(dim=1).argsort(dim=1) * groups // patches", "drawn.argsort(dim=1) // 99"
    ),
    Fault(
        "same patches for all images",
        "torch.rand(count, patches, generator=generator, device=generator.device)",
        "torch.rand(1, patches, generator=generator, device=generator.device).expand(count, patches)",
    ),
    Fault(
        "groups from the global stream",
        "torch.rand(count, patches, generator=generator, device",
        "torch.rand(count, patches, device",
    ),
    Fault(
        "the first transform adds noise",
        'self.transform in ("noise_mask", "multi_mask") and',
        'self.transform != "none" and',
    ),
    Fault(
        "the third transform adds no noise",
        'self.transform in ("noise_mask", "multi_mask") and',
        'self.transform == "noise_mask" and',
    ),
    Fault("noise not held to the range", "self._normal(images)).clamp(0, 1)", "self._normal(images))"),
    Fault("images in their own range", "given = 2 * given - 1", "given = given * 1"),
    Fault("hidden pixels white", "given.masked_fill(mask, 0)", "given.masked_fill(mask, 1)"),
    Fault("shown pixels hidden", "given.masked_fill(mask, 0)", "given.masked_fill(~mask, 0)"),
    Fault("channel tells what is shown", "mask.to(given)], dim=1)", "(~mask).to(given)], dim=1)"),
    Fault(
        "pieces of the shown pixels",
        "torch.where(torch.stack(hidden), restored, 0)",
        "torch.where(~torch.stack(hidden), restored, 0)",
    ),
    Fault("mean of the passes", "torch.where(torch.stack(hidden), restored, 0).sum(dim=0)", "restored.mean(dim=0)"),
    Fault("given back in the range of the purifier", "return (restored + 1) / 2", "return restored"),
    Fault("classifier in train mode", "with evaluating(self.classifier):", "if True:"),
    Fault(
        "cross-entropy on images", "F.cross_entropy(model(attacked), labels)", "F.cross_entropy(model(images), labels)"
    ),
    Fault(
        "restores attacked images",
        "F.l1_loss(model.purify(images), images)",
        "F.l1_loss(model.purify(attacked), images)",
    ),
    Fault("squared error", "2 * F.l1_loss(", "2 * F.mse_loss("),
    Fault("weight left out", "error + lam * F.cross", "error + F.cross"),
)
