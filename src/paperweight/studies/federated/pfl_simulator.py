"""Federated learning is simulated faster with one resident model than with a copy a client (Granqvist et al. 2024).

The baseline simulates FedAvg as if clients were elsewhere: the model is copied for each, trained, and its weights are
serialised, sent back, read and averaged. The resident model trains the same users on the same batches by the same
operations, so that its weights are the same up to rounding, which grows at large rates: the largest difference is among
the arguments. What is measured is thus the copies and messages alone. The headline is the computing time of a round, in
one process; accuracy is told beside it. Images are dealt to 100 users by a Dirichlet distribution: most users have one
or two classes.

What it can show: what copies and messages cost where a user's training takes a few milliseconds. What it cannot: the
paper's factors of 7 to 72, which are against frameworks that run clients as processes or actors; for that see
``benchmarks/federated_simulation.py``. A round that takes no less time would refute the claim. The other arms show what
such simulations are for: FedProx and SCAFFOLD, which are to help where users differ, and clipping and noise, as much as
cohorts of 1,000, 100 and 20 users would need. Their times are comparable, too, and their accuracies say what they do.
"""

import copy
import pickle
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.agents.partition import partition
from paperweight.federated._accountant import privacy_spent
from paperweight.federated.pfl_simulator import FederatedSimulator
from paperweight.loops import tune
from paperweight.nets import MLP
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, classification

_RATES = (0.03, 0.1, 0.3, 1.0)
_EPOCHS = 2
_BATCH = 10
_DELTA = 1e-6


class _Plan(NamedTuple):
    """How a federation is simulated, and by what a round is taken in place of its own step."""

    simulate: Callable[..., FederatedSimulator]
    copying: bool = False


_CLIPPED = partial(FederatedSimulator, weighting="uniform", clip=1.0)
_COPIES = _Plan(FederatedSimulator, copying=True)

STUDY = Study(
    paper="pfl_simulator",
    question="Does one resident model simulate federated learning faster than a copy of the model for each client?",
    claim="A round takes less computing time with one resident model than with copies and messages, at equal weights.",
    arms={
        "copies": Arm("FedAvg with a copy of the model a client and serialised updates", _COPIES),
        "resident": Arm("FedAvg with one resident model, updated in place", _Plan(FederatedSimulator)),
        "fedprox": Arm(
            "variant: FedProx, mu 0.1, with the resident model",
            _Plan(partial(FederatedSimulator, algorithm="fedprox", proximal=0.1)),
        ),
        "scaffold": Arm(
            "variant: SCAFFOLD with the resident model, users counting alike",
            _Plan(partial(FederatedSimulator, algorithm="scaffold", weighting="uniform")),
        ),
        "clipped": Arm(
            "control of the three below: updates clipped to norm 1, users counting alike, no noise", _Plan(_CLIPPED)
        ),
        "noise_1000": Arm(
            "variant: clipped, with the noise of multiplier 1 on a cohort of 1,000",
            _Plan(partial(_CLIPPED, noise_multiplier=1.0, noise_cohort=1_000)),
        ),
        "noise_100": Arm(
            "variant: clipped, with the noise of multiplier 1 on a cohort of 100",
            _Plan(partial(_CLIPPED, noise_multiplier=1.0, noise_cohort=100)),
        ),
        "noise_20": Arm(
            "variant: clipped, with the noise of multiplier 1 on a cohort of 20",
            _Plan(partial(_CLIPPED, noise_multiplier=1.0, noise_cohort=20)),
        ),
    },
    metrics={
        "milliseconds": Metric(label="computing time a round", unit="ms", better="lower", minimal_effect=1.0),
        "accuracy": Metric(label="test accuracy", unit="", better="higher", minimal_effect=0.01),
    },
    headline="milliseconds",
    tuned="the local learning rate: 4 tries an arm and seed, a factor of about 3 apart, by validation accuracy",
    limits=(
        "Images of 64 pixels, a network of 5,000 weights, about ten images a user, one process: where local training "
        "takes longer, or weights are many, the share of copies and messages is another."
    ),
)


