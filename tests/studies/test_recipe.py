"""Recipes: each slot does what it says in training, a null one trains like the baseline, and misfits say why."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.architecture import PAU
from paperweight.catalogue import entries
from paperweight.errors import InputError
from paperweight.loops import index_batches
from paperweight.nets import LeNet, NormalisedMLP, ResNet, ViT
from paperweight.optim import LaplacianSmoothing, Lookahead
from paperweight.studies import MISFIT, Recipe, Setting, classification
from paperweight.studies._recipe import MisfitError, train_by
from paperweight.studies.screening import OPTIMIZERS, find_recipe
from paperweight.training import InfoBatch

STEPS, BATCH = 12, 20
SGD_DECAY = 5e-4
STEMS = [entry.stem for entry in entries() if entry.has_recipe]
FOR_RESNET = (
    "auglocal",
    "efficient_train",
    "ghost_batch_norm",
    "momentum_auxiliary_network",
    "quantum_layers",
    "stochastic_depth",
)  # not a LeNet
FOR_VIT = ("local_feature_reconstruction",)
make = partial(Recipe, words="a recipe", line="do()")


def task():
    sizes = (60, 20, 20)
    return classification(Setting(study="example", seed=0, budget="smoke"), smoke=sizes, desk=sizes, gpu=sizes)


def trained(recipe: Recipe | None, lr: float = 0.05, network: Callable[..., nn.Module] = LeNet):
    data = task()
    return train_by(
        recipe,
        data,
        data.network(network),
        OPTIMIZERS["sgd"][0],
        lr=lr,
        steps=STEPS,
        batch_size=BATCH,
        generator=data.setting.generator("batches"),
    )


def weights(recipe: Recipe | None) -> list[torch.Tensor]:
    return [p.detach() for p in trained(recipe).model.parameters()]


def plain(logits: torch.Tensor, labels: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, labels)


NULLS = {
    "optimizer": make(optimizer=lambda p, lr, baseline: Lookahead(baseline(p, lr), alpha=1.0)),
    "another optimizer": make(optimizer=lambda p, lr, baseline: LaplacianSmoothing(baseline(p, lr), sigma=0.0)),
    "surgery": make(surgery=lambda model: model),
    "loss": make(loss=lambda samples, classes: plain),
    "penalty": make(penalty=lambda model: torch.zeros(())),
    "data": make(data=lambda images, labels, generator: (images, labels)),
    "batches": make(batches=lambda labels, size, generator: index_batches(len(labels), size, generator)),
    "pretraining": make(pretraining=lambda model, inputs, steps, generator: None),
}


@pytest.mark.parametrize("name", NULLS)
def test_a_recipe_that_changes_nothing_trains_like_the_baseline_bit_for_bit(name: str) -> None:
    assert all(map(torch.equal, weights(NULLS[name]), weights(None)))


def test_a_training_of_its_own_has_as_many_passes_as_the_steps_make_and_the_schedule_of_passes() -> None:
    seen: list[float] = []

    class Watched(InfoBatch):
        def step(self) -> torch.Tensor:
            seen.append(self.optimizer.param_groups[0]["lr"])
            return super().step()

    found = trained(make(training=partial(Watched, ratio=0.0)))
    assert len(seen) == STEPS * BATCH // 60 == 4
    assert found.made["training"].samples == 4 * 60
    assert seen[0] == 0.05 > seen[-1]


def test_infobatch_trains_a_network_with_batch_normalization_where_one_sample_is_left_over() -> None:
    data = task()
    found = train_by(
        find_recipe("infobatch"),
        data,
        NormalisedMLP(data.shape, data.classes, hidden=(8,)),
        OPTIMIZERS["sgd"][0],
        lr=0.05,
        steps=6,
        batch_size=59,
        generator=data.setting.generator("batches"),
    )
    assert found.made["training"].samples % 59 != 1
    assert found.made["training"].epoch == 6
    assert found.losses.isfinite().all()


def test_slots_are_given_what_they_are_promised() -> None:
    given: dict[str, object] = {}

    def loss(samples: int, classes: int):
        given["loss"] = (samples, classes)

        def of(logits: torch.Tensor, labels: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            given["index"] = task().train.labels[index].equal(labels)
            return F.cross_entropy(logits, labels)

        return of

    def pretraining(model: nn.Module, inputs: torch.Tensor, steps: int, generator: torch.Generator) -> None:
        given["pretraining"] = (inputs.shape, steps)

    def schedule(optimizer: torch.optim.Optimizer, steps: int):
        given["schedule"] = steps
        return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)

    trained(make(loss=loss, pretraining=pretraining, schedule=schedule))
    assert given == {
        "loss": (60, 10),
        "index": True,
        "pretraining": (torch.Size([60, 1, 8, 8]), STEPS),
        "schedule": STEPS,
    }


def test_a_penalty_is_added_and_data_are_changed() -> None:
    decay = SGD_DECAY + 2 * 0.5
    one = weights(make(penalty=lambda model: 0.5 * sum(p.square().sum() for p in model.parameters())))
    other = weights(make(optimizer=lambda p, lr, _: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=decay)))
    for p, q in zip(one, other, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    blind = trained(make(data=lambda images, labels, generator: (torch.zeros_like(images), labels)))
    assert blind.validated.accuracy <= 0.2


def test_surgery_trains_the_changed_network() -> None:
    found = trained(find_recipe("pade_activation"))
    units = [module for module in found.model.modules() if isinstance(module, PAU)]
    assert len(units) == 4
    assert all(p.grad is not None for unit in units for p in unit.parameters())


def test_a_recipe_that_does_not_fit_says_why() -> None:
    with pytest.raises(MisfitError, match="no residual blocks"):
        trained(make(penalty=lambda model: torch.zeros(()), fits=lambda model, data: "it has no residual blocks"))
    with pytest.raises(MisfitError, match="must hold a module of type GELU"):
        trained(make(surgery=lambda model: find_gelu(model)))
    assert f"{MisfitError.__module__}.{MisfitError.__qualname__}: " == MISFIT


def find_gelu(model: nn.Module) -> nn.Module:
    raise InputError("model must hold a module of type GELU")


def test_a_recipe_without_a_slot_or_with_one_too_many_is_refused() -> None:
    with pytest.raises(InputError, match="must fill at least one slot"):
        make()
    with pytest.raises(InputError, match="leaves loss no room"):
        make(training=InfoBatch, loss=lambda samples, classes: plain)


@pytest.mark.parametrize("stem", STEMS)
def test_the_recipe_of_a_paper_trains_and_says_a_line_that_names_what_the_paper_provides(stem: str) -> None:
    recipe = find_recipe(stem)
    network = ResNet if stem in FOR_RESNET else ViT if stem in FOR_VIT else LeNet
    found = trained(recipe, lr=recipe.lr or 0.05, network=network)
    assert torch.isfinite(found.losses).all()
    entry = next(entry for entry in entries() if entry.stem == stem)
    assert any(name in recipe.line for name in entry.paper.provides)
    assert ")(" not in recipe.line  # what is made in each step of a loop forgets what it has learned
    assert recipe.words[-1] != "."
    assert recipe.slots


def test_find_recipe_names_what_is_wrong() -> None:
    with pytest.raises(InputError, match="no paper of that name has one"):
        find_recipe("wgan_gp")
    with pytest.raises(InputError, match="it is type"):
        find_recipe("torch.optim:SGD")
    with pytest.raises(InputError, match="cannot be imported"):
        find_recipe("no_such_module:recipe")
