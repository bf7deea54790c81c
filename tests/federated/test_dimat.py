"""DIMAT: permuted copies are recovered, merges by hand, optimizers that move with the weights, and plain training."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.agents.agent import Batches
from paperweight.agents.mixing import mixing_matrix
from paperweight.agents.simulation import Simulation
from paperweight.federated.dimat import DIMAT, dimat_merge
from paperweight.merging import PermutationGraph, permuted
from paperweight.testing import FunctionSubject, TrainingProcedureSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mlp(seed: int = 0, dtype: torch.dtype = torch.float32, norm: bool = True) -> nn.Module:
    """Make a 6-8-5-3 network; the statistics and gains of its batch normalization are no round numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)]
        model = nn.Sequential(*(part for part in parts if norm or not isinstance(part, nn.BatchNorm1d))).to(dtype)
        for name, value in model.state_dict().items():
            if value.is_floating_point() and ("running" in name or "1." in name):
                value.copy_(torch.rand_like(value) + 0.5)
    return model


def data(seed: int = 0, count: int = 64, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(count, 6, generator=seeded(seed), dtype=torch.float64).to(dtype)
    return inputs, inputs[:, :3].argmax(1)


def agent(model: nn.Module, samples: tuple[Tensor, Tensor], seed: int = 0, *, momentum: float = 0.9, **given) -> DIMAT:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    arguments = {"local_epochs": 1, **given}
    return DIMAT(model, optimizer, Batches(*samples, 16, generator=seeded(seed)), **arguments)


def numbers(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if value.is_floating_point()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-6):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=atol, msg=lambda text, name=name: name + text)


# The contract: three agents on a ring, the first with the model that is looked at.


def trio(model: nn.Module, samples: tuple[Tensor, Tensor], *, generator: torch.Generator, **given) -> Simulation:
    """Three agents with a third of the data each, differently trained beforehand."""
    seed = int(torch.randint(1_000, (), generator=generator))
    agents = []
    for number in range(3):
        network = model if number == 0 else copy.deepcopy(model)
        if number:
            for part in network.modules():
                part._forward_hooks.clear()  # only the first model is watched
            with torch.no_grad():
                for parameter in network.parameters():
                    noise = torch.randn(parameter.shape, generator=seeded(number), dtype=torch.float64)
                    parameter += 0.1 * noise.to(parameter)
        own = tuple(tensor[number::3] for tensor in samples)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        arguments = {"local_epochs": 1, **given}
        agents.append(DIMAT(network, optimizer, Batches(*own, 4, generator=seeded(seed + number)), **arguments))
    return Simulation(agents, mixing_matrix("ring", 3))


class Averaging:
    """Weight averaging of three, written out: mean of weights, statistics and momenta, then an epoch each."""

    def __init__(self, model, samples, *, generator):
        self.inner = trio(model, samples, generator=generator)
        self.agents = self.inner.agents

    def step(self):
        models = [each.model for each in self.agents]
        with torch.no_grad():
            for entries in zip(*(numbers_of(model) for model in models), strict=True):
                mean = (sum(value.double() * (1 / 3) for value in entries)).to(entries[0].dtype)
                for value in entries:
                    value.copy_(mean)
            for group in zip(*(model.parameters() for model in models), strict=True):
                states = [each.optimizer.state.get(value) for each, value in zip(self.agents, group, strict=True)]
                if all(states):
                    mean = sum(state["momentum_buffer"].double() * (1 / 3) for state in states).to(group[0].dtype)
                    for state in states:
                        state["momentum_buffer"].copy_(mean)
        for each in self.agents:
            repair(each.model, each.batches)
            each.model.train()
            for inputs, labels in each.batches:
                each.optimizer.zero_grad()
                F.cross_entropy(each.model(inputs), labels).backward()
                each.optimizer.step()

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict): ...


def numbers_of(model: nn.Module) -> list[Tensor]:
    return [value for value in model.state_dict().values() if value.is_floating_point()]


def repair(model: nn.Module, batches) -> None:
    """Replace running statistics by the mean of those of one pass."""
    norm = model[1]
    norm.reset_running_stats()
    norm.momentum, usual = None, norm.momentum
    with torch.no_grad():
        for inputs, _ in batches:
            model.eval()
            norm.train()
            model(inputs)
    norm.momentum = usual


GRAPH_MODEL = mlp(0)
GRAPH = PermutationGraph.trace(GRAPH_MODEL, torch.zeros(2, 6))
STATES = [numbers(mlp(seed)) for seed in range(3)]
ORDERS = [GRAPH.random(seeded(seed)) for seed in range(3)]

