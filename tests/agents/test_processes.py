"""Real processes: the same bits as a simulation, and the others go on when one is killed, until it is back."""

import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tests.agents import crew

from paperweight.agents.mixing import mixing_matrix
from paperweight.agents.processes import Processes, _packed, _unpacked
from paperweight.agents.simulation import Simulation
from paperweight.errors import InputError

SCRIPT = Path(crew.__file__)
PRELOADED = ("torch._dynamo", "paperweight.agents.processes")  # slow to import; no paper, since faults share the server


def simulated(kind: str, agents: int, **given) -> Simulation:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        simulation = Simulation(
            [crew.make(kind, number) for number in range(agents)], mixing_matrix("ring", agents), **given
        )
        simulation.run(crew.ROUNDS)
    finally:
        torch.set_num_threads(threads)
    return simulation


def assert_same_bits(folder: Path, simulation: Simulation):
    for number, agent in enumerate(simulation.agents):
        found = load_file(folder / f"{number}.safetensors")
        for name, value in agent.model.state_dict().items():
            assert torch.equal(found[name], value), f"{name} of agent {number}"


def test_torchrun_gives_the_bits_of_the_simulation(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", str(SCRIPT)]
    path = os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [*command, "DIMAT", str(tmp_path)], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    simulation = simulated("DIMAT", 3)
    assert_same_bits(tmp_path, simulation)
    for number in range(3):
        expected = [f"{record.number} (0, 1, 2) {record.sent[number]}" for record in simulation.history.rounds]
        assert (tmp_path / f"{number}.txt").read_text().splitlines() == expected


def started(kind: str, number: int, agents: int, port: int, folder: Path, **given) -> multiprocessing.Process:
    """Start a process by the fork of a server that has torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    place = {"RANK": str(number), "WORLD_SIZE": str(agents), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    process = context.Process(target=placed, args=(place, kind, str(folder)), kwargs=given, daemon=True)
    process.start()
    return process


def placed(place: dict[str, str], *arguments, **given) -> None:
    os.environ |= place
    crew.take_part(*arguments, **given)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lines(folder: Path, number: int) -> list[str]:
    return (folder / f"{number}.txt").read_text().splitlines()


@pytest.mark.parametrize(("kind", "victim"), [("DIMAT", 2), ("CDSGD", 0)])
def test_the_others_go_on_without_one_that_is_killed_and_it_comes_back(kind, victim, tmp_path):
    """It dies in round 2 between two batches; the others wait in round 4 until it is there, if it was not before."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    others = [number for number in range(4) if number != victim]
    crowd = {number: started(kind, number, 4, store.port, tmp_path, wait=4) for number in others}
    killed = started(kind, victim, 4, store.port, tmp_path, die=2)
    killed.join(120)
    assert killed.exitcode == -9
    shared = dist.PrefixStore("paperweight/run", store)
    wait_for(lambda: shared.check(["1/members"]))  # the others have gone on without it
    back = started(kind, victim, 4, store.port, tmp_path)
    wait_for(lambda: shared.add("2/count", 0) > 0)  # it is there
    (tmp_path / "go").touch()
    for process in (*crowd.values(), back):
        process.join(120)
        assert process.exitcode == 0

    told = lines(tmp_path, others[0])
    notes = [line for line in told if line.startswith("round")]
    back_in = int(re.match(r"round (\d)", notes[-1])[1])
    assert 3 <= back_in <= 5  # at the end of the round in which it was there again
    assert notes == [
        "round 2: a connection was lost, it begins again",
        f"round 2: agent {victim} is gone; {', '.join(map(str, others))} go on",
        f"round {back_in}: agent {victim} has joined; 0, 1, 2, 3 go on",
    ]
    assert [line for line in lines(tmp_path, others[1]) if line.startswith("round")] == notes
    present = [re.sub(r" \d+$", "", line) for line in told if not line.startswith("round")]
    everyone, rest = (0, 1, 2, 3), tuple(others)
    assert present == [f"{n} {rest if 2 <= n < back_in else everyone}" for n in range(crew.ROUNDS)]
    again = lines(tmp_path, victim)
    taken = [int(line.split()[0]) for line in again if not line.startswith("round")]
    assert taken == [*range(back_in, crew.ROUNDS)]
    assert re.fullmatch(rf"round 2: agent {victim} goes on from .*checkpoint{victim}.safetensors", again[-2])
    assert again[-1] == notes[-1]
    absent = simulated(kind, 4, absent=lambda number: {victim} if 2 <= number < back_in else ())
    assert_same_bits(tmp_path, absent)


@pytest.fixture
def place(monkeypatch):
    for key, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(key, value)
    return monkeypatch


def test_a_process_alone_trains_to_the_number_of_rounds_and_goes_on_from_its_checkpoint(place, tmp_path):
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    place.setenv("MASTER_PORT", str(store.port))
    expected = simulated("DIMAT", 1).agents[0].model.state_dict()
    file = tmp_path / "agent.safetensors"
    first = Processes(crew.make("DIMAT", 0), mixing_matrix("full", 1), checkpoint=file, name="first")
    assert [record.number for record in first.run(2).rounds] == [0, 1]
    second = Processes(crew.make("DIMAT", 0), mixing_matrix("full", 1), checkpoint=file, name="second")
    assert [record.number for record in second.run(crew.ROUNDS).rounds] == [2, 3, 4, 5]
    found = second.agent.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert second.run(crew.ROUNDS).rounds[-1].number == 5  # nothing is left to do
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backend": "mpi"}, "backend must be 'gloo' or 'nccl', got 'mpi'"),
        ({"patience": 0.0}, "patience must be above 0, got 0.0"),
        ({"timeout": -1.0}, "timeout must be above 0, got -1.0"),
        ({"mixing": mixing_matrix("full", 2)}, "mixing must be of 1 agents, got a matrix of 2"),
    ],
)
def test_bad_arguments_are_named(place, given, message):
    with pytest.raises(ValueError, match=message):
        Processes(**{"agent": crew.make("DIMAT", 0), "mixing": mixing_matrix("full", 1), **given})


def test_a_place_that_is_not_told_or_no_number_is_asked_for(place):
    place.delenv("WORLD_SIZE")
    with pytest.raises(InputError, match=r"environment must have RANK, WORLD_SIZE.*torchrun"):
        Processes(crew.make("DIMAT", 0), mixing_matrix("full", 1))
    place.setenv("WORLD_SIZE", "many")
    with pytest.raises(InputError, match=r"environment must have .*many"):
        Processes(crew.make("DIMAT", 0), mixing_matrix("full", 1))


def test_a_process_that_is_connected_already_is_refused(place):
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(InputError, match="must not be initialised yet"):
            Processes(crew.make("DIMAT", 0), mixing_matrix("full", 1)).run(1)
    finally:
        dist.destroy_process_group()


def test_tensors_of_all_kinds_come_out_as_they_went_in():
    tensors = [
        torch.randn(3, 5).T,
        torch.tensor(2.5, dtype=torch.float64),
        torch.zeros(0, 4),
        torch.tensor([True, False, True]),
        torch.randn(7, dtype=torch.bfloat16),
        torch.arange(4)[::2],
        torch.tensor([1 + 2j]),
    ]
    packet = _packed(tensors, torch.device("cpu"))
    assert packet.dtype == torch.uint8
    for found, expected in zip(_unpacked(packet, torch.device("cpu")), tensors, strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert torch.equal(found, expected)
