"""PubDef: banks within their ball, losses against loops, one source alike in all modes, sources and pairs by hand."""

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.attacks import ProjectedGradient
from paperweight.robustness.pubdef import (
    PubDefTraining,
    select_sources,
    transfer_accuracies,
    transfer_bank,
)
from paperweight.testing import FunctionSubject, PlainTraining, TrainingProcedureSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


IMAGES = torch.rand(12, 4, generator=seeded(1))
LABELS = torch.arange(12) % 3
BANK = torch.rand(2, 3, 12, 4, generator=seeded(2))
ATTACK = ProjectedGradient(radius=0.1, steps=3, keep_going=True)


def made(model: nn.Module, data: Any, generator: torch.Generator, **given: Any) -> PubDefTraining:
    inputs, labels = data
    near = inputs + 0.02 * torch.rand(2, 3, *inputs.shape, generator=seeded(3)).to(inputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return PubDefTraining(model, optimizer, inputs, labels, **({"bank": near} | given), generator=generator)


def training(mode: Any = "random", bank: Tensor = BANK, seed: int = 0, **given: Any) -> PubDefTraining:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return PubDefTraining(model, optimizer, IMAGES, LABELS, bank, mode, generator=seeded(seed), **given)


def advance(procedure: Any, data: Any, number: int) -> object:
    index = torch.arange(8 * number, 8 * number + 8) % len(data[0])
    given = (index,) if isinstance(procedure, PubDefTraining) else (part[index] for part in data)
    return procedure.step(*given)


CONTRACT = {
    "PubDefTraining": TrainingProcedureSubject(
        make=made,
        evaluations=8 * (8 + 8),
        random=True,
        advance=advance,
        bad={
            "bank": (torch.zeros(0, 3, 32, 1, 4, 4), torch.zeros(2, 32, 1, 4, 4), torch.zeros(2, 3, 31, 1, 4, 4)),
            "mode": ("dynamic", ""),
            "top": (0, 3, 1.0, True),
            "clean_weight": (-0.1, 1.1, math.nan, True),
        },
        null=partial(made, clean_weight=1.0),
        baseline=lambda model, data, generator: PlainTraining(model, lr=0.1, momentum=0.9),
    ),
    "select_sources": FunctionSubject(
        make=select_sources,
        arguments={"fooled": torch.rand(3, 3, generator=seeded()), "groups": ("a", "b", "a")},
        bad={"fooled": (torch.ones(2, 3), torch.full((3, 3), 1.1), torch.full((3, 3), math.nan)), "groups": (("a",),)},
    ),
    "transfer_accuracies": FunctionSubject(
        make=transfer_accuracies,
        arguments={"model": network(), "attacked": {"one": IMAGES}, "labels": LABELS},
        bad={"attacked": ({}, {"one": IMAGES[:3]}), "labels": (LABELS[:0],)},
    ),
    "transfer_bank": FunctionSubject(
        make=lambda generator=None, **given: transfer_bank(generator=generator or seeded(), **given),
        arguments={"sources": [network()], "inputs": IMAGES, "labels": LABELS, "attack": ATTACK},
        bad={"sources": ([],), "copies": (0, 1.5, True)},
    ),
}


def test_each_group_gives_the_model_that_fools_the_others_most_itself_not_counted() -> None:
    fooled = torch.tensor([[1.0, 0.1, 0.3, 0.2], [0.3, 0.0, 0.2, 0.2], [0.0, 0.0, 1.0, 0.1], [0.1, 0.0, 0.1, 1.0]])
    assert select_sources(fooled, ["x", "x", "y", "y"]) == [1, 3]
    assert select_sources(fooled, ["y", "x", "x", "y"]) == [0, 1]


def test_a_bank_holds_attacks_on_each_source_by_turns() -> None:
    sources = [network(4), network(5)]
    many, labels = IMAGES.repeat(50, 1), LABELS.repeat(50)
    bank = transfer_bank(sources, many, labels, ATTACK, copies=2, generator=seeded(6))
    source = seeded(6)
    for number, model in enumerate(sources):
        for copy in range(2):
            parts = [
                ATTACK(model, x, y, generator=source) for x, y in zip(many.split(512), labels.split(512), strict=True)
            ]
            assert torch.equal(bank[number, copy], torch.cat(parts))
    assert ((bank - many).abs() <= 0.1 + 1e-6).all()
    assert ((bank >= 0) & (bank <= 1)).all()
    assert not bank.requires_grad


def test_accuracies_by_hand_in_eval_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.99)).train()
    images = torch.eye(3).repeat(200, 1)
    labels = torch.arange(3).repeat(200)
    one, other = images.clone(), images.clone()
    one[labels == 0] = images[1]
    other[labels == 1] = images[2]
    other[:300:3] = images[1]
    found = transfer_accuracies(model, {"one": one, "other": other}, labels)
    assert dict(found.pairs) == pytest.approx({"one": 2 / 3, "other": 0.5})
    assert found.strongest == 0.5
    assert found.together == pytest.approx(1 / 3)
    assert model.training


