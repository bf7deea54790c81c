"""One agent a process, over `torch.distributed`: exchanges, and what happens when a process is killed.

All that the processes must agree on is decided in a store, each time by whoever comes first (`compare_set`):

- A *generation* is a set of agents that are connected. It is decided when every agent of the last one has either said
  that it is there or been silent for a while; others that have said so are in it, too.
- Each round ends with a *verdict*. "commit": all agents of the generation have finished it. "regroup": so they have,
  and somebody waits to join. "abort": somebody lost a connection; all go back to the beginning of the round, and a
  new generation takes it again.

So the weights are those of a `Simulation` in which an agent is absent from the round in which it was killed to that in
which it is back.
"""

# pyright: reportPrivateImportUsage=false
# The stores of torch.distributed are documented, but not marked as exported.

import copy
import gc
import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Literal, final

import torch
import torch.distributed as dist
from torch import Tensor

from paperweight.agents.agent import Agent, Exchange
from paperweight.agents.checkpoint import read_state, write_state
from paperweight.agents.mixing import Links, Mixing, among
from paperweight.agents.simulation import Evaluate, History, Meter, RoundRecord, mixing_of, size_of
from paperweight.errors import InputError

__all__ = ["Processes", "host_store"]

_LOG = logging.getLogger("paperweight.agents")
_PAUSE = 0.02


