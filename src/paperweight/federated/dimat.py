"""DIMAT, decentralised iterative merging and training: align the models of neighbours, average them, train on.

Each agent has data and a model of its own, and hears a few others. A round merges, then trains: the agent puts the
units of its neighbours' models into the order of its own, where their activations correlate most, takes the weighted
mean, recomputes batch normalization, and trains the result on its own data for a few epochs. Cost: a model to each
listener once a round, not once a step, and per merge a pass of every neighbour's model over the agent's data, a linear
assignment a layer, and another pass or two for batch normalization.

Ten lines simulate agents in one process::

    from paperweight.agents import Batches, Simulation, mixing_matrix, partition
    from paperweight.federated import DIMAT

    def agent(number, part):
        torch.manual_seed(number)
        model = make_model()
        draw = torch.Generator().manual_seed(number)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        return DIMAT(model, optimizer, Batches(inputs[part], labels[part], 100, generator=draw))

    parts = partition(labels, 5, "classes", generator=torch.Generator().manual_seed(0))
    agents = [agent(number, part) for number, part in enumerate(parts)]
    history = Simulation(agents, mixing_matrix("ring", 5), evaluate=accuracy).run(10)

In one process an agent the last two become what follows, and give the same weights to the bit; `Processes` tells how to
start them, and what happens when one is killed::

    number = int(os.environ["RANK"])
    run = Processes(agent(number, parts[number]), mixing_matrix("ring", 5), checkpoint=f"agent{number}.safetensors")
    history = run.run(10)

Source:
    N. Saadati, M. Pham, N. Saleem, J. R. Waite, A. Balu, Z. Jiang, C. Hegde, S. Sarkar, "DIMAT: Decentralized
    Iterative Merging-And-Training for Deep Learning Models", CVPR 2024, https://arxiv.org/abs/2404.08079. Implemented:
    merging by activation matching, batch normalization repair, local training, over any graph; weight matching and no
    matching beside it. Left out: merging within one model as ZipIt does, which the paper's results do without.

Deviations:
    - Matching and batch normalization use the agent's own data; the authors' code uses the data of all agents, which
      decentralised agents do not have. ``probe`` gives others, such as a shared unlabelled set.
    - Optimizer states are kept, permuted and averaged as the weights are; the authors' code starts a new optimizer in
      each round, as does ``keep_optimizer_state=False``.
    - On a full graph every agent merges in the order of its own units; the authors' code merges for one and copies.
    - Models are averaged exactly; the authors' code shrinks what it permutes by a part in 100 000. Units that are tied,
      such as dead ones, keep their place.
    - Without neighbours an agent just trains: neither matching nor repair.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from paperweight.agents.agent import Agent, Exchange, Loss, Round, check_count, disagreement, numbers, set_numbers
from paperweight.agents.mixing import Links
from paperweight.catalogue import Paper
from paperweight.merging import (
    Permutation,
    PermutationGraph,
    match_activations,
    match_weights,
    mean_state,
    permute_optimizer_state,
    permuted,
    repair_batchnorm,
)

__all__ = ["DIMAT", "dimat_merge"]

PAPER = Paper(
    title="DIMAT: Decentralized Iterative Merging-And-Training for Deep Learning Models",
    authors=(
        "Nastaran Saadati",
        "Minh Pham",
        "Nasla Saleem",
        "Joshua R. Waite",
        "Aditya Balu",
        "Zhanhong Jiang",
        "Chinmay Hegde",
        "Soumik Sarkar",
    ),
    year=2024,
    url="https://arxiv.org/abs/2404.08079",
    provides={"DIMAT": "training-procedure", "dimat_merge": "function"},
    null={"matching": "none"},
    claim="Merging aligned models now and then gains accuracy faster than averaging, with less communication.",
)

Matching = Literal["activation", "weight", "none"]


def dimat_merge(
    states: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float],
    orders: Sequence[Permutation],
    graph: PermutationGraph,
) -> dict[str, Tensor]:
    """Merge: ``theta_i = sum_j Pi_ij P_ij(theta_j)`` over agent i itself and those that it hears.

    Args:
        states: The states ``theta_j``, of one architecture.
        weights: The weights ``Pi_ij``, which sum to 1.
        orders: The permutations ``P_ij``, as `paperweight.merging.match_activations` gives them: for each group of
            units the number of the unit of j that takes each place; a group that is left out keeps its order.
        graph: The groups of units of the architecture.

    Returns:
        The merged state, summed in double precision; whole numbers, such as counts, are those of the first state.

    Raises:
        ValueError: If states, weights or orders do not fit each other.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> graph = PermutationGraph.trace(model, torch.zeros(1, 1))
        >>> state, swap = model.state_dict(), {"0": torch.tensor([1, 0])}
        >>> swapped = dimat_merge([state], [1.0], [swap], graph)
        >>> merged = dimat_merge([state, swapped], [0.5, 0.5], [{}, swap], graph)
        >>> all(torch.equal(merged[name], value) for name, value in state.items())
        True
    """
    if not len(states) == len(weights) == len(orders):
        raise ValueError(
            "states, weights and orders must have the same length, one entry for each model, "
            f"got {len(states)}, {len(weights)} and {len(orders)}"
        )
    return mean_state([permuted(state, graph, order) for state, order in zip(states, orders, strict=True)], weights)


@final
class DIMAT(Agent):
    """An agent that merges with its neighbours at the beginning of each round, and then trains.

    The agent's model is the reference: its own units stay in their order. With ``matching="none"`` this is weight
    averaging, with ``matching="weight"`` the matching of weights in place of activations, both with the same repair
    and the same training. Put agents into a `Simulation`, or one into each of several `Processes`.

    Args:
        model: The agent's model, trained in place; all agents' models are of one architecture.
        optimizer: Holds the model's parameters, in their order; steps without a closure. The paper has Adam with step
            size 0.001.
        batches: The agent's own data: batches (inputs, labels), iterated anew in each pass, such as `Batches` or a
            `torch.utils.data.DataLoader`; the paper has 100 samples a batch. Their attribute ``generator`` is the
            agent's only source of random numbers.
        local_epochs: Passes over the batches after each merge, at least 0; the paper has 2.
        matching: How the units of other models are put into order: where their activations correlate most, where their
            weights are nearest, or not at all.
        keep_optimizer_state: Whether the moments of the optimizer are merged like the weights, and sent with them.
            Otherwise each round starts with a new optimizer, as in the authors' code.
        repair: Whether the running statistics of batch normalization are computed anew: of all models before their
            activations are matched, and of the merged one.
        probe: Batches of inputs, or of tuples that begin with them, for matching and repair; by default ``batches``.
        graph: Which units may be permuted; by default traced from the model and the first inputs of the probe.
        loss: What is trained on, from outputs and labels of a batch; cross-entropy by default.

    Raises:
        ValueError: If an argument is outside its range.

    Attributes:
        rounds: Number of the next round.
        samples: Number of samples whose gradients were evaluated.
        disagreement: How far the models of the last merge were apart, in the agent's order of units, see `Agent`.

    Example:
        >>> model, draw = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), torch.Generator().manual_seed(0)
        >>> batches = [(torch.rand(8, 2, generator=draw), torch.arange(8) % 2)]
        >>> agent = DIMAT(model, torch.optim.Adam(model.parameters(), lr=1e-3), batches)
        >>> agent.step()  # alone it just trains
        >>> agent.rounds, agent.samples
        (1, 16)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[tuple[Tensor, Tensor]],
        local_epochs: int = 2,
        *,
        matching: Matching = "activation",
        keep_optimizer_state: bool = True,
        repair: bool = True,
        probe: Iterable[Any] | None = None,
        graph: PermutationGraph | None = None,
        loss: Loss | None = None,
    ) -> None:
        check_count("local_epochs", local_epochs, 0)
        if matching not in ("activation", "weight", "none"):
            raise ValueError(f"matching must be 'activation', 'weight' or 'none', got {matching!r}")
        super().__init__(model, optimizer, batches, loss)
        self.local_epochs = local_epochs
        self.matching: Matching = matching
        self.keep_optimizer_state = keep_optimizer_state
        self.repair = repair
        self.probe = probe
        self.graph = graph
        self._groups = graph

    def round(self, links: Links) -> Round:
        """Merge with the neighbours, if there are some; then train for ``local_epochs``.

        Args:
            links: Its place among the agents of this round.

        Yields:
            Its weights, and moments if they are kept, for all that hear it.
        """
        if not self.keep_optimizer_state:
            self.optimizer.state.clear()
        if links.neighbours or links.listeners:
            message = [*numbers(self.model).values(), *self._moments().values()]
            mail = yield Exchange(dict.fromkeys(links.listeners, message), links.neighbours)
            if links.neighbours:
                self._merge({links.agent: message, **mail}, links)
            if self.on_merge is not None:
                self.on_merge()
        self.train(self.local_epochs)

    def _merge(self, mail: Mapping[int, Sequence[Tensor]], links: Links) -> None:
        members, weights = [*links.incoming], [*links.incoming.values()]
        own, count = members.index(links.agent), len(numbers(self.model))
        models = [copy.deepcopy(self.model) for _ in members]
        for model, member in zip(models, members, strict=True):
            set_numbers(model, mail[member][:count])
            if self.repair and self.matching == "activation":
                repair_batchnorm(model, self._probe())
        graph = self._traced()
        orders = self._orders(models, graph, own)
        states = [numbers(model) for model in models]
        learned = [name for name, _ in self.model.named_parameters()]
        aligned = [permuted(state, graph, order) for state, order in zip(states, orders, strict=True)]
        self.disagreement = disagreement([{name: state[name] for name in learned} for state in aligned], weights, own)
        set_numbers(self.model, dimat_merge(states, weights, orders, graph).values())
        self._merge_moments([mail[member][count:] for member in members], weights, orders, graph)
        if self.repair:
            repair_batchnorm(self.model, self._probe())

    def _probe(self) -> Iterable[Any]:
        return self.batches if self.probe is None else self.probe

    def _traced(self) -> PermutationGraph:
        """Give the groups of units; without a matching nothing is permuted, and none is needed."""
        if self._groups is None and self.matching == "none":
            self._groups = PermutationGraph(())
        elif self._groups is None:
            self._groups = PermutationGraph.trace(self.model, self.example(self._probe()))
        return self._groups

    def _orders(self, models: Sequence[nn.Module], graph: PermutationGraph, own: int) -> Sequence[Permutation]:
        if self.matching == "activation":
            return match_activations(models, graph, self._probe(), reference=own)
        if self.matching == "weight":
            return [match_weights(models[own], model, graph) for model in models]
        return [{} for _ in models]

    def _merge_moments(
        self,
        messages: Sequence[Sequence[Tensor]],
        weights: Sequence[float],
        orders: Sequence[Permutation],
        graph: PermutationGraph,
    ) -> None:
        """Merge the moments of all that sent some; an agent that has not trained yet has none."""
        mine = self._moments()
        known = [number for number, message in enumerate(messages) if mine and len(message) == len(mine)]
        total = sum(weights[number] for number in known)
        if not total:
            return
        aligned: list[dict[str, Tensor]] = []
        for number in known:
            state = copy.deepcopy(self.optimizer.state_dict())
            for (place, name), moment in zip(mine, messages[number], strict=True):
                state["state"][place][name] = moment
            state = permute_optimizer_state(state, self.model, graph, orders[number])["state"]
            aligned.append({f"{name} of {place}": state[place][name] for place, name in mine})
        merged = mean_state(aligned, [weights[number] / total for number in known])
        for moment, new in zip(mine.values(), merged.values(), strict=True):
            moment.copy_(new)

    def _moments(self) -> dict[tuple[int, str], Tensor]:
        """Give the moments of the optimizer by the number of their parameter and their name."""
        return {
            (place, name): value
            for place, state in self.optimizer.state_dict()["state"].items()
            for name, value in sorted(state.items())
            if isinstance(value, Tensor) and value.ndim
        }
