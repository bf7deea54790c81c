"""Faults of LQ-VAE."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("cells as many as levels", "2 * width / (levels - 1)", "2 * width / levels"),
    Fault("rounded down", "/ cell).round() * cell", "/ cell).floor() * cell"),
    Fault("codes beyond the range stay there", "z.clamp(-width, width) + width", "z + width"),
    Fault(
        "gradients always pass",
        "return z + (rounded - z).detach() if straight else rounded",
        "return z + (rounded - z).detach()",
    ),
    Fault("gradients never pass", "return z + (rounded - z).detach() if straight else rounded", "return rounded"),
    Fault(
        "a norm and no square",
        "gradient.flatten(1).square().sum(dim=1).mean()",
        "gradient.flatten(1).norm(dim=1).mean()",
    ),
    Fault("mean over entries", "gradient.flatten(1).square().sum(dim=1).mean()", "gradient.flatten(1).square().mean()"),
    Fault(
        "signs for directions",
        "u = torch.randn(code.shape, generator=generator, device=generator.device).to(code)",
        "u = torch.randn(code.shape, generator=generator, device=generator.device).to(code).sign()",
    ),
    Fault("no gradient to the weights", "given, create_graph=True)", "given, retain_graph=True)"),
    Fault("no gradient without a caller's", "    with torch.enable_grad():\n", "    if True:\n"),
    Fault("one direction", "for _ in range(directions):", "for _ in range(1):"),
    Fault("variance for deviation", "(log_variance / 2).exp() * noise", "log_variance.exp() * noise"),
    Fault("no noise", "decoder(mean + (log_variance / 2).exp() * noise)", "decoder(mean + 0 * noise)"),
    Fault(
        "error of an entry",
        "(rebuilt - inputs).flatten(1).square().sum(dim=1).mean()",
        "(rebuilt - inputs).square().mean()",
    ),
    Fault("divergence twice as large", "sum(dim=1).mean() / 2", "sum(dim=1).mean()"),
    Fault("penalty of the variances", "_moments(encoder, given)[0], inputs", "_moments(encoder, given)[1], inputs"),
    Fault("weights swapped", "loss = error + beta * divergence", "loss = beta * error + divergence"),
    Fault(
        "the variances are decoded",
        "mean, _ = _moments(self.encoder, inputs)",
        "_, mean = _moments(self.encoder, inputs)",
    ),
    Fault("the filter itself is exposed", "result = copy.deepcopy(self)", "result = self"),
)
