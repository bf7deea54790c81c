"""Faults of stochastic depth."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("branch is run and then multiplied by 0", "return x.new_zeros(())", "return 0 * self.branch(x)"),
    Fault("decay begins at the first branch", "range(1, branches + 1)", "range(branches)"),
    Fault("decay the wrong way", "1 - number / branches * (1 - p_last)", "p_last + number / branches * (1 - p_last)"),
    Fault("survival taken for the rate of dropping", "device=device) < survival", "device=device) > survival"),
    Fault("eval mode not scaled", "else self.survival * self.branch(x)", "else self.branch(x)"),
    Fault(
        "eval mode scaled for rows as well",
        'return self.branch(x) if self.mode == "row" else self.survival * self.branch(x)',
        "return self.survival * self.branch(x)",
    ),
    Fault(
        "rows not scaled in training", "values = self.branch(x[kept]) / self.survival", "values = self.branch(x[kept])"
    ),
    Fault(
        "rows come back in the first places",
        "index_copy(0, kept, values)",
        "index_copy(0, torch.arange(len(kept)), values)",
    ),
    Fault("drops in eval mode", "if not self.training:", "if False:"),
    Fault("draws from the global stream", "torch.rand(shape, generator=generator, device=device)", "torch.rand(shape)"),
    Fault("model changed in place", "result = copy.deepcopy(model)", "result = model"),
    Fault("mode of a branch lost", ".train(child.training)", ""),
    Fault(
        "a shortcut named residual is taken for a branch",
        'child == "residual" and isinstance(block._modules.get("shortcut"), nn.Module)',
        'child == "residual"',
    ),
    Fault(
        "all branches with the probability of the last",
        "StochasticDepth(child, probability, ",
        "StochasticDepth(child, probabilities[-1], ",
    ),
)
