"""Agents in lockstep: what the record says, who is absent, and what is refused."""

import math

import pytest
import torch
from tests.agents import crew
from torch import nn

from paperweight.agents.agent import Agent, Batches, Exchange
from paperweight.agents.mixing import alternating, mixing_matrix
from paperweight.agents.simulation import Simulation
from paperweight.federated.dimat import DIMAT


class Adding(Agent):
    """Sends its number, adds up what it gets, and does no more."""

    def __init__(self, value: float, partners=None):
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, value)
        super().__init__(model, torch.optim.SGD(model.parameters(), lr=0.1), [])
        self.partners = partners
        self.kept = []

    @property
    def value(self) -> float:
        return self.model.weight.item()

    def round(self, links):
        partners = links.neighbours if self.partners is None else self.partners
        if partners:
            message = [self.model.weight]
            mail = yield Exchange(dict.fromkeys(links.listeners, message), partners)
            with torch.no_grad():
                self.model.weight += 10  # what was sent is not this
                for tensors in mail.values():
                    self.model.weight += tensors[0]
            self.kept.append({other: tensors[0].item() for other, tensors in mail.items()})


def test_agents_get_what_the_others_sent_before_they_went_on():
    agents = [Adding(float(number)) for number in range(4)]
    history = Simulation(agents, mixing_matrix("ring", 4)).run(1)
    assert agents[0].kept == [{1: 1.0, 3: 3.0}]
    assert [agent.value for agent in agents] == [14.0, 13.0, 16.0, 15.0]
    assert history.rounds[0].sent == dict.fromkeys(range(4), 8)
    assert history.sent == 32


def test_the_graph_of_a_round_is_that_of_its_number():
    agents = [Adding(float(number)) for number in range(3)]
    simulation = Simulation(agents, alternating(mixing_matrix("none", 3), mixing_matrix("full", 3)))
    simulation.run(3)
    assert [len(agent.kept) for agent in agents] == [1, 1, 1]
    assert [sum(record.sent.values()) for record in simulation.history.rounds] == [0, 24, 0]


def test_those_who_are_absent_do_nothing_and_the_record_says_so():
    agents = [Adding(float(number)) for number in range(4)]
    simulation = Simulation(agents, mixing_matrix("ring", 4), absent=lambda number: {2} if number == 1 else ())
    simulation.run(3)
    assert [len(agent.kept) for agent in agents] == [3, 3, 2, 3]
    assert [sorted(mail) for mail in agents[1].kept] == [[0, 2], [0], [0, 2]]
    assert [record.present for record in simulation.history.rounds] == [(0, 1, 2, 3), (0, 1, 3), (0, 1, 2, 3)]
    assert simulation.history.events == [
        "round 1: agent 2 is gone; 0, 1, 3 go on",
        "round 2: agent 2 has joined; 0, 1, 2, 3 go on",
    ]
    assert [agent.rounds for agent in agents] == [3, 3, 3, 3]


def test_agents_that_do_not_wait_for_each_other_are_refused():
    agents = [Adding(0.0, partners=[1]), Adding(1.0, partners=[0]), Adding(2.0, partners=[0])]
    with pytest.raises(RuntimeError, match="agent 1 sends something to 2, which does not wait"):
        Simulation(agents, mixing_matrix("full", 3)).step()
    uneven = [Adding(0.0), Adding(1.0)]
    one_way = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    uneven[0].partners = [1]
    with pytest.raises(RuntimeError, match="agent 0 waits for 1, which sends it nothing"):
        Simulation(uneven, one_way).step()


def test_what_is_measured_after_the_merge_and_after_the_training():
    agents = [crew.make("DIMAT", number) for number in range(3)]
    seen = []

    def measure(model):
        seen.append(float(sum(parameter.detach().norm() for parameter in model.parameters())))
        return seen[-1]

    simulation = Simulation(agents, mixing_matrix("full", 3), evaluate=measure)
    record = simulation.run(1).rounds[0]
    assert [*record.merged] == [*record.trained] == [0, 1, 2]
    assert [*record.merged.values(), *record.trained.values()] == seen
    assert record.trained[2] == pytest.approx(float(sum(p.detach().norm() for p in agents[2].model.parameters())))
    assert record.seconds > 0
    assert all(distance > 0 for distance in record.disagreement.values())


