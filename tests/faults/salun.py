"""Faults of saliency unlearning."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "mask of the least salient",
        "argsort(descending=True, stable=True)",
        "argsort(descending=False, stable=True)",
        part="_saliency",
    ),
    Fault(
        "signed saliency",
        "torch.cat([total.flatten() for total in sums]).abs()",
        "torch.cat([total.flatten() for total in sums])",
        part="_saliency",
    ),
    Fault("last batch alone", "[total + g for total, g in zip(sums, dense, strict=True)]", "dense", part="_saliency"),
    Fault(
        "momentum moves what is masked out",
        "            parameter.copy_(torch.where(part, parameter, value))",
        "            pass",
        part="_saliency",
    ),
    Fault("hook left behind", "        handle.remove()", "        pass", part="_saliency"),
    Fault("wrong label may be the true one", "torch.randint(1, classes", "torch.randint(0, classes"),
    Fault(
        "global random labels",
        "generator=generator, device=generator.device)\n    return (labels",
        "device=generator.device)\n    return (labels",
    ),
    Fault("trains in train mode", "        result.eval()\n", "        result.train()\n"),
    Fault("source changed", "        result = copy.deepcopy(model)\n", "        result = model\n"),
    Fault("gradient through the substitute", "substitute.detach()", "substitute"),
    Fault(
        "gradients left behind",
        "                        optimizer.step()\n        optimizer.zero_grad()\n",
        "                        optimizer.step()\n",
    ),
)
