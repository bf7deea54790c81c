"""Faults of layer sustainability."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "divided by the attacked",
        "size = torch.linalg.vector_norm(clean.to",
        "size = torch.linalg.vector_norm(attacked.to",
    ),
    Fault("not relative", "torch.where(alive, size, 1.0)", "torch.ones_like(size)"),
    Fault("divides by 0", "alive * change / torch.where(alive, size, 1.0)", "change / size"),
    Fault("norms of low precision", "torch.promote_types(clean.dtype, torch.float32)", "clean.dtype"),
    Fault(
        "the largest entry",
        "torch.linalg.vector_norm(clean.to(precise) - attacked.to(precise))",
        "(clean.to(precise) - attacked.to(precise)).abs().max()",
    ),
    Fault("shapes are not looked at", "if clean.shape != attacked.shape:", "if False:"),
    Fault("measures in train mode", "with evaluating(model), torch.no_grad():", "with torch.no_grad():"),
    Fault("the least vulnerable", "key=lambda name: -errors[name]", "key=lambda name: errors[name]"),
    Fault("above the mean alone", "errors[name] >= least", "errors[name] > least"),
    Fault("all layers", "errors[name] >= least)", "True)"),
    Fault("one more than asked for", "ordered[:count]", "ordered[: count + 1]"),
    Fault(
        "cross-entropy of the images",
        "_representations(model, attacked, list(weighed))",
        "_representations(model, images, list(weighed))",
    ),
    Fault("weights are left out", "sum(gamma * relative_error(", "sum(relative_error("),
    Fault(
        "attacked is the reference",
        "relative_error(clean[name], changed[name]) for",
        "relative_error(changed[name], clean[name]) for",
    ),
    Fault(
        "images as they are cut off",
        "relative_error(clean[name], changed[name]) for",
        "relative_error(clean[name].detach(), changed[name]) for",
    ),
    Fault("passes images in vain", "        if not weighed:\n            return loss\n", ""),
    Fault("hooks stay", "            hook.remove()", "            pass"),
    Fault("seen after it was changed in place", "output.reshape(-1).clone()", "output.reshape(-1)"),
    Fault("the last call alone", "torch.cat(seen[name])", "seen[name][-1]"),
    Fault("infinite weights pass", "not 0 <= gamma < math.inf", "not 0 <= gamma"),
)
