"""Faults of types of latents."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("the spread of a sample", "given.var(dim=0, correction=0)", "given.var(dim=0)"),
    Fault("a standard deviation for a variance", "given.var(dim=0, correction=0)", "given.std(dim=0, correction=0)"),
    Fault("active although they vary", "if steady and mean <= error:", "if mean <= error:"),
    Fault(
        "passive although they vary",
        'return "passive" if steady and abs(mean - 1) <= error',
        'return "passive" if abs(mean - 1) <= error',
    ),
    Fault("passive above 1 alone", "abs(mean - 1) <= error", "0 <= mean - 1 <= error"),
    Fault("bounds left out", "steady and mean <= error", "steady and mean < error"),
    Fault("means over latents", "given.mean(dim=0).tolist(), steady", "given.mean(dim=1).tolist(), steady"),
    Fault("total correlation twice as large", "max(0.0, -0.5 * logs)", "max(0.0, -logs)"),
    Fault("total correlation upside down", "max(0.0, -0.5 * logs)", "abs(0.5 * logs) * -1"),
    Fault("codes not centred", "centred = centred - centred.mean(dim=0)", "centred = centred.clone()"),
    Fault("scales left in", "unit = centred / torch.where(still, 1.0, length)", "unit = centred / len(given) ** 0.5"),
    Fault(
        "numbers that overflow",
        "largest = given.abs().amax(dim=0)",
        "largest = torch.ones_like(given[0])",
    ),
    Fault("no latent is still", "still = length <= 1e-12 * len(given) ** 0.5", "still = length < 0"),
    Fault("the highest value in a bin of its own", ".clamp(max=bins - 1)", ".remainder(bins)"),
    Fault(
        "bins of one width for all",
        "width = given.amax(dim=0) - lowest",
        "width = (given.amax() - given.amin()) + 0 * lowest",
    ),
    Fault("entropy for information", " - torch.special.xlogy(joint, apart)", ""),
    Fault("each latent beside itself", "(known.sum() - known.trace())", "known.sum()"),
    Fault("pairs counted once", "/ (dim * (dim - 1))", "/ (dim * (dim - 1) / 2)"),
    Fault("a latent that never varies", "torch.where(width > 0, width, 1.0)", "width"),
    Fault("means for samples", "gaussian_sample(mean.detach(), log_variance.detach(), generator)", "mean.detach()"),
    Fault(
        "a log variance for a variance",
        "types = variable_types(variances, ",
        "types = variable_types(log_variance.abs(), ",
    ),
    Fault("mixed latents dropped", 'enumerate(types) if each != "passive"', 'enumerate(types) if each == "active"'),
    Fault("passive latents kept", 'enumerate(types) if each == "active"]', 'enumerate(types) if each != "mixed"]'),
    Fault("bins left at 20", "averaged_mutual_information(part, bins)", "averaged_mutual_information(part)"),
    Fault(
        "infinite variances accepted", "if not bool(variances.isfinite().all()):", "if bool(variances.isnan().any()):"
    ),
    Fault("variances below 0 accepted", "if not bool((variances >= 0).all()):", "if bool(variances.isnan().any()):"),
)
