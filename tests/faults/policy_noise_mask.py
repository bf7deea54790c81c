"""Faults of policy noise masks."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "alpha and beta swapped", "[log_alpha, log_beta], dim=-1)", "[log_beta, log_alpha], dim=-1)", part="_beta_masks"
    ),
    Fault(
        "parameters in place of their exponentials", ".detach().exp().to(", ".detach().abs().to(", part="_beta_masks"
    ),
    Fault("draws from the global stream", ", generator=generator)  #", ")  #", part="_beta_masks"),
    Fault("density without its norm", " - log_norm\n", "\n", part="_beta_masks"),
    Fault("density of the wrong exponent", "(alpha - 1) * mask.log()", "alpha * mask.log()", part="_beta_masks"),
    Fault("mask interpolated", 'mode="nearest")', 'mode="bilinear")', part="_beta_masks"),
    Fault("kernel of twice the reach", "truncate=(kernel // 2) / sigma", "truncate=kernel / sigma", part="_beta_masks"),
    Fault("density of the whole mask", "log_density.logsumexp(dim=1).mean()", "log_density.sum(dim=1).mean()"),
    Fault(
        "densities that overflow", "log_density.logsumexp(dim=1).mean()", "log_density.exp().sum(dim=1).log().mean()"
    ),
    Fault(
        "score of the wrong sign",
        "excess = fixed - (fixed.sum() - fixed) / others",
        "excess = (fixed.sum() - fixed) / others - fixed",
    ),
    Fault("own loss in the baseline", "(fixed.sum() - fixed) / others if", "fixed.mean() if"),
    Fault("no baseline", "excess = fixed - (fixed.sum() - fixed) / others if others else fixed", "excess = fixed"),
    Fault("loss differentiated twice", "losses.detach(), len(losses) - 1", "losses, len(losses) - 1"),
    Fault(
        "running mean of the batch alone",
        "self.base_decay * self.base + (1 - self.base_decay) * own",
        "(1 - self.base_decay) * self.base + self.base_decay * own",
    ),
    Fault(
        "running mean moves in eval mode",
        "        if self.training:\n            self.base",
        "        if True:\n            self.base",
    ),
    Fault("running mean with a graph", "own.detach().mean(dim=1)", "own.mean(dim=1)"),
    Fault(
        "laws mostly the image's own",
        "self.decay * self.base[:, None] + (1 - self.decay) * own",
        "(1 - self.decay) * self.base[:, None] + self.decay * own",
    ),
    Fault("images without masks", "noisy = inputs *", "noisy = inputs + 0 *"),
    Fault(
        "policy never steps",
        "optimizers = [self.optimizer, *([self.policy_optimizer] if self.policy_optimizer else [])]",
        "optimizers = [self.optimizer]",
    ),
    Fault("model in eval mode", "self.model.train()", "self.model.eval()"),
    Fault("policy in eval mode", "self.policy.train()", "self.policy.eval()"),
    Fault(
        "policy outside the state", '            self.policy.load_state_dict(state_dict["policy"])', "            pass"
    ),
    Fault(
        "optimizer of the policy outside the state",
        '            self.policy_optimizer.load_state_dict(state_dict["policy_optimizer"])',
        "            pass",
    ),
    Fault("generator outside the state", '        self.generator.set_state(state_dict["generator"])\n', ""),
)
