"""Quantum layers take the place of classical ones, and show what each costs in accuracy (Wang et al. 2024).

Qubits are simulated, exactly and without noise: nothing is said here of what a quantum computer would do faster. Two
convolutions and a linear layer without activations learn digits by Adam, its rate rising over a tenth of the steps and
falling along a cosine; each arm has its own rate. The baseline is the classical network, and in the method, the paper's
second level, all three layers are quantum. The headline is test accuracy; numbers learned stand beside it.

What it can show: whether a network with only quantum layers keeps the accuracy of the classical one. An accuracy that
is lower would refute that here. The paper's first level, with quantum convolutions alone, and a quantum linear layer
alone ask which layers cost it. Quantum convolutions that stay random ask whether their gates have to be learned. The
classical network is linear, and stays so with quantum convolutions; the quantum linear layer is not, and with ten
classes its probabilities, as logits, leave a loss of at least 1.46 nats, so that losses say little about it.
"""

from functools import partial
from typing import NamedTuple

from torch.optim import Adam

from paperweight.architecture.quantum_layers import HybridNet, quantum_convolutions
from paperweight.loops import tune, warmed_cosine
from paperweight.studies import (
    ACCURACY,
    TEST_LOSS,
    Arm,
    Metric,
    Outcome,
    Recipe,
    Setting,
    Study,
    Trained,
    classification,
)

_RATES = (0.02, 0.05, 0.12)


class _Plan(NamedTuple):
    """Which layers are quantum, and whether the convolutions are learned."""

    convolutions: bool = False
    linear: bool = False
    learned: bool = True


RECIPE = Recipe(
    words="3x3 kernels made by states of two simulated qubits: symmetric, without negative eigenvalues",
    line="model = quantum_convolutions(model)",
    surgery=quantum_convolutions,
)

STUDY = Study(
    paper="quantum_layers",
    question="Is a small network as accurate if its layers are swapped for simulated quantum ones?",
    claim="A network of quantum layers with the same inputs and outputs is as accurate as the classical network.",
    arms={
        "classical": Arm("two convolutions and a linear layer", _Plan()),
        "quantum": Arm("all three layers quantum, the paper's second level", _Plan(convolutions=True, linear=True)),
        "quantum_convolutions": Arm("quantum convolutions, the paper's first level", _Plan(convolutions=True)),
        "quantum_linear": Arm("control: a quantum linear layer alone", _Plan(linear=True)),
        "random_convolutions": Arm("control: random quantum convolutions", _Plan(convolutions=True, learned=False)),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "numbers": Metric.lower("numbers learned", 100, "numbers"),
    },
    headline="accuracy",
    tuned="the learning rate, 3 tries an arm and seed, a factor of about 2.5 apart, from one grid: by validation loss",
    limits=(
        "Images of 8 x 8 pixels, two convolutions of four channels, four qubits and 300 steps: nothing follows for the "
        "paper's networks of 32 and 16 channels and seven qubits, nor for its MNIST, Fashion-MNIST and CIFAR-10. All "
        "is simulated without noise; costs are those of the simulation. All arms have the paper's three layers without "
        "activations, so that the baseline is a linear classifier and no strong one; where it chose the lowest rate, a "
        "better one would only make the others' loss larger. Random convolutions chose the highest."
    ),
    seeds=9,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(setting, smoke=(100, 50, 50), desk=(1_000, 300, 497), gpu=(20_000, 5_000, 10_000))
    steps = setting.pick(smoke=2, desk=300, gpu=5_000)
    widths = setting.pick(smoke=(2, 2), desk=(4, 4), gpu=(32, 16))
    plan = arm.make
    build = partial(HybridNet, task.shape, task.classes, plan.convolutions, plan.linear, widths)

    def train(rate: float) -> Trained:
        model = setting.initialised(build)
        model.body.requires_grad_(plan.learned)
        optimizer = Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
        return task.fit(model, optimizer, steps=steps, batch_size=32, schedule=warmed_cosine(optimizer, steps))

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    learned = sum(p.numel() for p in tuned.best.model.parameters() if p.requires_grad)
    return task.outcome(
        tuned,
        metrics={**tuned.best.accuracy_and_loss, "numbers": float(learned)},
        arguments=plan._asdict(),
        curves={"test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy)},
    )