@pytest.mark.parametrize(("mode", "top"), [("random", 1), ("all", 1), ("top", 1), ("top", 2)])
def test_an_update_is_that_of_a_loop_over_images(mode: str, top: int) -> None:
    index = torch.tensor([3, 7, 1, 3])
    each = training(mode, top=top, clean_weight=0.3, seed=7)
    source, model = seeded(7), network().train()
    copies = torch.randint(3, (1 if mode == "random" else 2, 4), generator=source)
    sources = torch.randint(2, (1, 4), generator=source) if mode == "random" else torch.tensor([[0], [1]]).expand(2, 4)
    rows = [IMAGES[n] for n in index]
    for of, copy in zip(sources, copies, strict=True):
        rows += [BANK[s, c, n] for s, c, n in zip(of, copy, index, strict=True)]
    logits = model(torch.stack(rows)).log_softmax(dim=1)
    expected = torch.zeros(())
    for place, number in enumerate(index.tolist()):
        losses = [-logits[place + 4 * k, LABELS[number]] for k in range(len(logits) // 4)]
        attacked = sorted(losses[1:], key=lambda loss: -loss.item())
        attacked = attacked[:top] if mode == "top" else attacked
        expected = expected + (0.3 * losses[0] + 0.7 * sum(attacked) / len(attacked)) / 4
    expected.backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss = each.step(index)
    torch.testing.assert_close(loss, expected.detach())
    for name, p in each.model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] - 0.1 * dict(model.named_parameters())[name].grad)


def test_with_one_source_all_modes_are_alike() -> None:
    steps = [torch.arange(8), torch.arange(4, 12)]
    found = []
    for mode in ("random", "all", "top"):
        each = training(mode, bank=BANK[:1, :1])
        found.append([each.step(index).item() for index in steps])
    assert found[0] == pytest.approx(found[1])
    assert found[1] == found[2]


def test_random_sources_are_drawn_for_each_image_as_often_and_copies_too() -> None:
    marked = torch.arange(6.0).view(2, 3, 1, 1).expand(2, 3, 12, 4)
    each = training("random", bank=marked)
    drawn = torch.cat([each._drawn(torch.arange(12))[0, :, 0] for _ in range(100)])
    shares = torch.bincount(drawn.long(), minlength=6) / len(drawn)
    assert (shares - 1 / 6).abs().max() < 0.04
    one = each._drawn(torch.arange(12))[0, :, 0].long()
    assert (one // 3).unique().numel() == 2
    assert (one % 3).unique().numel() == 3


def test_plain_training_draws_nothing_and_clean_images_may_be_left_out() -> None:
    each = training(clean_weight=1.0, seed=8)
    each.step(torch.arange(4))
    assert torch.equal(each.generator.get_state(), seeded(8).get_state())
    attacked = training("all", clean_weight=0.0, bank=BANK[:1, :1])
    model = network().train()
    index = torch.arange(8)
    both = model(torch.cat([IMAGES[index], BANK[0, 0, index]]))
    torch.testing.assert_close(attacked.step(index), F.cross_entropy(both[8:], LABELS[index]).detach())
