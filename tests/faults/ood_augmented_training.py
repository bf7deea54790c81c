"""Faults of training with images of other things."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("sum over classes", "-logits.log_softmax(dim=1).mean()", "-logits.log_softmax(dim=1).sum(dim=1).mean()"),
    Fault("softmax over the batch", "-logits.log_softmax(dim=1).mean()", "-logits.log_softmax(dim=0).mean()"),
    Fault("sign", "return -logits.log_softmax", "return logits.log_softmax"),
    Fault(
        "alpha is left out",
        "loss + alpha * uniform_target_loss(logits[~known])",
        "loss + uniform_target_loss(logits[~known])",
    ),
    Fault("other images count as labelled", "uniform_target_loss(logits[~known])", "uniform_target_loss(logits)"),
    Fault("class 0 is another image", "    known = labels >= 0\n", "    known = labels > 0\n"),
    Fault("without labels it is not a number", "    if known.any():\n        loss = ", "    if True:\n        loss = "),
    Fault("other images of class 0 for the attack", "torch.where(labels[:, None] >= 0, one, 1 / classes)", "one"),
    Fault("shares that sum to more", "one, 1 / classes)", "one, 1 / (classes - 1))"),
    Fault("labels are not looked at", "not -1 <= int(labels.min()) <= int(labels.max()) < classes", "False"),
    Fault(
        "the most confident", "confidences.argsort(stable=True)", "confidences.argsort(stable=True, descending=True)"
    ),
    Fault("confidence in train mode", "with evaluating(model), torch.no_grad():", "with torch.no_grad():"),
    Fault("trains in eval mode", "        self.model.train()\n", "        self.model.eval()\n"),
    Fault(
        "other images are attacked as class 0",
        "wanted = soft_targets(labels, self.classes).to(inputs)",
        "wanted = soft_targets(labels.clamp(min=0), self.classes).to(inputs)",
    ),
    Fault("trains on images as they are", "            inputs = self.attack(", "            self.attack("),
    Fault(
        "always the first others",
        "chosen = torch.randint(len(self.ood), (len(inputs),), generator=draw, device=draw.device)",
        "chosen = torch.arange(len(inputs)) % len(self.ood)",
    ),
    Fault("gradients add up", "        self.optimizer.zero_grad()\n", ""),
    Fault("generator outside the state", '        self.generator.set_state(state_dict["generator"])\n', ""),
    Fault(
        "weight in training left out",
        "ood_augmented_loss(logits, labels, self.alpha)",
        "ood_augmented_loss(logits, labels)",
    ),
    Fault("one other image", "(len(inputs),), generator=draw", "(1,), generator=draw"),
    Fault("infinite alpha passes", "not 0 <= alpha < math.inf", "not 0 <= alpha"),
)