CONTRACT = {
    "DIMAT": TrainingProcedureSubject(
        make=trio,
        evaluations=lambda simulation: simulation.agents[0].samples,
        random=True,
        advance=lambda simulation, samples, number: simulation.step(),
        bad={"local_epochs": (-1, 0.5), "matching": ("zip", None)},
        null=lambda model, samples, *, generator: trio(model, samples, generator=generator, matching="none"),
        baseline=Averaging,
    ),
    "dimat_merge": FunctionSubject(
        make=dimat_merge,
        arguments={"states": STATES, "weights": [0.5, 0.25, 0.25], "orders": ORDERS, "graph": GRAPH},
        bad={
            "weights": ([0.5, 0.5, 0.5], [1.0], [math.nan, 0.5, 0.5]),
            "states": (STATES[:2],),
            "orders": (ORDERS[:2],),
        },
    ),
}


# The merge, by hand.


def test_merge_is_the_weighted_sum_of_the_reordered_weights():
    """Units written out one by one, in double precision."""
    weights = [0.5, 0.25, 0.25]
    merged = dimat_merge(STATES, weights, ORDERS, GRAPH)
    first, second = (group.name for group in GRAPH.groups)
    for unit, feature in itertools.product(range(8), range(6)):
        parts = (
            w * float(s["0.weight"][o[first][unit], feature]) for w, s, o in zip(weights, STATES, ORDERS, strict=True)
        )
        assert float(merged["0.weight"][unit, feature]) == pytest.approx(sum(parts), abs=1e-7)
    for unit, source in itertools.product(range(5), range(8)):
        parts = (
            w * float(s["3.weight"][o[second][unit], o[first][source]])
            for w, s, o in zip(weights, STATES, ORDERS, strict=True)
        )
        assert float(merged["3.weight"][unit, source]) == pytest.approx(sum(parts), abs=1e-7)
    for unit in range(8):
        parts = (w * float(s["1.running_var"][o[first][unit]]) for w, s, o in zip(weights, STATES, ORDERS, strict=True))
        assert float(merged["1.running_var"][unit]) == pytest.approx(sum(parts), abs=1e-7)
    classes = sum(w * s["5.bias"] for w, s in zip(weights, STATES, strict=True))
    torch.testing.assert_close(merged["5.bias"], classes)


def crew(count: int, *, seed: int = 3, **given) -> tuple[list[DIMAT], nn.Module]:
    """Agents whose models are one network with its units in different orders."""
    source = mlp(seed)
    graph = PermutationGraph.trace(source, torch.zeros(2, 6))
    agents = []
    for number in range(count):
        model = copy.deepcopy(source)
        if number:
            state = permuted(model.state_dict(), graph, graph.random(seeded(number)))
            model.load_state_dict(state)
        agents.append(agent(model, data(number), number, **{"local_epochs": 0, "repair": False, **given}))
    return agents, source


@pytest.mark.parametrize("matching", ["activation", "weight"])
@pytest.mark.parametrize("kind", ["full", "ring"])
def test_agents_with_one_network_in_different_orders_keep_it(matching, kind):
    agents, _ = crew(5, matching=matching)
    before = [numbers(each.model) for each in agents]
    Simulation(agents, mixing_matrix(kind, 5)).run(2)
    for each, expected in zip(agents, before, strict=True):
        assert_close(numbers(each.model), expected)
        assert each.disagreement < 1e-5


def test_without_matching_the_same_agents_lose_it():
    agents, source = crew(5, matching="none")
    Simulation(agents, mixing_matrix("full", 5)).step()
    inputs, _ = data(9)
    with torch.no_grad():
        lost = (agents[0].model.eval()(inputs) - source.eval()(inputs)).abs().max()
    assert lost > 0.1
    mean = {name: sum(numbers(each.model)[name] for each in agents) / 5 for name in numbers(source)}
    assert_close(numbers(agents[2].model), mean)


