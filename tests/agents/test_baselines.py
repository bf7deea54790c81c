"""Methods that mix at every step, against the sums of their papers written out."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn

from paperweight.agents.agent import Batches
from paperweight.agents.baselines import CDSGD, CGA, SGP, LocalOnly, cga_direction
from paperweight.agents.mixing import mixing_matrix
from paperweight.agents.simulation import Simulation

RATE = 0.1
DIRECTED = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.5, 0.5, 0, 0], [0, 0.3, 0.7, 0], [0.25, 0.25, 0.25, 0.25]]).double()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def data(seed: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(8, 3, generator=seeded(seed), dtype=torch.float64)
    return inputs, (inputs.sum(1) > 0).long()


def crew(kind, count: int, *, same: bool = False, momentum: float = 0.0, **given):
    """Agents with one full batch each, so that every step is known."""
    agents = []
    for number in range(count):
        model = network(0 if same else number)
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=momentum)
        agents.append(kind(model, optimizer, Batches(*data(number), 8, generator=seeded(number)), **given))
    return agents


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def gradient(weights: Tensor, seed: int) -> Tensor:
    """The gradient on the data of an agent at any weights, by a functional call."""
    model, sizes = network(0), [parameter.numel() for parameter in network(0).parameters()]
    parts = weights.clone().requires_grad_()
    named = {
        name: part.reshape(parameter.shape)
        for (name, parameter), part in zip(model.named_parameters(), parts.split(sizes), strict=True)
    }
    inputs, labels = data(seed)
    F.cross_entropy(torch.func.functional_call(model, named, (inputs,)), labels).backward()
    return parts.grad


def stacked(agents) -> Tensor:
    return torch.stack([flat(agent.model) for agent in agents])


def test_cdsgd_is_its_sum():
    agents = crew(CDSGD, 4, steps=3)
    weights, matrix = stacked(agents), mixing_matrix("ring", 4)
    Simulation(agents, matrix).run(2)
    for _ in range(6):
        gradients = torch.stack([gradient(row, number) for number, row in enumerate(weights)])
        weights = matrix @ weights - RATE * gradients
    torch.testing.assert_close(stacked(agents), weights, rtol=1e-10, atol=1e-10)
    assert [agent.samples for agent in agents] == [48] * 4


def centralised(steps: int) -> Tensor:
    """Momentum on the mean of all gradients, from one start."""
    weights = flat(network(0))
    speed = torch.zeros_like(weights)
    for _ in range(steps):
        speed = 0.9 * speed + sum(gradient(weights, number) for number in range(3)) / 3
        weights = weights - RATE * speed
    return weights


def test_a_step_of_cdsgd_of_all_from_one_start_is_centralised_after_averaging():
    agents = crew(CDSGD, 3, same=True, momentum=0.9, steps=1)
    Simulation(agents, mixing_matrix("full", 3)).step()
    torch.testing.assert_close(stacked(agents).mean(0), centralised(1), rtol=1e-12, atol=1e-12)


def test_sgp_of_all_from_one_start_is_centralised():
    """It mixes after the step, so that all evaluate their gradients at the mean."""
    agents = crew(SGP, 3, same=True, momentum=0.9, steps=5)
    Simulation(agents, mixing_matrix("full", 3)).step()
    torch.testing.assert_close(stacked(agents), centralised(5).expand(3, -1), rtol=1e-12, atol=1e-12)
    assert [agent.weight for agent in agents] == pytest.approx([1.0] * 3)


def test_sgp_is_its_sum_over_a_directed_graph():
    agents = crew(SGP, 4, steps=2)
    shares = DIRECTED / DIRECTED.sum(0)
    numerators, weights = stacked(agents), torch.ones(4, dtype=torch.float64)
    Simulation(agents, DIRECTED).run(2)
    for _ in range(4):
        ratios = numerators / weights[:, None]
        gradients = torch.stack([gradient(row, number) for number, row in enumerate(ratios)])
        numerators = shares @ (numerators - RATE * gradients)
        weights = shares @ weights
    torch.testing.assert_close(stacked(agents), numerators / weights[:, None], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.tensor([agent.weight for agent in agents]).double(), weights)
    assert float(weights.sum()) == pytest.approx(4)
    assert bool(((weights - 1).abs() > 0.1).any())


def test_sgp_without_steps_of_its_own_finds_the_mean_of_all():
    """Rows that sum to 1 and columns that do not: plain mixing would find another mean."""
    agents = crew(SGP, 4, steps=10)
    for agent in agents:
        agent.optimizer.param_groups[0]["lr"] = 0.0
    strong = DIRECTED.clone()
    strong[0] = torch.tensor([0.25, 0.25, 0.25, 0.25])
    mean = stacked(agents).mean(0)
    Simulation(agents, strong).run(10)
    torch.testing.assert_close(stacked(agents), mean.expand(4, -1), rtol=0, atol=1e-9)


def test_sgp_goes_on_from_its_state_with_its_weight():
    straight, first, second = (Simulation(crew(SGP, 4, steps=2), DIRECTED) for _ in range(3))
    straight.run(3)
    first.run(1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.run(2)
    assert torch.equal(stacked(straight.agents), stacked(second.agents))


def test_cga_direction_is_the_nearest_that_hurts_nobody():
    """Against a general solver of the problem itself; and by hand for two."""
    for seed in range(20):
        gradients = torch.randn(4, 6, generator=seeded(seed), dtype=torch.float64)
        own, rows = seed % 4, gradients.numpy()
        found = cga_direction(gradients, own).numpy()
        solved = minimize(
            lambda d, rows=rows, own=own: ((d - rows[own]) ** 2).sum(),
            np.zeros(6),
            constraints={"type": "ineq", "fun": lambda d, rows=rows: rows @ d},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert (rows @ found).min() > -1e-9
        np.testing.assert_allclose(found, solved.x, atol=1e-5)
    by_hand = cga_direction(torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), 0)
    torch.testing.assert_close(by_hand, torch.tensor([1.0, 1.0]))


def test_cga_direction_is_the_own_gradient_where_it_hurts_nobody():
    gradients = torch.tensor([[1.0, 0.5], [0.2, 1.0], [1.0, 0.0]])
    assert torch.equal(cga_direction(gradients, 0), gradients[0])


def test_cga_is_its_sum():
    agents = crew(CGA, 4, steps=2)
    weights, matrix = stacked(agents), mixing_matrix("ring", 4)
    bent = 0
    Simulation(agents, matrix).run(2)
    for _ in range(4):
        directions = []
        for number, row in enumerate(weights):
            members = [other for other in range(4) if matrix[number, other] > 0]
            gradients = torch.stack([gradient(row, other) for other in members])
            directions.append(cga_direction(gradients, members.index(number)))
            bent += not torch.equal(directions[-1], gradients[members.index(number)])
        weights = matrix @ weights - RATE * torch.stack(directions)
    torch.testing.assert_close(stacked(agents), weights, rtol=1e-9, atol=1e-9)
    assert bent
    assert [agent.samples for agent in agents] == [4 * 3 * 8] * 4


def test_cga_refuses_one_way_links():
    with pytest.raises(ValueError, match=r"^mixing must link both agents of a pair"):
        Simulation(crew(CGA, 4, steps=1), DIRECTED).step()


@pytest.mark.parametrize("kind", [CDSGD, SGP, CGA, LocalOnly])
@pytest.mark.parametrize(("graph", "count"), [("none", 3), ("full", 1)])
def test_alone_all_of_them_are_plain_training_to_the_bit(kind, graph, count):
    agents = crew(kind, count, momentum=0.9, **({"local_epochs": 3} if kind is LocalOnly else {"steps": 3}))
    history = Simulation(agents, mixing_matrix(graph, count)).run(2)
    for number, agent in enumerate(agents):
        model = network(number)
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
        batches = Batches(*data(number), 8, generator=seeded(number))
        for inputs, labels in itertools.chain(*([*batches] for _ in range(6))):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        assert torch.equal(flat(agent.model), flat(model))
    assert history.sent == 0


@pytest.mark.parametrize(("kind", "models"), [(CDSGD, 1), (SGP, 1), (CGA, 2)])
def test_bytes_of_a_round(kind, models):
    agents = crew(kind, 4, steps=3)
    history = Simulation(agents, mixing_matrix("ring", 4)).run(1)
    extra = 8 if kind is SGP else 0  # the weight
    assert history.rounds[0].sent == dict.fromkeys(range(4), 2 * 3 * (models * 8 * 26 + extra))


@pytest.mark.parametrize("kind", [CDSGD, SGP, CGA])
@pytest.mark.parametrize("repair", [True, False])
def test_statistics_are_repaired_on_the_own_data_if_asked(kind, repair):
    agents = []
    for number in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(number)
            model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        batches = Batches(*data(number), 8, generator=seeded(number))
        agents.append(kind(model, optimizer, batches, steps=2, repair=repair))
    Simulation(agents, mixing_matrix("full", 3)).step()
    for number, agent in enumerate(agents):
        with torch.no_grad():
            mean = agent.model[0](data(number)[0]).mean(0)
        assert torch.allclose(agent.model[1].running_mean, mean, atol=1e-9) == repair


@pytest.mark.parametrize("kind", [CDSGD, SGP, CGA, LocalOnly])
@pytest.mark.parametrize("count", [-1, 1.5])
def test_bad_counts_are_named(kind, count):
    name = "local_epochs" if kind is LocalOnly else "steps"
    with pytest.raises(ValueError, match=rf"^{name} must be a whole number"):
        crew(kind, 1, **{name: count})
