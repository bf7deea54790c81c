"""Faults of the feature sieve."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("sum over the classes", "-logits.log_softmax(dim=1).mean()", "-logits.log_softmax(dim=1).sum(dim=1).mean()"),
    Fault("forgets upwards", "alpha=self.forget_lr", "alpha=-self.forget_lr"),
    Fault(
        "entropy in place of the uniform target",
        "-logits.log_softmax(dim=1).mean()",
        "(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()",
    ),
    Fault("head changes the features", "self._identify(features.detach(), labels)", "self._identify(features, labels)"),
    Fault("erases before the head learned", "        self._identify(features.detach(), labels)\n", ""),
    Fault(
        "erases in the last of each", "self.steps % self.forget_every == 0", "(self.steps + 1) % self.forget_every == 0"
    ),
    Fault(
        "main loss of the pass before",
        "            logits, _ = self._pass(inputs)\n",
        "            logits = self._pass(inputs)[0].detach() + 0 * self._pass(inputs)[0] + 0 * logits.detach()\n",
    ),
    Fault(
        "late layers erased by weight decay",
        "                if gradient is not None:\n                    parameter.sub_(gradient, alpha=self.forget_lr)",
        "                parameter.sub_(0.01 * parameter if gradient is None else gradient, alpha=self.forget_lr)",
    ),
    Fault("frozen parameters move", "if p.requires_grad]", "if p.requires_grad_()]"),
    Fault("head in eval mode", "self.head.train()", "self.head.eval()"),
    Fault("model in eval mode", "self.model.train()", "self.model.eval()"),
    Fault("head outside the state", '        self.head.load_state_dict(state_dict["head"])\n', ""),
    Fault(
        "optimizer of the head outside the state",
        '        self.head_optimizer.load_state_dict(state_dict["head_optimizer"])\n',
        "",
    ),
    Fault("steps outside the state", '        self.steps = state_dict["steps"]\n', ""),
    Fault("hook left behind", "            hook.remove()", "            pass"),
)