def test_an_unequal_row_by_hand():
    """Agent 0 takes 0.7 and 0.2 of 1, 0.1 of 2; the order of 1 and 2 is known."""
    agents, source = crew(3)
    graph = PermutationGraph.trace(source, torch.zeros(2, 6))
    moved = [numbers(source)]
    for number in (1, 2):
        with torch.no_grad():
            for parameter in agents[number].model.parameters():
                noise = torch.randn(parameter.shape, generator=seeded(number))
                parameter += 1e-3 * noise
        order = graph.random(seeded(number))
        back = {name: torch.argsort(places) for name, places in order.items()}
        moved.append(permuted(numbers(agents[number].model), graph, back))
    matrix = torch.tensor([[0.7, 0.2, 0.1], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    Simulation(agents, matrix).step()
    expected = {name: 0.7 * moved[0][name] + 0.2 * moved[1][name] + 0.1 * moved[2][name] for name in moved[0]}
    assert_close(numbers(agents[0].model), expected)
    learned = {name for name, _ in source.named_parameters()}
    squares = [sum((part[n].double() - moved[0][n].double()).square().sum() for n in learned) for part in moved]
    distance = math.sqrt(0.2 * squares[1] + 0.1 * squares[2])
    assert agents[0].disagreement == pytest.approx(distance, rel=1e-4)


def test_the_reference_is_the_agent_itself_wherever_it_stands():
    agents, _ = crew(3)
    before = [numbers(each.model) for each in agents]
    matrix = torch.tensor([[1, 0, 0], [0, 1, 0], [0.6, 0.2, 0.2]], dtype=torch.float64)
    Simulation(agents, matrix).step()
    assert_close(numbers(agents[2].model), before[2])


def test_identical_models_are_a_fixed_point_to_the_bit():
    agents = [agent(mlp(1), data(number), number, local_epochs=0, repair=False) for number in range(4)]
    before = numbers(mlp(1))
    Simulation(agents, mixing_matrix("ring", 4)).run(3)
    for each in agents:
        assert all(torch.equal(value, before[name]) for name, value in numbers(each.model).items())
        assert each.disagreement == 0


def test_full_averaging_without_matching_is_consensus_to_the_bit():
    agents = [agent(mlp(number), data(number), number, matching="none", repair=False) for number in range(4)]
    simulation = Simulation(agents, mixing_matrix("full", 4))
    simulation.step()
    for each in agents:
        each.local_epochs = 0
    simulation.step()
    first = numbers(agents[0].model)
    assert all(torch.equal(value, first[name]) for each in agents for name, value in numbers(each.model).items())


# The repair.


def test_repair_leaves_statistics_of_the_merged_model_on_the_own_data():
    agents = [agent(mlp(number), data(number), number, local_epochs=0) for number in range(3)]
    Simulation(agents, mixing_matrix("full", 3)).step()
    for each, number in zip(agents, range(3), strict=True):
        inputs, _ = data(number)
        with torch.no_grad():
            features = each.model[0](inputs)
        torch.testing.assert_close(each.model[1].running_mean, features.mean(0), rtol=1e-4, atol=1e-5)
        biased = 63 / 64 * features.var(0)
        within = each.model[1].running_var * 15 / 16  # mean over four batches of 16
        assert bool((within <= biased * 1.001).all())


def test_a_probe_takes_the_place_of_the_own_data():
    probe = [data(7, 40)[0]]
    agents = [agent(mlp(number), data(number), number, local_epochs=0, probe=probe) for number in range(3)]
    states = [each.batches.generator.get_state() for each in agents]
    Simulation(agents, mixing_matrix("full", 3)).step()
    for each, state in zip(agents, states, strict=True):
        with torch.no_grad():
            features = each.model[0](probe[0])
        torch.testing.assert_close(each.model[1].running_mean, features.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(each.model[1].running_var, features.var(0), rtol=1e-4, atol=1e-5)
        assert torch.equal(each.batches.generator.get_state(), state)  # its own data were not asked for


def test_other_models_are_refreshed_on_the_own_data_before_they_are_matched():
    """Statistics far off leave every unit of the copy dead, so that nothing could be matched as it was sent."""
    source = mlp(2)
    graph = PermutationGraph.trace(source, torch.zeros(2, 6))
    other = copy.deepcopy(source)
    other.load_state_dict(permuted(other.state_dict(), graph, graph.random(seeded(5))))
    other[1].running_mean.fill_(1e3)
    agents = [agent(source, data(0), 0, local_epochs=0), agent(other, data(1), 1, local_epochs=0)]
    before = {name: value.detach().clone() for name, value in source.named_parameters()}
    Simulation(agents, mixing_matrix("full", 2)).step()
    assert_close({name: value.detach() for name, value in source.named_parameters()}, before)


def test_nothing_that_an_agent_is_sent_is_changed():
    agents = [agent(mlp(number), data(number), number, local_epochs=0) for number in range(3)]
    matrix = torch.tensor([[0.5, 0.25, 0.25], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    before = [copy.deepcopy(each.model.state_dict()) for each in agents]
    Simulation(agents, matrix).step()
    for each, expected in zip(agents[1:], before[1:], strict=True):
        assert all(torch.equal(value, expected[name]) for name, value in each.model.state_dict().items())


# The optimizer.


def test_training_goes_on_as_if_the_units_had_never_been_in_another_order():
    """Agent 1 is a permuted copy of agent 0 that saw the same batches: its momentum must be moved with its units."""
    source, same = mlp(4), data(0)
    graph = PermutationGraph.trace(source, torch.zeros(2, 6))
    copied = copy.deepcopy(source)
    copied.load_state_dict(permuted(copied.state_dict(), graph, graph.random(seeded(6))))
    alone = agent(copy.deepcopy(source), same, 0, repair=False)
    pair = [agent(source, same, 0, repair=False), agent(copied, same, 0, repair=False)]
    probe = [data(8)[0]]
    for each in pair:
        each.probe = probe
    simulation = Simulation(pair, mixing_matrix("full", 2))
    for _ in range(3):
        simulation.step()
        alone.step()
    assert_close(numbers(pair[0].model), numbers(alone.model), atol=1e-5)


def test_moments_are_averaged_and_the_first_round_has_none():
    agents = [agent(mlp(number), data(number), number, matching="none") for number in range(3)]
    simulation = Simulation(agents, mixing_matrix("full", 3))
    simulation.step()
    means = [
        sum(each.optimizer.state[list(each.model.parameters())[place]]["momentum_buffer"] for each in agents) / 3
        for place in range(8)
    ]
    for each in agents:
        each.local_epochs = 0
    simulation.step()
    for each in agents:
        for parameter, mean in zip(each.model.parameters(), means, strict=True):
            torch.testing.assert_close(each.optimizer.state[parameter]["momentum_buffer"], mean)
    weights = sum(parameter.numel() for parameter in agents[0].model.parameters())
    buffers = 16
    assert [record.sent[0] for record in simulation.history.rounds] == [
        2 * 4 * (weights + buffers),
        2 * 4 * (2 * weights + buffers),
    ]


def test_moments_come_from_those_that_have_some():
    agents = [agent(mlp(number), data(number), number, matching="none") for number in range(3)]
    for number in (0, 1):
        agents[number].step()
    parameter = [next(each.model.parameters()) for each in agents]
    moments = [agents[number].optimizer.state[parameter[number]]["momentum_buffer"].clone() for number in (0, 1)]
    for each in agents:
        each.local_epochs = 0
    matrix = torch.tensor([[0.5, 0.25, 0.25], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    Simulation(agents, matrix).step()
    expected = (0.5 * moments[0] + 0.25 * moments[1]) / 0.75
    torch.testing.assert_close(agents[0].optimizer.state[parameter[0]]["momentum_buffer"], expected)
    assert not agents[2].optimizer.state


def test_a_new_optimizer_each_round_keeps_no_moments():
    """Its two rounds are two trainings by two new optimizers, with the step size of the first."""
    model, again = mlp(0), mlp(0)
    once = agent(model, data(0), 0, keep_optimizer_state=False)
    once.step()
    once.step()
    batches = Batches(*data(0), 16, generator=seeded(0))
    again.train()
    for _ in range(2):
        optimizer = torch.optim.SGD(again.parameters(), lr=0.1, momentum=0.9)
        for inputs, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(again(inputs), labels).backward()
            optimizer.step()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


# Alone.


@pytest.mark.parametrize("kind", ["none", "full"])
def test_without_neighbours_a_round_is_plain_training_to_the_bit(kind):
    count = 1 if kind == "full" else 3
    agents = [agent(mlp(number), data(number), number, local_epochs=2) for number in range(count)]
    history = Simulation(agents, mixing_matrix(kind, count)).run(2)
    for number, each in enumerate(agents):
        model = mlp(number).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        batches = Batches(*data(number), 16, generator=seeded(number))
        for _ in range(4):
            for inputs, labels in batches:
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in each.model.state_dict().items())
        assert (each.rounds, each.samples) == (2, 256)
    assert history.sent == 0


def test_models_of_another_architecture_are_refused():
    agents = [agent(mlp(0), data(0)), agent(mlp(1, norm=False), data(1))]
    with pytest.raises(ValueError, match=r"^model must be of one architecture"):
        Simulation(agents, mixing_matrix("full", 2)).step()
