"""Agents that tests put into a simulation and into processes; run as a script, the agent of one process."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from paperweight.agents.agent import Agent, Batches
from paperweight.agents.baselines import CDSGD
from paperweight.agents.mixing import mixing_matrix
from paperweight.agents.processes import Processes
from paperweight.federated.dimat import DIMAT

ROUNDS = 6


def make(kind: str, number: int) -> Agent:
    """Make the agent with this number; everything about it depends on that alone."""
    with torch.random.fork_rng():
        torch.manual_seed(number)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    draw = torch.Generator().manual_seed(number)
    inputs = torch.randn(48, 6, generator=draw)
    batches = Batches(inputs, inputs[:, :3].argmax(1), 16, generator=draw)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return DIMAT(model, optimizer, batches, 1) if kind == "DIMAT" else CDSGD(model, optimizer, batches, steps=3)


def accuracy(model: nn.Module) -> float:
    inputs = torch.randn(100, 6, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        return float((model.eval()(inputs).argmax(1) == inputs[:, :3].argmax(1)).double().mean())


def take_part(kind: str, folder: str, die: int | None = None, wait: int | None = None) -> None:
    """Train the agent of this process; die in the middle of a round, or wait in one until a file says to go on."""
    torch.set_num_threads(1)
    number = int(os.environ["RANK"])
    agent = make(kind, number)
    place = Path(folder)
    differentiate = agent.differentiate

    def disturbed(*arguments):
        if agent.rounds == die and agent.samples % 48 == 16:  # before the second of three batches
            os.kill(os.getpid(), signal.SIGKILL)
        while agent.rounds == wait and not (place / "go").exists():
            time.sleep(0.02)
        differentiate(*arguments)

    agent.differentiate = disturbed
    mixing = mixing_matrix("ring", int(os.environ["WORLD_SIZE"]))
    checkpoint = place / f"checkpoint{number}.safetensors"
    run = Processes(agent, mixing, evaluate=accuracy, checkpoint=checkpoint, patience=8.0, timeout=120)
    history = run.run(ROUNDS)
    save_file(agent.model.state_dict(), place / f"{number}.safetensors")
    lines = [f"{record.number} {record.present} {record.sent[number]}" for record in history.rounds]
    (place / f"{number}.txt").write_text("\n".join([*lines, *history.events]))


if __name__ == "__main__":
    take_part(*sys.argv[1:])