class _Trained(NamedTuple):
    simulator: FederatedSimulator
    milliseconds: float
    curve: list[tuple[float, float]]


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train with each local rate; report the time of a round and what the best on validation images does on others."""
    task = classification(
        setting, smoke=(200, 50, 50), desk=(1000, 300, 497), gpu=(40_000, 5_000, 10_000), normalised=False
    )
    count, cohort, rounds = setting.pick(smoke=(20, 5, 3), desk=(100, 20, 50), gpu=(1_000, 50, 300))
    parts = partition(task.train.labels, count, "dirichlet", alpha=0.1, generator=setting.generator("data"))
    users = [(task.train.images[part], task.train.labels[part]) for part in parts]

    def train(rate: float, plan: _Plan = arm.make) -> _Trained:
        model = task.network(partial(MLP, hidden=(64,)))
        simulator = plan.simulate(
            model,
            torch.optim.SGD(model.parameters(), lr=1.0),
            users,
            cohort_size=cohort,
            local_epochs=_EPOCHS,
            local_lr=rate,
            batch_size=_BATCH,
            generator=setting.generator("batches"),
        )
        spent, curve = 0.0, []
        for number in range(1, rounds + 1):
            start = time.process_time()
            if plan.copying:
                copying_round(model, users, simulator.cohort(), epochs=_EPOCHS, lr=rate, batch_size=_BATCH)
            else:
                simulator.step()
            spent += time.process_time() - start if number > 1 else 0.0
            if number % max(1, rounds // 20) == 0:
                curve.append((float(number), task.validate(model).accuracy))
        return _Trained(simulator, spent / (rounds - 1) * 1e3, curve)

    tuned = tune(_RATES, train, lambda tried: task.validate(tried.simulator.model).accuracy, better="higher")
    simulator, _, curve = tuned.best
    tested = task.test(simulator.model)
    arguments: dict[str, object] = {
        "rounds": rounds,
        "users": f"{count}, {min(map(len, parts))} to {max(map(len, parts))} images each",
        "test_images": len(task.data.test),
    }
    if arm.name == STUDY.method:
        rates = _RATES if tuned.value in _RATES else (tuned.value,)
        expected = setting.cached(
            f"weights of the copies at {rates}",
            lambda: {str(rate): _weights(train(rate, _COPIES).simulator.model) for rate in rates},
        )
        gap = (_weights(simulator.model) - expected[str(tuned.value)]).abs().max().item()
        arguments["largest_difference_of_weights"] = f"{gap:.1e}"
    if simulator.sigma:
        eps = privacy_spent(cohort / count, noise_multiplier=1.0, rounds=rounds, delta=_DELTA)
        arguments["eps"] = f"{eps:.1f} at delta {_DELTA}, for as large a share of a larger population"
    made: dict[str, object] = {"simulator": simulator}
    if arm.make.copying:
        made["round"] = partial(copying_round, epochs=_EPOCHS, lr=tuned.value, batch_size=_BATCH)
    return Outcome(
        metrics={
            "milliseconds": sum(tried.milliseconds for tried in tuned.tries.values()) / len(tuned.tries),
            "accuracy": tested.accuracy,
        },
        made=made,
        tuned={"local_lr": tuned},
        arguments=arguments,
        curves={"validation accuracy, by round": curve},
        correct=tested.correct,
    )


def copying_round(
    model: nn.Module,
    users: list[tuple[Tensor, Tensor]],
    cohort: Sequence[tuple[int, int]],
    *,
    epochs: int,
    lr: float,
    batch_size: int,
) -> None:
    """Train a model for a round of FedAvg with a copy of it for each user, and updates that are sent as bytes.

    Args:
        model: The global model, trained in place.
        users: For each user the inputs and labels.
        cohort: The users of the round, each with the seed of its shuffles.
        epochs: Local passes.
        lr: Local learning rate.
        batch_size: Samples a local batch.
    """
    sent: list[tuple[int, bytes]] = []
    for user, seed in cohort:
        client = copy.deepcopy(model)
        inputs, labels = users[user]
        train_client(client, inputs, labels, seed, epochs=epochs, lr=lr, batch_size=batch_size)
        sent.append((len(inputs), pickle.dumps(client.state_dict())))
    received = [(weight, pickle.loads(update)) for weight, update in sent]
    total = sum(weight for weight, _ in received)
    mean = {
        name: sum(weight / total * update[name] for weight, update in received) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(mean)


def train_client(
    client: nn.Module, inputs: Tensor, labels: Tensor, seed: int, *, epochs: int, lr: float, batch_size: int
) -> None:
    """Train a client's copy of the model in place by SGD, with shuffles of its own.

    Args:
        client: The copy.
        inputs: The client's inputs.
        labels: Their labels.
        seed: Seed of the shuffles.
        epochs: Local passes.
        lr: Local learning rate.
        batch_size: Samples a local batch.
    """
    parameters = [*client.parameters()]
    shuffles = torch.Generator().manual_seed(seed)
    client.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs), generator=shuffles).to(inputs.device).split(batch_size):
            gradients = torch.autograd.grad(F.cross_entropy(client(inputs[batch]), labels[batch]), parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(gradient, alpha=lr)


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
