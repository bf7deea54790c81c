"""Faults of RAID."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("hooks stay", "            hook.remove()", "            pass"),
    Fault("outputs kept that a later layer changes", "out.flatten(1).clone()", "out.flatten(1)"),
    Fault("all modules", "if isinstance(part, nn.ReLU)] if layers", "if name] if layers"),
    Fault("layers called twice", "if sorted(called) != sorted(names):", "if not called:"),
    Fault("last layer first", "for _, values in seen]", "for _, values in seen[::-1]]"),
    Fault("sums in place of means", " / counts[:, None]).to", ").to"),
    Fault("mean of all inputs", " / counts[:, None]).to", " / counts.float().mean()).to"),
    Fault("missing class passed", "if not bool((counts > 0).all()):", "if False:"),
    Fault("difference to the mean of all classes", "activations - means[predicted]", "activations - means.mean(dim=0)"),
    Fault("difference the other way", "activations - means[predicted]", "means[predicted] - activations"),
    Fault(
        "one detector for the batch",
        "places.to(scores.device))[:, 0]",
        "places.to(scores.device)[:1].expand(len(scores), 1))[:, 0]",
    ),
    Fault("last detector never chosen", "torch.randint(scores.shape[1],", "torch.randint(max(1, scores.shape[1] - 1),"),
    Fault("benign and attacked the other way", "attacked[:, None].to(scores)", "(~attacked)[:, None].to(scores)"),
    Fault(
        "same features for all",
        "torch.randperm(features, generator=generator, device=device)",
        "torch.arange(features)",
    ),
    Fault("first features in the order drawn", "order[:looked_at].sort().values.cpu()", "order[:looked_at].cpu()"),
    Fault(
        "features not in the state",
        'self.register_buffer("places", ',
        'self.register_buffer("places", persistent=False, tensor=',
    ),
    Fault("share cut off", "math.floor(share * features + 0.5)", "math.floor(share * features - 0.5)"),
    Fault(
        "all look at the features of the first",
        "member(differences[:, places])",
        "member(differences[:, self.places[0]])",
    ),
)