@final
class Processes:
    """Takes the agent of this process through its rounds, together with those of other processes.

    Every process runs the same script. The number of its agent, the number of agents, and where the store is are read
    from the environment, as torchrun sets it: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``, ``MASTER_PORT``.

    Started by torchrun, on one machine or several, all processes die when one does, and with ``--max-restarts`` all
    start again and go on from their checkpoints::

        torchrun --nproc-per-node 5 --max-restarts 3 train.py

    So that the others go on instead, start the agents one by one, and beside them a store that all can reach::

        python -c "from paperweight.agents import host_store; host_store(29500)" &
        export WORLD_SIZE=5 MASTER_ADDR=localhost MASTER_PORT=29500
        for i in 0 1 2 3 4; do RANK=$i python train.py & done

    If a process is killed, those that are connected with it notice at once, since the connection breaks. They wait
    until it has been without a sign of life for ``patience``, begin the round again without it, and say so, in the
    history and as warnings of the logger ``paperweight.agents``. A process that is started again with the same
    ``RANK`` goes on from its checkpoint, and joins the others at the end of their round. One that hangs, but keeps its
    connections, is left behind after ``timeout``. The training ends with the store, and with ``backend="nccl"``, which
    is for machines on which nothing dies, with the first process.

    Set the number of threads alike in all processes; then the weights are those of a `Simulation`, to the bit.

    Args:
        agent: The agent of this process; those of all processes are of one class.
        mixing: The mixing matrix, (agents, agents), or a function from the number of the round to one, everywhere the
            same.
        evaluate: Measures the agent's model after the merge and at the end of each round.
        checkpoint: File that the agent's state is written to after each round and read from at the start if it is
            there. A process needs a file of its own. Left out, nothing is written.
        backend: What carries the tensors. ``"gloo"`` goes through main memory, with any device; ``"nccl"`` from GPU to
            GPU, with one a process.
        patience: Seconds without a sign of life after which an agent counts as gone once a connection is lost, above 0.
        timeout: Seconds that an exchange, or the start of an agent, may take, above 0: more than the slowest agent
            needs for a round.
        name: Tells this training from others with the same store.

    Raises:
        InputError: If the environment lacks one of the four, or has no numbers where they must be, or the checkpoint
            cannot be read.
        ValueError: If an argument is outside its range, or ``mixing`` is no mixing matrix of so many agents.

    Attributes:
        history: What happened so far, seen from this agent.
        number: Number of the agent, the rank.

    Example:
        >>> os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
        >>> from paperweight.agents import LocalOnly, mixing_matrix
        >>> model = torch.nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> agent = LocalOnly(model, optimizer, [(torch.ones(4, 2), torch.ones(4, 2))])
        >>> Processes(agent, mixing_matrix("ring", 1)).number  # .run(10) connects and trains
        0
    """

    def __init__(
        self,
        agent: Agent,
        mixing: Mixing,
        *,
        evaluate: Evaluate | None = None,
        checkpoint: str | Path | None = None,
        backend: Literal["gloo", "nccl"] = "gloo",
        patience: float = 5.0,
        timeout: float = 600.0,
        name: str = "run",
    ) -> None:
        if backend not in ("gloo", "nccl"):
            raise ValueError(f"backend must be 'gloo' or 'nccl', got {backend!r}")
        for argument, seconds in (("patience", patience), ("timeout", timeout)):
            if not seconds > 0:
                raise ValueError(f"{argument} must be above 0, got {seconds}")
        self.agent = agent
        self.mixing = mixing
        self.checkpoint = checkpoint
        self.backend = backend
        self.patience = patience
        self.timeout = timeout
        self.name = name
        self.history = History()
        self.number, self.agents, self._address = _place()
        self._meter = Meter(evaluate)
        self._device = next(agent.model.parameters()).device if backend == "nccl" else torch.device("cpu")
        mixing_of(mixing, 0, self.agents)
        if checkpoint is not None and Path(checkpoint).exists():
            agent.load_state_dict(read_state(checkpoint))
            self.history.events.append(f"round {agent.rounds}: agent {self.number} goes on from {checkpoint}")

    def run(self, rounds: int) -> History:
        """Train until so many rounds are over, those before a checkpoint included.

        Args:
            rounds: Their number.

        Returns:
            The record of what this process saw.

        Raises:
            InputError: If this process is connected by `torch.distributed` already.
            RuntimeError: If the store cannot be reached.
        """
        if dist.is_initialized():
            raise InputError("torch.distributed must not be initialised yet; Processes does it anew when agents change")
        store = self._store()
        pulse = _Pulse(self._store(), self.number, self.patience / 5)
        pulse.start()
        try:
            generation, members = _latest(store, self.agents)
            while self.agent.rounds < rounds:
                joined = self._join(store, generation, members)
                if joined is None:
                    self._say(f"round {self.agent.rounds}: agent {self.number} came too late, the others have finished")
                    break
                now, number = joined
                note = self.history.changed(number, members, now)
                if note:
                    _LOG.warning("%s", note)
                members = now
                if self.number in members:
                    self._stay(store, generation, members, number, rounds)
                generation += 1
            store.set("finished", "1")
        finally:
            pulse.stop()
        return self.history

    def _store(self) -> dist.Store:
        host, port = self._address
        patience = timedelta(seconds=self.timeout)
        store = dist.TCPStore(host, port, is_master=False, timeout=patience, wait_for_workers=False)
        return dist.PrefixStore(f"paperweight/{self.name}", store)

    def _say(self, note: str) -> None:
        self.history.events.append(note)
        _LOG.warning("%s", note)

    def _join(self, store: dist.Store, generation: int, last: Sequence[int]) -> tuple[list[int], int] | None:
        """Say that this agent is there, and wait for the members of a generation and the number of their next round."""
        store.set(f"{generation}/here/{self.number}", str(self.agent.rounds))
        store.add(f"{generation}/count", 1)
        listening = _Listening(store, self.patience, self.timeout)
        while not store.check([f"{generation}/members"]):
            if store.check(["finished"]):
                return None
            here = [agent for agent in range(self.agents) if store.check([f"{generation}/here/{agent}"])]
            awaited = [agent for agent in last if agent not in here and not listening.silent(agent)]
            if not awaited:
                number = max(int(store.get(f"{generation}/here/{agent}")) for agent in here)
                decided = json.dumps({"members": here, "number": number})
                store.compare_set(f"{generation}/members", "", decided)
            else:
                time.sleep(_PAUSE)
        decided = json.loads(store.get(f"{generation}/members"))
        return decided["members"], decided["number"]

    def _stay(self, store: dist.Store, generation: int, members: Sequence[int], number: int, rounds: int) -> None:
        """Take rounds with the agents of a generation until one goes, one comes, or all are over."""
        self.agent.rounds = number
        verdict = "commit"
        try:
            while verdict == "commit" and self.agent.rounds < rounds:
                verdict = self._settle(store, generation, members)
        finally:
            _disconnect()

    def _settle(self, store: dist.Store, generation: int, members: Sequence[int]) -> str:
        """Take a round, hear the verdict on it, and go back to its beginning if that says so."""
        number = self.agent.rounds
        before = copy.deepcopy(self.agent.state_dict())
        record = None
        try:
            if not dist.is_initialized():
                self._connect(store, generation, members)
            record = self._round(members)
            self._wait_for_all()
        except _LinkLostError as error:
            _LOG.info("round %d: %s", number, error)
            wanted = "abort"
        else:
            wanted = "regroup" if store.add(f"{generation + 1}/count", 0) else "commit"
        verdict = store.compare_set(f"{generation}/verdict/{number}", "", wanted).decode()
        if verdict == "abort" or record is None:
            self.agent.load_state_dict(before)
            self._say(f"round {number}: a connection was lost, it begins again")
            return "abort"
        self.agent.rounds = number + 1
        self.history.rounds.append(record)
        if self.checkpoint is not None:
            write_state(self.checkpoint, self.agent.state_dict())
        return verdict

    def _connect(self, store: dist.Store, generation: int, members: Sequence[int]) -> None:
        try:
            dist.init_process_group(
                self.backend,
                store=dist.PrefixStore(f"{generation}/links", store),
                rank=members.index(self.number),
                world_size=len(members),
                timeout=timedelta(seconds=self.timeout),
            )
        except RuntimeError as error:
            raise _LinkLostError(str(error)) from None

    def _round(self, members: Sequence[int]) -> RoundRecord:
        start, number, agent = perf_counter(), self.agent.rounds, self.agent
        matrix = among(mixing_of(self.mixing, number, self.agents), members)
        merged: dict[int, float] = {}
        trained: dict[int, float] = {}
        self._meter.spent = 0.0
        agent.on_merge = lambda: self._meter.measure(self.number, agent.model, merged)
        steps = agent.round(Links.of(matrix, self.number))
        mail: Mapping[int, list[Tensor]] | None = None
        sent = 0
        while True:
            try:
                exchange = next(steps) if mail is None else steps.send(mail)
            except StopIteration:
                break
            sent += sum(size_of(tensors) for tensors in exchange.send.values())
            mail = self._swap(exchange, members)
        self._meter.measure(self.number, agent.model, trained)
        return RoundRecord(
            number=number,
            present=tuple(members),
            merged=merged,
            trained=trained,
            disagreement={self.number: agent.disagreement},
            sent={self.number: sent},
            seconds=perf_counter() - start - self._meter.spent,
        )

    def _swap(self, exchange: Exchange, members: Sequence[int]) -> dict[int, list[Tensor]]:
        """Send what an exchange sends and give what it waits for, on the model's device."""
        packets: dict[int, Tensor] = {}
        for tensors in exchange.send.values():
            if id(tensors) not in packets:
                packets[id(tensors)] = _packed(tensors, self._device)
        outgoing = {agent: packets[id(tensors)] for agent, tensors in exchange.send.items()}
        lengths = {agent: torch.zeros(1, dtype=torch.int64, device=self._device) for agent in exchange.receive}
        counts = {agent: torch.tensor([len(packet)], device=self._device) for agent, packet in outgoing.items()}
        _transfer(counts, lengths, members)
        incoming = {
            agent: torch.empty(int(length), dtype=torch.uint8, device=self._device) for agent, length in lengths.items()
        }
        _transfer(outgoing, incoming, members)
        device = next(self.agent.model.parameters()).device
        return {agent: _unpacked(packet, device) for agent, packet in incoming.items()}

    def _wait_for_all(self) -> None:
        flag = torch.zeros(1, device=self._device)
        try:
            dist.all_reduce(flag)
            flag.item()
        except RuntimeError as error:
            raise _LinkLostError(str(error)) from None


