"""Faults of features in groups by time of diffusion."""

from tests.faults.planting import Fault

_PART = "_time_stages"

FAULTS = (
    Fault("the last of a group hidden", "< ends[:, None]", "< ends[:, None] - 1", part=_PART),
    Fault("groups by size alone", ".cumsum(dim=0)", "", part=_PART),
    Fault(
        "early times in the last group",
        "return times * groups // steps",
        "return groups - 1 - times * groups // steps",
        part=_PART,
    ),
    Fault("a bound in the group before it", "right=True", "right=False", part=_PART),
    Fault("earlier groups with gradient", "features.detach() * earlier", "features * earlier", part=_PART),
    Fault("no gradient at all", "+ features * (kept - earlier)", "+ features.detach() * (kept - earlier)", part=_PART),
    Fault("earlier groups left out", "return features.detach() * earlier + features", "return features", part=_PART),
    Fault("bools for whole numbers", " and not isinstance(value, bool)", "", part=_PART),
    Fault("a correction upwards", "return -(abar / before).sqrt()", "return (abar / before).sqrt()"),
    Fault("noise after for noise before", "* (1 - before) / (1 - abar).sqrt()", "* (1 - abar).sqrt()"),
    Fault("weights without a denominator", "ratio**gamma / (1 + ratio)", "ratio**gamma"),
    Fault("errors not weighted", "(weights.to(noise) * (", "((0 * weights.to(noise) + 1) * ("),
    Fault("the caller's denoiser frozen", "copy.deepcopy(denoiser)", "denoiser"),
    Fault("a denoiser that learns", ".eval().requires_grad_(False)", ".eval()"),
    Fault("a denoiser in train mode", "        self.denoiser.eval()\n        return self", "        return self"),
    Fault("a correction without its scale", "+ scale * self.corrector", "+ self.corrector"),
    Fault("all features at all times", "if self.masks is not None:", "if self.masks is None:"),
    Fault("gradients of earlier groups always", "self.groups[where], detach_earlier", "self.groups[where]"),
    Fault("a mode that does nothing", '"stop_grad": (True,)', '"stop_grad": (False,)'),
    Fault("both at once by one", '"dual": (False, True)', '"dual": (True,)'),
    Fault("features of the first images kept", "torch.where(taken, other, own)", "own"),
    Fault("groups that are not asked for taken", "torch.where(taken, other, own)", "torch.where(taken, own, other)"),
    Fault(
        "inverted from the wrong time", "split_prediction(z, eps, path.previous(index)", "split_prediction(z, eps, abar"
    ),
    Fault("inverted with the second features", "eps = self.predict(own, z", "eps = self.predict(other, z"),
)
