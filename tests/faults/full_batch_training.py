"""Faults of full-batch training."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("half of the penalty", "strength / 2 * norm / eps", "strength / 4 * norm / eps"),
    Fault("not scaled by the norm", "strength / 2 * norm / eps", "strength / 2 / eps"),
    Fault("away from large curvature's gradient", "near + (far - near)", "near - (far - near)"),
    Fault(
        "a step along the whole gradient", "parameter.add_(gradient * (eps / norm))", "parameter.add_(gradient * eps)"
    ),
    Fault("parameters left where they were moved", "                parameter.copy_(before)", "                pass"),
    Fault(
        "restored only if all goes well",
        "    finally:\n        with torch.no_grad():",
        "    except ZeroDivisionError:\n        pass\n    else:\n        with torch.no_grad():",
    ),
    Fault("zero gradients divided by", "if strength == 0 or norm == 0:", "if strength == 0:"),
    Fault("a second pass for nothing", "if strength == 0 or norm == 0:", "if norm == 0:"),
    Fault("blocks count alike", "share = len(inputs) / len(self.inputs)", "share = 1 / blocks"),
    Fault(
        "rate of the start",
        'strength = self.alpha * self.optimizer.param_groups[0]["lr"]',
        'strength = self.alpha * self.optimizer.defaults["lr"]',
    ),
    Fault("never clipped", "if self.clip is not None:\n            nn", "if False:\n            nn"),
    Fault(
        "blocks clipped",
        "            value, found = penalised_gradient(loss, parameters, strength, self.eps)",
        "            value, found = penalised_gradient(loss, parameters, strength, self.eps)\n            if self.clip is not None:\n                torch._foreach_mul_([f for f in found if f is not None], min(1.0, self.clip / float(torch.stack([f.norm() for f in found if f is not None]).norm())))",
    ),
    Fault(
        "last block cut off",
        "blocks = -(-len(self.inputs) // self.block_size)",
        "blocks = max(1, len(self.inputs) // self.block_size)",
    ),
    Fault("in eval mode", "self.model.train()", "self.model.eval()"),
    Fault("optimizer outside the state", '        self.optimizer.load_state_dict(state_dict["optimizer"])\n', ""),
    Fault("dropout of no share refused", "if share(part) > 0]", "if share(part) > 0 or isinstance(part, nn.Dropout)]"),
    Fault("frozen parameters move", "if p.requires_grad]", "if p.requires_grad_()]"),
)
