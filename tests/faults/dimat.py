"""Faults of DIMAT."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("averages units as they stand", "mean_state([permuted(state, graph, order)", "mean_state([dict(state)"),
    Fault("the first is the reference", "own, count = members.index(links.agent)", "own, count = 0"),
    Fault(
        "equal weights",
        "dimat_merge(states, weights, orders, graph)",
        "dimat_merge(states, [1 / len(weights)] * len(weights), orders, graph)",
    ),
    Fault("merges in the agent's own model", "copy.deepcopy(self.model) for _", "self.model for _"),
    Fault(
        "moments stay in their order",
        'permute_optimizer_state(state, self.model, graph, orders[number])["state"]',
        'state["state"]',
    ),
    Fault(
        "moments are not merged",
        "        self._merge_moments([mail[member][count:] for member in members], weights, orders, graph)\n",
        "",
    ),
    Fault("counts those without moments", "weights[number] / total for", "weights[number] for"),
    Fault("keeps the optimizer", "self.optimizer.state.clear()", "pass"),
    Fault("no repair of the merged model", "repair_batchnorm(self.model, self._probe())", "pass"),
    Fault("matches with the statistics as sent", 'if self.repair and self.matching == "activation":', "if False:"),
    Fault(
        "no probe but the own data", "return self.batches if self.probe is None else self.probe", "return self.batches"
    ),
    Fault("tracing draws a shuffle", "self.example(self._probe())", "next(iter(self._probe()))[0]"),
    Fault("one epoch always", "self.train(self.local_epochs)", "self.train(1)"),
    Fault(
        "disagreement of units as they stand", "aligned = [permuted(state, graph, order) for", "aligned = [state for"
    ),
)
