"""Faults of JointVAE."""

from tests.faults.planting import Fault

_PART = "_vae"

FAULTS = (
    Fault("noise of a normal law", ".exponential_(generator=generator)", ".normal_(generator=generator).exp_()"),
    Fault("noise with the wrong sign", "noise = -draws", "noise = draws"),
    Fault("noise divided alone", "+ noise.to(logits)) / temperature)", "+ noise.to(logits) / temperature))"),
    Fault("times the temperature", "noise.to(logits)) / temperature", "noise.to(logits)) * temperature"),
    Fault("logits that overflow in a sample", "(logits.log_softmax(dim=1) + noise", "(logits + noise"),
    Fault("a divergence of infinite logits", ".clamp(min=torch.finfo(logits.dtype).min)", ""),
    Fault("entropy for divergence", "return math.log(logits.shape[1]) + (logs", "return -(logs"),
    Fault("entropy with the wrong sign", "logits.shape[1]) + (logs.exp()", "logits.shape[1]) - (logs.exp()"),
    Fault("the divergence of the prior", "(logs.exp() * logs).sum(dim=1)", "logs.mean(dim=1)"),
    Fault("images below 0 accepted", "((images >= 0) & (images <= 1))", "(images <= 1)"),
    Fault("capacities that are full at once", "grown = min(1.0, step / steps)", "grown = 1.0"),
    Fault("capacities that grow on", "grown = min(1.0, step / steps)", "grown = step / steps"),
    Fault("pixels averaged", "pixel_loss(output.pixels, images).mean()", "pixel_loss(output.pixels, images).sum()"),
    Fault("a capacity that is a bound", "grown * continuous_capacity).abs()", "grown * continuous_capacity).relu()"),
    Fault("one capacity for the other", "(divergence - grown * continuous", "(divergence - grown * discrete"),
    Fault("more asked for than can be", "min(most, grown * discrete_capacity)", "grown * discrete_capacity"),
    Fault("the most before growth", "min(most, grown * discrete_capacity)", "grown * min(most, discrete_capacity)"),
    Fault("one log K", "most = sum(math", "most = max(math"),
    Fault("discrete latents not weighed", "+ gamma * (divergence - min(", "+ (divergence - min("),
    Fault("one class accepted", 'check_whole("discrete", classes, 2)', 'check_whole("discrete", classes, 1)'),
    Fault("no latent accepted", "if not continuous and not discrete:", "if continuous < 0:"),
    Fault("samples in evaluation mode", "        if self.training:", "        if True:"),
    Fault(
        "means in training",
        "continuous = gaussian_sample(mean, log_variance, self.generator)",
        "continuous = mean",
    ),
    Fault("a temperature of 1", "gumbel_softmax(logits, self.temperature,", "gumbel_softmax(logits, 1.0,"),
    Fault(
        "probabilities in evaluation mode",
        "F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits) for logits",
        "logits.softmax(dim=1) for logits",
    ),
    Fault("classes before means", "torch.cat([continuous, *discrete]", "torch.cat([*discrete, continuous]"),
    Fault("draws from the global stream", "self.temperature, self.generator)", "self.temperature)"),
    Fault("traversals of samples", "with evaluating(model):", "if True:"),
    Fault("changes that add up", "value.expand(len(mean), -1)", "parts[latent] + value"),
    Fault("logits shown", ".sigmoid())", ")"),
    Fault("a standard deviation for a variance", "(0.5 * log_variance).exp()", "log_variance.exp()", part=_PART),
    Fault("a variance for its logarithm", "log_variance.expm1() - log_variance", "log_variance.expm1()", part=_PART),
    Fault("divergences twice as large", "0.5 * (mean.square()", "(mean.square()", part=_PART),
    Fault(
        "small divergences lost",
        "log_variance.expm1() - log_variance",
        "log_variance.exp() - 1 - log_variance",
        part=_PART,
    ),
    Fault("pixels averaged in an image", "each.sum(dim=1)", "each.mean(dim=1)", part=_PART),
    Fault("true for a number", " and not isinstance(value, bool) and math.isfinite", " and math.isfinite", part=_PART),
)
