"""Faults of DyBAT."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("chooses the easiest", "descending=True", "descending=False"),
    Fault("in the order of the losses", "[:count].sort().values", "[:count]"),
    Fault("rounds up", "int(delta * len(losses))", "round(delta * len(losses) + 0.4999)"),
    Fault("a round of none", "max(1, int(delta * len(losses)))", "int(delta * len(losses))"),
    Fault("chooses before the first pass", "self.pending = list(range(batches))", "self.pending = []"),
    Fault("losses are never noted", "        self.losses[batch] = loss.detach()\n", ""),
    Fault(
        "notes the loss after the update",
        "        self.losses[batch] = loss.detach()\n",
        "        self.losses[batch] = self.loss(self.model(self.inputs[samples]), self.labels[samples]).detach()\n",
    ),
    Fault("losses keep the graph", "self.losses[batch] = loss.detach()", "self.losses[batch] = loss"),
    Fault(
        "forgets the losses that it did not renew",
        "            self.pending = self.next_round().tolist()\n",
        "            self.pending = self.next_round().tolist()\n            self.losses.zero_()\n",
    ),
    Fault("every call begins a round", "        if not self.pending:", "        if True:"),
    Fault("from the end", "self.pending.pop(0)", "self.pending.pop()"),
    Fault("gradients add up", "        self.optimizer.zero_grad()\n", ""),
    Fault("in eval mode", "self.model.train()", "self.model.eval()"),
    Fault("one round a call", "for _ in range(len(self.losses))]", "for _ in self.pending or self.next_round()]"),
    Fault("left-over samples make a batch", "max(1, len(inputs) // batch_size)", "-(-len(inputs) // batch_size)"),
    Fault("no batch where samples are few", "max(1, len(inputs) // batch_size)", "len(inputs) // batch_size"),
    Fault("losses outside the state", "        self.losses.copy_(losses)\n", ""),
    Fault("visits outside the state", '        self.visits.copy_(state_dict["visits"])\n', ""),
    Fault("round outside the state", '        self.pending = list(state_dict["pending"])\n', ""),
    Fault("state shares the losses", '"losses": self.losses.clone()', '"losses": self.losses'),
)
