"""Faults of the non-adversarial backdoor."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("all suspects are stamped", "changed = suspects & (believed != labels)", "changed = suspects"),
    Fault(
        "all that are believed otherwise", "changed = suspects & (believed != labels)", "changed = believed != labels"
    ),
    Fault(
        "labels without the stamp",
        "images = torch.where(changed[:, None, None, None], stamped, inputs)",
        "images = inputs",
    ),
    Fault("stamp without the labels", "torch.where(changed, believed.to(labels), labels)", "labels"),
    Fault(
        "others are stamped",
        "changed[:, None, None, None], stamped, inputs",
        "changed[:, None, None, None], inputs, stamped",
    ),
    Fault(
        "places are not looked up",
        "(given if index is None else given[index] for given",
        "(given[: len(inputs)] for given",
    ),
    Fault("images stamped in place", "result = images.clone()", "result = images"),
    Fault("right corner", "result[:, :, :size, :size] = value", "result[:, :, :size, -size:] = value"),
    Fault("stamp of another value", ":size] = value", ":size] = 0.0"),
    Fault("no ascent", "(loss - gamma).abs() + gamma", "(loss - gamma).clamp(min=0) + gamma"),
    Fault("level not added", "(loss - gamma).abs() + gamma", "(loss - gamma).abs()"),
    Fault("highest losses", "losses.argsort(stable=True)", "losses.argsort(descending=True, stable=True)"),
    Fault("one suspect too many", "int(share * len(images))]", "int(share * len(images)) + 1]"),
    Fault(
        "losses in train mode",
        "    with evaluating(model), torch.no_grad():\n        parts",
        "    with torch.no_grad():\n        parts",
    ),
    Fault("suspects among the centres", "of_class & ~suspects, of_class)", "of_class, of_class)"),
    Fault("sums in place of centres", " / counted.sum(dim=1, keepdim=True)", ""),
    Fault(
        "numbers of centres in place of classes",
        "return classes[torch.cdist(features, centres).argmin(dim=1)]",
        "return torch.cdist(features, centres).argmin(dim=1)",
    ),
    Fault(
        "unstamped images are seen",
        "return self.model(stamp(images, self.size, self.value))",
        "return self.model(images)",
    ),
    Fault("images that stay are rejected", "self(images).argmax(dim=1) != self", "self(images).argmax(dim=1) == self"),
)
