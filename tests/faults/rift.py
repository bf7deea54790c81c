"""Faults of robust critical fine-tuning."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("changes not projected", ".clamp(max=1)\n", ".clamp(min=1, max=1)\n"),
    Fault("changes always on the sphere", ".clamp(max=1)\n", "\n"),
    Fault("radius not relative", "radius = lam * weight.norm().item()", "radius = lam"),
    Fault("loss lowered", "change.detach() + 2.5 * radius", "change.detach() - 2.5 * radius"),
    Fault("too short steps", "2.5 * radius / steps", "0.5 * radius / steps"),
    Fault("gradient not of length 1", "/ steps * gradient / size", "/ steps * gradient"),
    Fault("loss itself in place of its rise", "return max(losses) - losses[0]", "return max(losses)"),
    Fault("last change in place of the worst", "return max(losses) - losses[0]", "return losses[1] - losses[0]"),
    Fault("loss of the last part alone", "total += loss.item()", "total = loss.item()"),
    Fault("gradient of the last part alone", "gradient += torch", "gradient = torch"),
    Fault("mean of parts", 'of, reduction="sum") / len(labels)', "of)"),
    Fault("layers in train mode", "with evaluating(model), torch.enable_grad():", "with torch.enable_grad():"),
    Fault("other end", "(second if share else first)", "(first if share else second)"),
    Fault(
        "mixture the wrong way",
        "torch.lerp(tensor.detach(), second[name].to(tensor), share)",
        "torch.lerp(second[name].to(tensor), tensor.detach(), share)",
    ),
    Fault("whole numbers mixed", "if tensor.is_floating_point()\n", "if True\n"),
    Fault("model itself trained", "copy.deepcopy(model).eval()", "model.eval()"),
    Fault("trained in train mode", "copy.deepcopy(model).eval()", "copy.deepcopy(model).train()"),
    Fault(
        "gradients of all layers",
        ".eval().requires_grad_(False)",
        ".eval()",
        survives="they cost time, but the optimizer holds the parameters of one layer alone",
    ),
    Fault("rate stays", "lr if 2 * epoch < epochs else lr / 10", "lr"),
    Fault("rate falls too late", "2 * epoch < epochs else", "epoch + 1 < epochs else"),
    Fault("gradients add up", "optimizer.zero_grad()", "pass"),
    Fault("last epoch in place of the best", "if reached > highest:", "if True:"),
    Fault("momentum lost", "momentum=momentum", "momentum=0"),
    Fault("decay lost", "weight_decay=weight_decay)", "weight_decay=0)"),
    Fault("robustness not asked for", "if under_attack[number] >= under_attack[0] - tolerance", "if True"),
    Fault("tolerance lost", "under_attack[0] - tolerance", "under_attack[0]"),
    Fault("largest share of equal ones", "max(allowed, key=", "max(reversed(allowed), key="),
    Fault("share by robustness", "lambda number: accuracy[number]", "lambda number: under_attack[number]"),
    Fault(
        "images not attacked",
        "_accuracy(trained, changed, validation_labels)",
        "_accuracy(trained, validation_images, validation_labels)",
    ),
    Fault("generator of the attack moves on", "generator=same)", "generator=generator)"),
)