def test_without_a_merge_nothing_is_measured_there():
    agents = [crew.make("CDSGD", number) for number in range(3)]
    record = Simulation(agents, mixing_matrix("full", 3), evaluate=crew.accuracy).run(1).rounds[0]
    assert record.merged == {}
    assert [*record.trained] == [0, 1, 2]
    alone = Simulation([crew.make("DIMAT", 0)], mixing_matrix("full", 1), evaluate=crew.accuracy).run(1).rounds[0]
    assert (alone.merged, math.isnan(alone.disagreement[0])) == ({}, True)


def test_a_hundred_agents():
    agents = [crew.make("CDSGD", number) for number in range(100)]
    history = Simulation(agents, mixing_matrix("ring", 100)).run(1)
    assert len(history.rounds[0].sent) == 100


def test_batches_are_every_sample_once_and_leave_out_what_fills_none():
    batches = Batches(torch.arange(10), torch.arange(10), 4, generator=torch.Generator().manual_seed(0))
    passes = [[labels for _, labels in batches] for _ in range(2)]
    for each in passes:
        assert [len(labels) for labels in each] == [4, 4] == [4] * len(batches)
        assert len(set(torch.cat(each).tolist())) == 8
    assert not torch.equal(passes[0][0], passes[1][0])
    small = Batches(torch.arange(3), torch.arange(3), 8, generator=torch.Generator())
    assert [len(labels) for _, labels in small] == [3]
    with pytest.raises(ValueError, match=r"^inputs and labels must have the same length"):
        Batches(torch.arange(3), torch.arange(2), 8, generator=torch.Generator())
    with pytest.raises(ValueError, match=r"^batch_size must"):
        Batches(torch.arange(3), torch.arange(3), 0, generator=torch.Generator())


def test_a_data_loader_does_as_well_and_its_state_is_the_agents():
    def trained(cut: int | None) -> nn.Module:
        def start(seed: int) -> DIMAT:
            model = crew.make("DIMAT", 0).model
            inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(5))
            dataset = torch.utils.data.TensorDataset(inputs, inputs[:, :3].argmax(1))
            draw = torch.Generator().manual_seed(seed)
            loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True, generator=draw)
            return DIMAT(model, torch.optim.Adam(model.parameters()), loader, 1)

        agent = start(0)
        for number in range(3):
            if number == cut:
                state = agent.state_dict()
                agent = start(1)
                agent.load_state_dict(state)
            agent.step()
        return agent.model

    expected = trained(None).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trained(2).state_dict().items())


def test_what_cannot_be_simulated_is_refused():
    agents = [crew.make("DIMAT", 0), crew.make("CDSGD", 1)]
    with pytest.raises(ValueError, match=r"^agents must be at least one, all of one class"):
        Simulation(agents, mixing_matrix("full", 2))
    with pytest.raises(ValueError, match=r"^agents must be at least one"):
        Simulation([], mixing_matrix("full", 2))
    with pytest.raises(ValueError, match=r"^mixing must be of 1 agents, got a matrix of 2"):
        Simulation(agents[:1], mixing_matrix("full", 2))
    with pytest.raises(ValueError, match=r"^mixing must have rows that sum to 1"):
        Simulation(agents[:1], torch.tensor([[0.5]]))
    simulation = Simulation(agents[:1], mixing_matrix("full", 1))
    with pytest.raises(ValueError, match=r"^state_dict must be of 1 agents, got 2"):
        simulation.load_state_dict({"agents": [{}, {}]})


def test_an_iterator_that_is_used_up_is_refused():
    agent = crew.make("CDSGD", 0)
    agent.batches = iter([])
    with pytest.raises(ValueError, match=r"^batches must hold at least one batch in each pass"):
        agent.step()
