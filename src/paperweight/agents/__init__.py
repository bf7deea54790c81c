"""Training without a server: agents with data of their own, the graphs between them, and their rounds.

`partition` deals samples to agents, `mixing_matrix` says who hears whom, `Simulation` takes agents through their rounds
in one process, and `Processes` one agent in each of several. A method says in `Agent.round` what its agent does, or in
`StepwiseAgent.update` what it does at every step. What others are compared with is here: `LocalOnly`, `CDSGD`, `SGP`
and `CGA`.

Example:
    >>> import torch
    >>> draws = torch.Generator().manual_seed(0)
    >>> inputs, labels = torch.randn(120, 4, generator=draws), torch.arange(120) % 2
    >>> agents = []
    >>> for part in partition(labels, 3, generator=draws):
    ...     model = torch.nn.Linear(4, 2)
    ...     batches = Batches(inputs[part], labels[part], 10, generator=draws)
    ...     agents.append(CDSGD(model, torch.optim.SGD(model.parameters(), lr=0.1), batches, steps=4))
    >>> len(Simulation(agents, mixing_matrix("ring", 3)).run(2).rounds)
    2
"""

from paperweight.agents.agent import Agent, Batches, Exchange, disagreement, numbers, set_numbers
from paperweight.agents.baselines import CDSGD, CGA, SGP, LocalOnly, cga_direction
from paperweight.agents.mixing import (
    Links,
    alternating,
    check_mixing,
    metropolis,
    mixing_matrix,
    random_matching,
    spectral_gap,
)
from paperweight.agents.partition import partition
from paperweight.agents.processes import Processes, host_store
from paperweight.agents.simulation import History, RoundRecord, Simulation
from paperweight.agents.stepwise import StepwiseAgent

__all__ = [
    "CDSGD",
    "CGA",
    "SGP",
    "Agent",
    "Batches",
    "Exchange",
    "History",
    "Links",
    "LocalOnly",
    "Processes",
    "RoundRecord",
    "Simulation",
    "StepwiseAgent",
    "alternating",
    "cga_direction",
    "check_mixing",
    "disagreement",
    "host_store",
    "metropolis",
    "mixing_matrix",
    "numbers",
    "partition",
    "random_matching",
    "set_numbers",
    "spectral_gap",
]
