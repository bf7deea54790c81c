"""Merging aligned models gains accuracy faster than averaging them, for the same bytes (Saadati et al. 2024).

Five agents on a ring have a fifth of the images each and models that were trained on it from different initial weights.
Then come rounds of a merge and an epoch, and a last merge. All arms but one recompute batch normalization on the
agent's own data, and have the same optimizer. Everything is done twice, with every class at every agent and with two
classes an agent; in between is a split of which half is of each kind, for the first exchange alone. The headline is the
test accuracy, the mean over agents, after the first exchange: what one model sent to each neighbour is worth.

What it can show: whether units that are aligned average better here, and for how many rounds that lasts. An accuracy
after the first exchange that is not above the baseline's would refute the claim. Since alignment can only matter where
models differ in the order of their units, the control that starts all agents from one initialisation should be as good
without it. Mixing at every step is the rival of which the method claims to need less communication.
"""

from functools import partial

import torch

from paperweight.agents.baselines import CDSGD, CGA, SGP, LocalOnly
from paperweight.agents.partition import Scheme, partition
from paperweight.federated.dimat import DIMAT
from paperweight.loops import Tuned, tune
from paperweight.nets import NormalisedMLP, ResNet
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, classification
from paperweight.studies.federated._dimat_agents import MEGABYTE, Plan, Times, Trial, World, accuracy

_SPLITS: dict[Scheme, str] = {"iid": "", "half_half": "_half", "classes": "_classes"}
_RATES: dict[Scheme, tuple[float, ...]] = {
    "iid": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "classes": (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03),
}
_MERGE = partial(DIMAT, keep_optimizer_state=False)
_MATCH = partial(_MERGE, matching="activation")
_AVERAGE = partial(_MERGE, matching="none")
_MIX = partial(Plan, stepwise=True, rare=False)

STUDY = Study(
    paper="dimat",
    question="Do agents that train alone and rarely exchange models gain more from merging aligned models?",
    claim="Where every agent has all classes, DIMAT is more accurate after the first exchange than weight averaging.",
    arms={
        "averaging": Arm("weight averaging, the method without matching; normalization recomputed", Plan(_AVERAGE)),
        "dimat": Arm("DIMAT: units matched by activations on the agent's own data, then averaged", Plan(_MATCH)),
        "weight_matching": Arm("variant: units matched by their weights", Plan(partial(_MERGE, matching="weight"))),
        "shared_probe": Arm(
            "variant: matching and batch normalization on unlabelled images that all agents have",
            Plan(_MATCH, shared_probe=True),
        ),
        "no_repair": Arm("variant: averaging, of batch normalization as well", Plan(partial(_AVERAGE, repair=False))),
        "local": Arm("control: no exchange at all", Plan(LocalOnly, rare=False)),
        "cdsgd": Arm("rival: mixing at every step, for as many epochs", _MIX(CDSGD)),
        "cdsgd_bytes": Arm("rival: mixing at every step, for as many bytes", _MIX(CDSGD, rare=True)),
        "sgp": Arm("rival: stochastic gradient push, mixing at every step, for as many epochs", _MIX(SGP)),
        "cga": Arm("rival: cross-gradient aggregation, mixing at every step, for as many epochs", _MIX(CGA)),
        "same_start": Arm(
            "control: averaging of agents that began with equal weights", Plan(_AVERAGE, same_start=True)
        ),
        "centralised": Arm(
            "bound: one model on the images of all agents, for as many epochs", Plan(LocalOnly, rare=False, pooled=True)
        ),
    },
    metrics={
        "first": Metric.higher("test accuracy, first exchange", 0.02),
        "first_half": Metric.higher("test accuracy, first exchange, half by class", 0.02),
        "first_classes": Metric.higher("test accuracy, first exchange, 2 classes each", 0.02),
        "final": Metric.higher("test accuracy, end", 0.01),
        "final_classes": Metric.higher("test accuracy, end, 2 classes each", 0.02),
        "agreement": Metric.higher("test images on which two agents agree, end", 0.01, "share"),
        "sent": Metric.lower("sent by an agent", 0.05, "megabytes"),
    },
    headline="first",
    tuned=(
        "the learning rate: 6 tries an arm and seed, 7 with two classes an agent, a factor of about 3 apart, by "
        "validation accuracy at the end; the training before the first exchange, which all arms share, is not tuned"
    ),
    limits=(
        "Small images, a fully connected network of three layers with batch normalization and five agents on a ring: "
        "nothing follows for large networks or many agents. Optimizers start anew in each round, as in the paper. An "
        "agent alone with two classes chose the lowest rate of each grid that was tried, as if training on were of no "
        "use to it. The verdict is on agents that have every class; what two classes change is told beside it."
    ),
)


def run(arm: Arm[Plan], setting: Setting) -> Outcome:
    """Train on both splits with each rate; report what the best on validation images does on test images."""
    task = classification(setting, smoke=(150, 50, 50), desk=(900, 300, 590), gpu=(40_000, 5_000, 10_000))
    default = partial(ResNet, depth=20, width=32) if setting.budget == "gpu" else NormalisedMLP
    agents, probed = setting.pick(smoke=(3, 40), desk=(5, 200), gpu=(10, 2_000))
    times = setting.pick(smoke=Times(1, 1, 2), desk=Times(6, 1, 20), gpu=Times(10, 2, 20))
    metrics: dict[str, float] = {}
    made: dict[str, object] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    chosen: dict[str, Tuned[Trial]] = {}
    for scheme, suffix in _SPLITS.items():
        parts = partition(task.train.labels, agents, scheme, generator=setting.generator("method"))
        shares = [torch.cat([*parts])] if arm.make.pooled else parts
        world = World(task, partial(task.network, default), arm.make, shares, times, probed)
        start = world.start(scheme)
        metrics[f"first{suffix}"] = world.first_exchange(start)
        if scheme in _RATES:
            rates = setting.pick(smoke=_RATES[scheme][:2], desk=_RATES[scheme], gpu=_RATES[scheme])
            chosen[f"lr{suffix}"] = tune(rates, partial(world.train, start), world.validated, better="higher")
            best = chosen[f"lr{suffix}"].best
            metrics[f"final{suffix}"] = accuracy(best.agents, task.data.test)
            made |= {f"agent{suffix}": best.agents[0], f"optimizer{suffix}": best.agents[0].optimizer}
            curves |= best.curves("2 classes each" if suffix else "all classes")
    best = chosen["lr"].best
    metrics |= {"agreement": best.agreement(task.data.test), "sent": best.history.sent / MEGABYTE / agents}
    sizes = {"agents": agents, "training_images": len(task.train), "test_images": len(task.data.test)}
    return Outcome(metrics=metrics, made=made, tuned=chosen, arguments=sizes, curves=curves)
