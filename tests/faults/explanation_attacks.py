"""Faults of attacks on explanations."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "gradient of the first class",
        "logits = model(place).gather(1, labels[:, None]).sum()\n        (gradient,)",
        "logits = model(place)[:, 0].sum()\n        (gradient,)",
    ),
    Fault("no gradient through the gradient", "(logits, place, create_graph=inputs.requires_grad)", "(logits, place)"),
    Fault(
        "no gradient through the weights of channels",
        "(logits, seen[0], create_graph=inputs.requires_grad)",
        "(logits, seen[0])",
    ),
    Fault("hook stays", "        hook.remove()", "        pass"),
    Fault("channels unweighted", "gradient.mean(dim=(2, 3), keepdim=True) * seen[0]", "seen[0]"),
    Fault("gradient not averaged", "gradient.mean(dim=(2, 3), keepdim=True) * seen[0]", "gradient * seen[0]"),
    Fault("what speaks against the class counts", ".sum(dim=1).relu()", ".sum(dim=1)"),
    Fault(
        "length of maps counts",
        "F.normalize(maps.flatten(1), dim=1, eps=torch.finfo(maps.dtype).tiny)",
        "maps.flatten(1)",
    ),
    Fault("cosine in place of distance", "return 1 - (one * other).sum(dim=1)", "return (one * other).sum(dim=1)"),
    Fault("softplus of one sharpness", "nn.Softplus(beta=beta)", "nn.Softplus()"),
    Fault("away from the label", "steepest_step(-gradient", "steepest_step(gradient"),
    Fault("weight lost", "self.lam * explanation_distance", "explanation_distance"),
    Fault(
        "explanation of the old point",
        "self.explain(model, place, labels), maps)",
        "self.explain(model, place.detach(), labels), maps)",
    ),
    Fault(
        "maps of the labels", "self.explain(model, given, own).detach()", "self.explain(model, given, labels).detach()"
    ),
    Fault(
        "softened network explains the start",
        "self.explain(model, given, own).detach()",
        "self.explain(guide, given, own).detach()",
    ),
    Fault("softened network judges", "done = model(place).argmax(dim=1)", "done = guide(place).argmax(dim=1)"),
    Fault("gradients of the network as it is", "loss = self._loss(guide, place", "loss = self._loss(model, place"),
    Fault("lowest point, fooled or not", "(done & ~fooled) | ((done == fooled) &", "(((done == done)) &"),
    Fault("last fooled point", "((done == fooled) & (loss.detach() < lowest))", "(done == fooled)"),
    Fault("last step not looked at", "range(self.steps + 1)", "range(self.steps)"),
    Fault("attacked in train mode", "        with evaluating(model):", "        if True:"),
)
