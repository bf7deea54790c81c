"""Faults of PubDef."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("a model counts itself", "(fooled.sum(dim=1) - fooled.diagonal())", "fooled.sum(dim=1)"),
    Fault("the most foolable model", "fooled.sum(dim=1) - fooled.diagonal()", "fooled.sum(dim=0) - fooled.diagonal()"),
    Fault("the least reach", "[max(numbers, key", "[min(numbers, key"),
    Fault("first chunk alone", "for part, of in parts])", "for part, of in parts[:1] * len(parts)])"),
    Fault(
        "copies are alike",
        "attack(model, part, of, generator=generator)",
        "attack(model, part, of, generator=torch.Generator().manual_seed(0))",
    ),
    Fault(
        "the first source alone",
        "            for model in sources\n",
        "            for model in [sources[0]] * len(sources)\n",
    ),
    Fault("accuracy in train mode", "with evaluating(model), torch.no_grad():", "with torch.no_grad():"),
    Fault("mean for strongest", "min(pairs.values())", "sum(pairs.values()) / len(pairs)"),
    Fault("any pair for all", ".all(dim=0).double()", ".any(dim=0).double()"),
    Fault("smallest losses count", "losses.topk(top, dim=0)", "losses.topk(top, dim=0, largest=False)"),
    Fault("top over images", "losses.topk(top, dim=0)", "losses.topk(top, dim=1)"),
    Fault(
        "weights swapped",
        "self.clean_weight * losses[0].mean() + (1 - self.clean_weight) * attacked",
        "(1 - self.clean_weight) * losses[0].mean() + self.clean_weight * attacked",
    ),
    Fault("clean images among the sources", "transfer_loss(losses[1:]", "transfer_loss(losses"),
    Fault("eval mode in training", "        self.model.train()\n", "        self.model.eval()\n"),
    Fault("gradients add up", "        self.optimizer.zero_grad()\n", ""),
    Fault(
        "one source for a batch",
        "torch.randint(sources, shape, generator=self.generator, device=device)",
        "torch.randint(sources, (1, 1), generator=self.generator, device=device).expand(shape)",
    ),
    Fault(
        "one copy for a batch",
        "torch.randint(copies, shape, generator=self.generator, device=device)",
        "torch.randint(copies, (1, 1), generator=self.generator, device=device).expand(shape)",
    ),
    Fault("other images of the bank", "self.bank[source, copy, index]", "self.bank[source, copy, index.roll(1)]"),
    Fault("changed images at weight 1", "if self.clean_weight == 1:", "if self.clean_weight > 1:"),
    Fault("the generator does not go on", '        self.generator.set_state(state_dict["generator"])\n', ""),
)
