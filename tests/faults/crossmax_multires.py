"""Faults of CrossMax and multi-resolution."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("no reference of each predictor", "own = logits - logits.amax(dim=2, keepdim=True)", "own = logits"),
    Fault("no reference of each class", "relative = own - own.amax(dim=1, keepdim=True)", "relative = own"),
    Fault("k-th smallest", "descending=True", "descending=False"),
    Fault("k from 0", "ordered[:, k - 1]", "ordered[:, min(k, predictors - 1)]"),
    Fault(
        "lower median",
        "(ordered[:, (predictors - 1) // 2] + ordered[:, predictors // 2]) / 2",
        "ordered[:, predictors // 2]",
    ),
    Fault("contrast about zero", "factor * images + (1 - factor) * mean", "factor * images"),
    Fault("contrast is the amount of colour", "factor = uniform(each, *contrast)", "factor = uniform(each, *colour)"),
    Fault("contrast is not clipped", "(1 - factor) * mean).clamp(*bounds)", "(1 - factor) * mean)"),
    Fault("no shift to the right", "torch.randint(-shift, shift + 1,", "torch.randint(-shift, max(shift, 1),"),
    Fault(
        "rows for columns",
        "(torch.arange(width, device=images.device) - offsets[1]",
        "(torch.arange(width, device=images.device) - offsets[0]",
    ),
    Fault(
        "rolled the other way",
        "(torch.arange(height, device=images.device) - offsets",
        "(torch.arange(height, device=images.device) + offsets",
    ),
    Fault("grey of the whole image", "made.mean(dim=1, keepdim=True)", "made.mean(dim=(1, 2, 3), keepdim=True)"),
    Fault(
        "no noise before enlarging",
        "made = made + uniform(made.shape, 0, noise)",
        "made = made + 0 * uniform(made.shape, 0, noise)",
    ),
    Fault(
        "one noise for all images",
        "made + uniform(made.shape, 0, noise)).clamp",
        "made + uniform(made[:1].shape, 0, noise)).clamp",
    ),
    Fault(
        "shrunk bilinearly",
        'F.interpolate(made, size=small, mode="bicubic")',
        'F.interpolate(made, size=small, mode="bilinear")',
    ),
    Fault(
        "widened weights are not shared out",
        "weight.detach().repeat(repeats) / copies",
        "weight.detach().repeat(repeats)",
    ),
    Fault(
        "frozen weights move",
        "weight.detach().repeat(repeats) / copies, weight.requires_grad",
        "weight.detach().repeat(repeats) / copies",
    ),
    Fault("features changed in place", "features.flatten(1).clone()", "features.flatten(1)", part="_self_ensemble"),
    Fault(
        "heads train the network's statistics",
        "        self.model.eval()\n        return self",
        "        return self",
        part="_self_ensemble",
    ),
    Fault("the classifier given is frozen", "copy.deepcopy(model).eval()", "model.eval()", part="_self_ensemble"),
)
