"""Faults of expose before you defend."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "descent on the true labels",
        "return -F.cross_entropy(logits, labels)",
        "return F.cross_entropy(logits, labels)",
    ),
    Fault(
        "ascent on random labels",
        "return F.cross_entropy(logits, drawn.to(labels.device))",
        "return -F.cross_entropy(logits, drawn.to(labels.device))",
    ),
    Fault(
        "the model itself unlearns",
        "        result = copy.deepcopy(model)\n        weights",
        "        result = model\n        weights",
    ),
    Fault(
        "never stops",
        "                if _accuracy(result, images, labels) <= self.stop_accuracy:\n                    break\n",
        "",
    ),
    Fault("stops where it begins", "<= self.stop_accuracy", ">= self.stop_accuracy"),
    Fault(
        "unlearns in the given mode",
        "        with evaluating(result), torch.enable_grad():",
        "        with torch.enable_grad():",
    ),
    Fault("gradients add up", "                    adam.zero_grad()\n", ""),
    Fault(
        "gradients of the source are kept", "        adam.zero_grad()\n        return result", "        return result"
    ),
    Fault("no decay", "lr=self.lr, weight_decay=self.weight_decay", "lr=self.lr"),
    Fault(
        "order from the global stream",
        "order = torch.randperm(len(images), generator=generator, device=generator.device)",
        "order = torch.randperm(len(images))",
    ),
    Fault("rarest class", "Exposure(int(counts.argmax())", "Exposure(int(counts.argmin())"),
    Fault("entropy in bits", ".sum().abs().item()", ".sum().abs().item() / math.log(2)"),
    Fault("masks not clipped", "mask.data.clamp_(0, 1)", "mask.data.clamp_(0, 10)"),
    Fault("masks climb", "mask.grad = gradient", "mask.grad = -gradient"),
    Fault("hooks stay", "            hook.remove()", "            pass"),
    Fault("the last layer is masked too", "dict(weighted[:-1])", "dict(weighted)"),
    Fault("the needed units are pruned", "weight[mask <= threshold] = 0", "weight[mask > threshold] = 0"),
    Fault("convolutions in place of normalisation", "isinstance(part, kinds) and part.affine", "False"),
)