def host_store(port: int) -> None:
    """Hold the store in which processes find and agree with each other, until this process is ended.

    It needs no computing time; end it by Ctrl-C or a signal when the training is over. torchrun has a store of its own.

    Args:
        port: Port to listen at, the ``MASTER_PORT`` of all processes.
    """
    store = dist.TCPStore("0.0.0.0", port, is_master=True, wait_for_workers=False)
    _LOG.info("the store listens at port %d", store.port)
    threading.Event().wait()


class _LinkLostError(Exception):
    """A connection with another agent broke, or took too long."""


class _Pulse(threading.Thread):
    """Gives a sign of life in the store every so many seconds."""

    def __init__(self, store: dist.Store, number: int, pause: float) -> None:
        super().__init__(daemon=True)
        self._store = store
        self._key = _beats(number)
        self._pause = pause
        self._over = threading.Event()
        store.add(self._key, 1)

    def run(self) -> None:
        try:
            while not self._over.wait(self._pause):
                self._store.add(self._key, 1)
        except RuntimeError as error:
            _LOG.info("no more signs of life, the store is gone: %s", error)

    def stop(self) -> None:
        self._over.set()
        self.join()


class _Listening:
    """Tells which agents have given no sign of life for a while."""

    def __init__(self, store: dist.Store, patience: float, timeout: float) -> None:
        self._store = store
        self._patience = patience
        self._timeout = timeout
        self._heard: dict[int, tuple[int, float]] = {}

    def silent(self, agent: int) -> bool:
        """Look whether an agent was silent since it was first looked at; one that never began has ``timeout``."""
        beats, now = self._store.add(_beats(agent), 0), time.monotonic()
        before, since = self._heard.get(agent, (-1, now))
        if beats != before:
            self._heard[agent] = (beats, now)
            return False
        return now - since > (self._patience if beats else self._timeout)


