"""Faults of InfoBatch."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("leaves out what is not learned", "(scores < scores.mean())", "(scores > scores.mean())"),
    Fault("no rescaling", "weight[low] = len(low) / max(1, len(low) - left_out)", "weight[low] = 1"),
    Fault("rescales all", "weight[low] = len(low) /", "weight[:] = len(low) /"),
    Fault(
        "scores with the weights",
        "self.scores[batch] = losses.detach()",
        "self.scores[batch] = (weight * losses).detach()",
    ),
    Fault("scores keep the graph", "losses.detach().to(self.scores.dtype)", "losses.to(self.scores.dtype)"),
    Fault("scores outside the state", "        self.scores.copy_(scores)\n", ""),
    Fault("generator outside the state", '        self.generator.set_state(state_dict["generator"])\n', ""),
    Fault("one epoch too many", "self.epoch >= self.delta * self.epochs", "self.epoch > self.delta * self.epochs"),
    Fault("never anneals", "if self.ratio == 0 or self.epoch >= self.delta * self.epochs:", "if self.ratio == 0:"),
    Fault(
        "in ascending order",
        "torch.randperm(len(index), generator=self.generator, device=self.generator.device).to(index.device)",
        "torch.arange(len(index))",
    ),
    Fault("in eval mode", "self.model.train()", "self.model.eval()"),
    Fault("rounds up", "round(ratio * len(low))", "math.ceil(ratio * len(low))"),
)
