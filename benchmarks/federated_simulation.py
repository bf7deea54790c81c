"""How many clients a second a simulation of federated learning trains: one resident model against two other designs.

A thousand clients of 50 samples take one local epoch in batches of 10 on a network of 4,810 weights. Rival designs: a
process for each client, forked from a server that has torch and this library loaded already, which gets the model and
sends its weights back; and a copy of the model for each client in one process, with serialised updates. All train a
client by the same operations, one client at a time, on one thread. Blocks of the three take turns; each ratio is one of
the wall times of neighbouring blocks. Before that, all three must give the same weights.

    python benchmarks/federated_simulation.py [--clients 1000] [--blocks 5] [--json PATH]
"""

import argparse
import copy
import json
import multiprocessing
import pickle
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn

from paperweight.federated.pfl_simulator import FederatedSimulator
from paperweight.nets import MLP
from paperweight.studies.federated.pfl_simulator import copying_round, train_client

SAMPLES = 50
PRELOADED = ["torch", "paperweight.nets", "paperweight.studies.federated.pfl_simulator"]
LOCAL = {"epochs": 1, "lr": 0.1, "batch_size": 10}
Round = Callable[[], object]


def in_process(sender: Connection, sent: bytes, data: bytes, seed: int) -> None:
    """Train a client in this process, and send its weights."""
    torch.set_num_threads(1)
    client: nn.Module = pickle.loads(sent)
    train_client(client, *pickle.loads(data), seed, **LOCAL)
    sender.send_bytes(pickle.dumps(client.state_dict()))


def process_round(model: nn.Module, users: list[tuple[Tensor, Tensor]], cohort: list[tuple[int, int]]) -> None:
    """Train a model for a round of FedAvg with a process for each user."""
    servers = multiprocessing.get_context("forkserver")
    sent, mean = pickle.dumps(model), {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    for user, seed in cohort:
        receiver, sender = servers.Pipe(duplex=False)
        process = servers.Process(target=in_process, args=(sender, sent, pickle.dumps(users[user]), seed))
        process.start()
        sender.close()
        for name, value in pickle.loads(receiver.recv_bytes()).items():
            mean[name] += value / len(cohort)
        process.join()
        receiver.close()
    model.load_state_dict(mean)


def designs(clients: int) -> dict[str, tuple[nn.Module, Round]]:
    """Make for each design a model, always the same, and a function that trains it for a round of all clients."""
    draw = torch.Generator().manual_seed(0)
    users = [
        (torch.rand(SAMPLES, 1, 8, 8, generator=draw), torch.randint(10, (SAMPLES,), generator=draw))
        for _ in range(clients)
    ]
    torch.manual_seed(0)
    first = MLP((1, 8, 8), 10, hidden=(64,))
    models = {name: copy.deepcopy(first) for name in ("process", "copies", "resident")}
    simulators = {
        name: FederatedSimulator(
            model,
            torch.optim.SGD(model.parameters(), lr=1.0),
            users,
            cohort_size=clients,
            local_epochs=LOCAL["epochs"],
            local_lr=LOCAL["lr"],
            batch_size=LOCAL["batch_size"],
            generator=torch.Generator().manual_seed(1),
        )
        for name, model in models.items()
    }
    rounds: dict[str, Round] = {
        "process": lambda: process_round(models["process"], users, list(simulators["process"].cohort())),
        "copies": lambda: copying_round(models["copies"], users, simulators["copies"].cohort(), **LOCAL),
        "resident": simulators["resident"].step,
    }
    return {name: (models[name], rounds[name]) for name in models}


def measure(clients: int, blocks: int) -> dict[str, dict[str, float]]:
    """Check that the designs agree; give the clients a second of each, and its times over those of the resident."""
    made = designs(clients)
    for _, train in made.values():
        train()
    resident = made["resident"][0]
    for name, (model, _) in made.items():
        gaps = [(a - b).abs().max().item() for a, b in zip(model.parameters(), resident.parameters(), strict=True)]
        assert max(gaps) < 1e-5, f"{name} differs by {max(gaps)}"
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for block in range(blocks):
        for name in sorted(made, reverse=bool(block % 2)):
            start = time.perf_counter()
            made[name][1]()
            seconds[name].append(time.perf_counter() - start)
    results = {}
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds["resident"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        results[name] = {
            "clients_a_second": clients / statistics.median(times),
            "times_as_slow": middle,
            "low": low,
            "high": high,
        }
    return results


def main() -> None:
    """Measure, print a table, and write the numbers where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--clients", type=int, default=1000, help="clients a round")
    parser.add_argument("--blocks", type=int, default=5, help="blocks of each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    results = measure(arguments.clients, arguments.blocks)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"{'one thread':12}{'clients a second':>18}{'times as slow':>16}{'quartiles':>16}")
    for name, row in results.items():
        spread = f"{row['low']:.2f}-{row['high']:.2f}"
        print(f"{name:12}{row['clients_a_second']:18.0f}{row['times_as_slow']:16.2f}{spread:>16}")


if __name__ == "__main__":
    main()