def _beats(agent: int) -> str:
    return f"beats/{agent}"


def _place() -> tuple[int, int, tuple[str, int]]:
    """Read number of the agent, number of agents, and host and port of the store from the environment."""
    try:
        number, agents, host, port = (os.environ[key] for key in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
        return int(number), int(agents), (host, int(port))
    except (KeyError, ValueError) as error:
        raise InputError(
            "environment must have RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, numbers but for the address "
            f"({error}); start the script by torchrun, or set them"
        ) from error


def _latest(store: dist.Store, agents: int) -> tuple[int, list[int]]:
    """Give the number of the generation that is to be decided next, and the members of the last one."""
    generation, members = 0, [*range(agents)]
    while store.check([f"{generation}/members"]):
        members = json.loads(store.get(f"{generation}/members"))["members"]
        generation += 1
    return generation, members


def _disconnect() -> None:
    """Close all connections, so that those who wait at them notice."""
    if dist.is_initialized():
        group = dist.group.WORLD
        if group is not None:
            group.abort()
        dist.destroy_process_group()
        del group
        gc.collect()


def _transfer(outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor], members: Sequence[int]) -> None:
    """Send and receive one tensor each with some agents, all at one time."""
    operations = [dist.P2POp(dist.irecv, tensor, members.index(agent)) for agent, tensor in incoming.items()]
    operations += [dist.P2POp(dist.isend, tensor, members.index(agent)) for agent, tensor in outgoing.items()]
    if not operations:
        return
    try:
        for work in dist.batch_isend_irecv(operations):
            work.wait()
    except RuntimeError as error:
        raise _LinkLostError(str(error)) from None


def _packed(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Write tensors, and what is needed to tell them apart again, into one row of bytes."""
    facts = [[str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for tensor in tensors]
    head = json.dumps(facts).encode()
    start = torch.frombuffer(bytearray(len(head).to_bytes(8, "little") + head), dtype=torch.uint8).to(device)
    parts = [tensor.detach().contiguous().reshape(-1).view(torch.uint8).to(device) for tensor in tensors]
    return torch.cat([start, *parts])


def _unpacked(packet: Tensor, device: torch.device) -> list[Tensor]:
    end = 8 + int.from_bytes(bytes(packet[:8].tolist()), "little")
    facts = json.loads(bytes(packet[8:end].tolist()))
    tensors: list[Tensor] = []
    for name, shape in facts:
        like = torch.empty(shape, dtype=getattr(torch, name), device="meta")
        start, end = end, end + size_of([like])
        tensors.append(packet[start:end].clone().view(like.dtype).reshape(shape).to(device))
    return tensors
