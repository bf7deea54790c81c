"""Faults of noise as targets."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("targets of any length", "F.normalize(torch.randn(count, dim, ", "(torch.randn(count, dim, "),
    Fault("targets from a cube", "torch.randn(count, dim, generator", "1 - 2 * torch.rand(count, dim, generator"),
    Fault("the loss of features of any length", "(F.normalize(features) - targets)", "(features - targets)"),
    Fault("a sum over the batch", ".sum(dim=1).mean() / 2", ".sum() / 2"),
    Fault("squares not halved", ".sum(dim=1).mean() / 2", ".sum(dim=1).mean()"),
    Fault("targets farthest away", "maximize=True", "maximize=False"),
    Fault(
        "an assignment of features of any length",
        "F.normalize(features.detach().double())",
        "features.detach().double()",
    ),
    Fault(
        "the inverse permutation",
        "targets.detach().double().T\n",
        "targets.detach().double().T\n    products = products.T\n",
    ),
    Fault("features that are not finite are taken", "targets.isfinite().all()):", "True):"),
    Fault(
        "reassigned in every pass",
        "self.reassign_every > 0 and self.epoch % self.reassign_every == 0",
        "self.reassign_every > 0",
    ),
    Fault(
        "reassigned in the last pass of each few",
        "self.epoch % self.reassign_every == 0",
        "(self.epoch + 1) % self.reassign_every == 0",
    ),
    Fault(
        "reassigned after the step",
        "            if reassigns:\n                self._reassign(index.to(self.targets.device), features.detach())\n            own = self.assignment[index.to(self.targets.device)]\n",
        "            own = self.assignment[index.to(self.targets.device)]\n            if reassigns:\n                self._reassign(index.to(self.targets.device), features.detach())\n",
    ),
    Fault(
        "targets of places, not of images",
        "self.assignment[index] = held[assign_targets",
        "self.assignment[index] = index[assign_targets",
    ),
    Fault(
        "always the first targets",
        "assign_targets(features, self.targets[held]",
        "assign_targets(features, self.targets[index]",
    ),
    Fault("nothing changes hands", "self.assignment[index] = held[", "_ = held["),
    Fault("a divergence stops the pass", "if features.isfinite().all():", "if len(features):"),
    Fault(
        "the same order in every pass",
        "order = torch.randperm(len(self.inputs), generator=self.generator, device=self.generator.device)",
        "order = torch.arange(len(self.inputs))",
    ),
    Fault("no views", "batch if self.view is None else self.view(batch, self.generator)", "batch"),
    Fault("trained in eval mode", "self.model.train()", "self.model.eval()"),
    Fault("gradients add up", "            self.optimizer.zero_grad()\n", ""),
    Fault("the last batch's loss", "return torch.stack(losses).mean()", "return losses[-1]"),
    Fault("passes are not saved", '        self.epoch = state_dict["epoch"]\n', ""),
    Fault("targets are not saved", '        self.targets = state_dict["targets"].to(self.targets)\n', ""),
    Fault(
        "assignments are not saved",
        '        self.assignment = state_dict["assignment"].to(self.assignment).clone()\n',
        "",
    ),
    Fault(
        "the saved assignment goes on changing",
        '"assignment": self.assignment.clone()',
        '"assignment": self.assignment',
    ),
    Fault("the generator is not saved", '        self.generator.set_state(state_dict["generator"])\n', ""),
    Fault("targets of another number of inputs", "len(targets) != len(inputs) or ", ""),
)
