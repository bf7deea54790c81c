"""Faults of domain invariant adversarial learning."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("gradient not reversed", "return -ctx.ratio * gradients[0], None", "return ctx.ratio * gradients[0], None"),
    Fault("ratio left out", "return -ctx.ratio * gradients[0], None", "return -gradients[0], None"),
    Fault("features scaled as well", "return features.view_as(features)", "return ratio * features"),
    Fault("ramp twice as fast", "math.tanh(speed * progress / 2)", "math.tanh(speed * progress)"),
    Fault("ramp not scaled", "return largest * math.tanh", "return math.tanh"),
    Fault("ramp begins high", "math.tanh(speed * progress / 2)", "(1 - math.tanh(speed * progress / 2))"),
    Fault(
        "domain head before the reversal", "return self.domain(self.reversal(features))", "return self.domain(features)"
    ),
    Fault(
        "classifier behind the reversal",
        "return self.head(self.features(images))",
        "return self.head(self.reversal(self.features(images)))",
    ),
    Fault("always together", "    if together:", "    if True:"),
    Fault("never together", "    if together:", "    if False:"),
    Fault("domains of one batch exchanged", "torch.cat([natural, unnatural])", "torch.cat([unnatural, natural])"),
    Fault(
        "domain head on detached features",
        "model.domains(natural), model.domains(unnatural)",
        "model.domains(natural.detach()), model.domains(unnatural.detach())",
    ),
    Fault("no hidden normalization", "nn.BatchNorm1d(hidden), nn.ReLU()", "nn.ReLU()"),
    Fault("domain head in its own precision", ").to(head.weight)", ")"),
    Fault("weight of the attacked ones lost", "+ lam * robust", "+ robust"),
    Fault(
        "no loss on natural images",
        "loss = F.cross_entropy(logits, labels) + lam",
        "loss = F.cross_entropy(changed, labels) + lam",
    ),
    Fault(
        "divergence the other way",
        "F.kl_div(changed.log_softmax(dim=1), logits.log_softmax(dim=1),",
        "F.kl_div(logits.log_softmax(dim=1), changed.log_softmax(dim=1),",
    ),
    Fault("divergence a mean over classes", 'reduction="batchmean"', 'reduction="mean"'),
    Fault("divergence where labels are asked for", "    if divergence:", "    if not divergence:"),
    Fault(
        "no gradient through natural predictions",
        "logits.log_softmax(dim=1), reduction",
        "logits.detach().log_softmax(dim=1), reduction",
    ),
    Fault("domains by the same class", "attacked.log_softmax(dim=1)[:, 1]", "attacked.log_softmax(dim=1)[:, 0]"),
    Fault(
        "domains exchanged",
        "natural.log_softmax(dim=1)[:, 0].mean() + attacked.log_softmax(dim=1)[:, 1]",
        "natural.log_softmax(dim=1)[:, 1].mean() + attacked.log_softmax(dim=1)[:, 0]",
    ),
    Fault("weight of the domains lost", "loss + domain_ratio * domain_loss", "loss + domain_loss"),
    Fault("domains subtracted", "loss + domain_ratio * domain_loss", "loss - domain_ratio * domain_loss"),
    Fault("domains of natural images alone", ".mean() + attacked.log_softmax(dim=1)[:, 1].mean())", ".mean())"),
    Fault("weight not checked", '    _check_number("lam", lam)\n', ""),
    Fault("weight of the domains not checked", '    _check_number("domain_ratio", domain_ratio)\n', ""),
    Fault("ratio not checked", '        _check_number("ratio", ratio)\n', ""),
)
