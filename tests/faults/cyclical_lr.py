"""Faults of cyclical learning rates."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("cycle half as long", "step % (2 * step_size) / step_size", "step % step_size / step_size"),
    Fault("height halves twice a cycle", "0.5 ** (step // (2 * step_size))", "0.5 ** (step // step_size)"),
    Fault(
        "decay counts cycles",
        "_height(step, step_size) * gamma**step",
        "_height(step, step_size) * gamma ** (step // step_size)",
    ),
    Fault(
        "range test trains the model itself",
        "model, optimizer = copy.deepcopy((model, optimizer))",
        "pass",
        part="_range_test",
    ),
    Fault("range test in eval mode", "        model.train()\n", "        model.eval()\n", part="_range_test"),
    Fault(
        "range test draws from the global stream",
        "with torch.random.fork_rng({p.get_device() for p in model.parameters() if p.is_cuda}), torch.enable_grad():",
        "with torch.enable_grad():",
        part="_range_test",
    ),
    Fault(
        "first group alone",
        "return [rate] * len(self.optimizer.param_groups)",
        "return [rate] + [group['lr'] for group in self.optimizer.param_groups[1:]]",
    ),
    Fault("lower bound for the upper", "return top / 4, top", "return top / 2, top", part="_range_test"),
)
