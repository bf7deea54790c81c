"""Faults of regional adversarial training."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("the first point for the end", "return path[-1].clone()", "return path[0].clone()"),
    Fault("never the last leg", "torch.randint(len(path) - 1, (count,)", "torch.randint(len(path) - 2, (count,)"),
    Fault(
        "one leg for all",
        "torch.randint(len(path) - 1, (count,), generator=generator, device=device)",
        "torch.randint(len(path) - 1, (1,), generator=generator, device=device).expand(count)",
    ),
    Fault("boxes are segments", 'path.shape[1:] if region == "boxes" else', 'path.shape[1:] if region == "box" else'),
    Fault("between points two apart", "path[leg + 1, places]", "path[(leg + 2).clamp(max=len(path) - 1), places]"),
    Fault("beyond the second point", "first + share * (second - first)", "first + 2 * share * (second - first)"),
    Fault("labels get softer without end", ".clamp(max=1)[:, None]", "[:, None]"),
    Fault("spread over all classes", "spread / (classes - 1))", "spread / classes)"),
    Fault("distance not in radii", "smoothing * (distances / radius)", "smoothing * distances"),
    Fault(
        "softer near the image",
        "smoothing * (distances / radius).clamp(max=1)[:, None]",
        "smoothing * (1 - (distances / radius).clamp(max=1))[:, None]",
    ),
    Fault(
        "descends",
        'F.cross_entropy(model(place), labels, reduction="sum")',
        '-F.cross_entropy(model(place), labels, reduction="sum")',
    ),
    Fault(
        "starts at the image",
        "point = random_point(inputs, self.radius, math.inf, self.bounds, generator)",
        "point = inputs.clone()",
    ),
    Fault(
        "steps are not projected", "point = project(ahead, inputs, self.radius, math.inf, self.bounds)", "point = ahead"
    ),
    Fault("attacks in train mode", "        with evaluating(model):\n", "        if True:\n"),
    Fault("the largest change for distance", ".abs().flatten(1).mean(dim=1)", ".abs().flatten(1).amax(dim=1)"),
    Fault("loss of images as they are", "logits = model(attacked)", "logits = model(images)"),
    Fault("path without its start", "        yield point\n        for", "        for"),
    Fault("any region passes", "if region not in get_args(Region):", "if False:"),
    Fault("one step less", "for _ in range(self.steps):", "for _ in range(self.steps - 1):"),
    Fault("endless bounds pass", "not -math.inf < bounds[0] < bounds[1] < math.inf", "not bounds[0] < bounds[1]"),
)
