"""DomainDrop against scores and masks written out, gradients reversed by hand, and the network without it."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import LabelledImages, Splits
from paperweight.regularization._channels import reverse_gradient
from paperweight.regularization.domaindrop import (
    DomainDrop,
    consistency_loss,
    domain_sensitivity,
    domaindrop_loss,
    drop_mask,
)
from paperweight.studies.regularization._styles import STYLES, RandomDrop, in_style, styled
from paperweight.testing import FunctionSubject, LayerSubject, LossSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(6, 4, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


PLACES = {"1": 6, "3": 4}
DOMAINS = torch.tensor([0, 1, 1, 0, 2])
IMAGES, LABELS = normal(5, 1, 4, 4), torch.tensor([0, 2, 1, 1, 0])


def made(model: nn.Module | None = None, places: Any = None, domains: int = 3, **given: Any) -> DomainDrop:
    return DomainDrop(network() if model is None else model, PLACES if places is None else places, domains, **given)


class Logits(nn.Module):
    """The logits of the classes alone, in both modes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, domains: Tensor) -> Tensor:
        found = self.model(x, domains) if isinstance(self.model, DomainDrop) else self.model(x)
        return found.logits if isinstance(found, tuple) else found


def written_out(first: Tensor, second: Tensor, temperature: float = 5.0) -> float:
    total = 0.0
    for p_row, q_row in zip(first.tolist(), second.tolist(), strict=True):
        p, q = ([math.exp(value / temperature) for value in row] for row in (p_row, q_row))
        p, q = ([value / sum(row) for value in row] for row in (p, q))
        total += sum(a * math.log(a / b) + b * math.log(b / a) for a, b in zip(p, q, strict=True)) / 2
    return total / first.numel()


def seeded_loss(**given: Any) -> Tensor:
    """The loss with its draws from a fixed seed."""
    model = given.pop("model").double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return domaindrop_loss(model, **given)


SHARES = (-0.1, 1.0, 1.5, math.nan, math.inf)

CONTRACT = {
    "DomainDrop": LayerSubject(
        make=made,
        inputs=(IMAGES.float(), DOMAINS),
        shape=None,
        parameter_count=6 * 10 + 4 * 55 + 3 * 65 + 3 * 7 + 3 * 5,
        bad={
            "places": ({}, {"nowhere": 6}, {"": 3}, {"1": 0}, {"1": 5}, {"1": 6.0}),
            "domains": (0, 1, 2.5, True),
            "drop": SHARES,
            "reversal": (-0.1, math.nan, math.inf),
            "probability": (-0.1, 1.1, math.nan),
        },
        expected_failures={
            "check_gradients": "what comes back from the discriminators is reversed, as it is meant to be"
        },
        null=lambda: Logits(made(drop=0.0)),
        baseline=lambda: Logits(network()),
    ),
    "consistency_loss": LossSubject(
        make=lambda temperature=5.0, second=None: (
            lambda p, q: consistency_loss(p, q if second is None else second, temperature)
        ),
        inputs=(normal(5, 4).float(), normal(5, 4, seed=1).float()),
        slow=written_out,
        differentiable=(0, 1),
        bad={
            "temperature": (0.0, -1.0, math.nan, math.inf),
            "second": (torch.zeros(4), torch.zeros(4, 4), torch.zeros(5, 3)),
        },
    ),
    "domain_sensitivity": FunctionSubject(
        make=domain_sensitivity,
        arguments={"features": normal(5, 6, 3, 3), "weights": normal(5, 6, seed=1)},
        bad={
            "weights": (normal(5), normal(6, 5), normal(4, 6)),
            "features": (normal(5), normal(5, 5, 2), normal(5, 0)),
        },
    ),
    "drop_mask": FunctionSubject(
        make=lambda scores, drop=0.33: drop_mask(scores, drop, torch.Generator().manual_seed(0)),
        arguments={"scores": normal(5, 6).sigmoid()},
        bad={"scores": (normal(5), normal(5, 6, 1)), "drop": SHARES},
    ),
    "domaindrop_loss": FunctionSubject(
        make=seeded_loss,
        arguments={"model": made().double(), "inputs": IMAGES, "labels": LABELS, "domains": DOMAINS},
        bad={
            "model": (made().eval(),),
            "consistency": (-1.0, math.nan, math.inf),
            "temperature": (0.0, -1.0, math.nan, math.inf),
            "domains": (DOMAINS[:4], DOMAINS.double(), DOMAINS + 1, DOMAINS - 1),
        },
    ),
}


def test_scores_written_out():
    features, weights = normal(4, 5, 2, 3).abs(), normal(4, 5, seed=1)
    expected = torch.zeros(4, 5, dtype=torch.float64)
    for n in range(4):
        for i in range(2):
            for j in range(3):
                products = [float(features[n, c, i, j] * weights[n, c]) for c in range(5)]
                low, high = min(products), max(products)
                for c in range(5):
                    expected[n, c] += (products[c] - low) / (high - low) / 6
        expected[n] = (expected[n] - expected[n].min()) / (expected[n].max() - expected[n].min())
    torch.testing.assert_close(domain_sensitivity(features, weights), expected, rtol=1e-12, atol=1e-12)


def test_pixels_and_examples_of_which_nothing_can_be_told_have_scores_of_0():
    features = torch.zeros(2, 3, 1, 2)
    features[0, :, 0, 0] = torch.tensor([1.0, 3.0, 2.0])
    scores = domain_sensitivity(features, torch.ones(2, 3))
    assert scores.tolist() == [[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]]
    assert (drop_mask(scores, 0.4) == 0).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize(("channels", "drop"), [(6, 0.33), (10, 0.5), (3, 0.99), (4, 0.2), (7, 0.0)])
def test_a_mask_drops_exactly_the_share_and_has_a_mean_of_1(channels, drop):
    for scores in (normal(50, channels).sigmoid(), torch.zeros(50, channels).double(), torch.eye(channels).double()):
        mask = drop_mask(scores, drop)
        assert (mask == 0).sum(1).tolist() == [int(drop * channels)] * len(scores)
        torch.testing.assert_close(mask.mean(1), torch.ones(len(scores)).double())


def test_channels_are_drawn_by_their_weights_without_replacement():
    # The first of a weighted draw is a channel with probability score / sum; the second by what is left.
    weights = torch.tensor([0.1, 0.2, 0.3, 1.0])
    mask = drop_mask(weights.expand(40_000, 4), 0.5, torch.Generator().manual_seed(0))
    p = weights / weights.sum()
    expected = p + sum(p[i] * torch.where(torch.arange(4) == i, 0, p / (1 - p[i])) for i in range(4))
    torch.testing.assert_close((mask == 0).float().mean(0), expected, rtol=0.0, atol=0.01)


def test_zero_scores_are_dropped_last():
    scores = torch.tensor([[0.0, 1e-30, 0.0, 0.5]]).expand(200, 4)
    assert (drop_mask(scores, 0.5)[:, [1, 3]] == 0).all()


def test_gradients_go_back_reversed():
    x = normal(3, 2).requires_grad_()
    y = reverse_gradient(x, 0.25)
    assert torch.equal(y, x)
    (y * torch.arange(6).view(3, 2)).sum().backward()
    assert torch.equal(x.grad, -0.25 * torch.arange(6).view(3, 2))


def test_discriminators_learn_while_the_network_unlearns():
    torch.manual_seed(0)
    model = made(drop=0.0, reversal=0.5).double()
    reference = copy.deepcopy(model)
    domaindrop_loss(model, IMAGES, LABELS, DOMAINS, consistency=0.0).backward()
    body, heads = reference.model, reference.discriminators
    first = body[1](body[0](IMAGES))
    second = body[3](body[2](first))
    told = [head(maps.mean((2, 3))) for head, maps in zip(heads, (first, second), strict=True)]
    domains = torch.stack([F.cross_entropy(logits, DOMAINS) for logits in told]).mean()
    classes = F.cross_entropy(body[5](second.flatten(1)), LABELS)
    by_classes = torch.autograd.grad(classes, list(body.parameters()), retain_graph=True)
    by_domains = torch.autograd.grad(domains, list(body.parameters()), retain_graph=True, materialize_grads=True)
    for found, one, other in zip(model.model.parameters(), by_classes, by_domains, strict=True):
        torch.testing.assert_close(found.grad, one - 0.5 * other, rtol=1e-9, atol=1e-12)
    slopes = torch.autograd.grad(domains, list(heads.parameters()))
    for found, slope in zip(model.discriminators.parameters(), slopes, strict=True):
        torch.testing.assert_close(found.grad, slope, rtol=1e-9, atol=1e-12)


def test_the_loss_is_of_two_passes_at_once():
    torch.manual_seed(0)
    model = made(probability=1.0).double()
    torch.manual_seed(5)
    loss = domaindrop_loss(model, IMAGES, LABELS, DOMAINS, consistency=2.0, temperature=3.0)
    torch.manual_seed(5)
    twice = (torch.cat([tensor, tensor]) for tensor in (IMAGES, DOMAINS))
    logits, told = model(*twice)
    labels, domains = torch.cat([LABELS, LABELS]), torch.cat([DOMAINS, DOMAINS])
    expected = F.cross_entropy(logits, labels) + sum(F.cross_entropy(each, domains) for each in told) / 2
    expected = expected + 2 * consistency_loss(logits[:5], logits[5:], 3.0)
    torch.testing.assert_close(loss, expected)
    assert not torch.equal(logits[:5], logits[5:])


def test_without_agreement_one_pass_is_made():
    model = made().double()
    sizes: list[int] = []
    model.model.register_forward_pre_hook(lambda _part, inputs: sizes.append(len(inputs[0])))
    domaindrop_loss(model, IMAGES, LABELS, DOMAINS, consistency=0.0)
    domaindrop_loss(model, IMAGES, LABELS, DOMAINS, consistency=0.1)
    assert sizes == [5, 10]


def test_one_place_drops_in_as_many_passes_as_it_should_and_what_the_scores_say():
    torch.manual_seed(0)
    model = made(drop=0.34, probability=0.6).double()
    counts = {(0, 0): 0, (2, 0): 0, (0, 1): 0}
    seen: dict[str, Tensor] = {}
    for name, inner in (("1", "2"), ("3", "4")):
        model.model.get_submodule(inner).register_forward_pre_hook(
            lambda _part, inputs, name=name: seen.__setitem__(name, inputs[0].detach())
        )
    hits = torch.zeros(6)
    for _ in range(600):
        model(IMAGES, DOMAINS)
        dropped = tuple((seen[name].flatten(2) == 0).all(2).sum(1) for name in PLACES)
        assert all((count == count[0]).all() for count in dropped)
        counts[dropped[0][0].item(), dropped[1][0].item()] += 1
        if dropped[0][0]:
            hits += (seen["1"][1].flatten(1) == 0).all(1)
            kept = seen["1"][1].flatten(1)
            plain = model.model[1](model.model[0](IMAGES[1:2]))[0].flatten(1)
            torch.testing.assert_close(kept[kept.any(1)], plain[kept.any(1)] * 6 / 4)
    assert counts[0, 0] / 600 == pytest.approx(0.4, abs=0.06)
    assert counts[2, 0] / 600 == pytest.approx(0.3, abs=0.06)
    weights = model.discriminators[0].weight.detach()[DOMAINS[1:2]]
    scores = domain_sensitivity(model.model[1](model.model[0](IMAGES[1:2])).detach(), weights)[0]
    assert hits[scores.argmin()] == 0
    assert hits.argmax() == scores.argmax()


def test_in_eval_mode_it_is_the_network():
    torch.manual_seed(0)
    model = made().double().eval()
    assert torch.equal(model(IMAGES), model.model(IMAGES))
    assert torch.equal(model(IMAGES, DOMAINS), model.model(IMAGES))
    state = torch.get_rng_state()
    model(IMAGES)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_does_not_fit_is_refused_and_no_hook_is_left():
    model = made().double()
    with pytest.raises(ValueError, match=r"domains must be int64 of shape \(5,\) in train mode, got none"):
        model(IMAGES)
    for images, domains in ((IMAGES, DOMAINS == 1), (IMAGES, DOMAINS.int()), (IMAGES[:0], DOMAINS[:0])):
        with pytest.raises(ValueError, match="domains must be int64 of shape"):
            model(images, domains)
    with pytest.raises(ValueError, match="'0' gives tuple"):
        DomainDrop(nn.Sequential(nn.LSTM(4, 6)), {"0": 6}, 3)(torch.zeros(5, 2, 4), DOMAINS)
    part = nn.Tanh()
    twice = DomainDrop(nn.Sequential(part, nn.Flatten(), nn.Linear(16, 6), part), {"0": 6}, 3).double()
    with pytest.raises(ValueError, match=r"'0' gives shape \(5, 1, 4, 4\)"):
        twice(IMAGES, DOMAINS)
    again = DomainDrop(nn.Sequential(part, nn.Linear(6, 6), part), {"0": 6}, 3).double()
    with pytest.raises(ValueError, match="called once in a pass, '0' is 2 times"):
        again(normal(5, 6), DOMAINS)
    for each in (twice, again):
        assert not any(child._forward_hooks for child in each.modules())


def test_vectors_tokens_copies_and_other_precisions():
    vectors = DomainDrop(
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)), {"0": 6}, 3, probability=1.0
    )
    for model in (
        vectors,
        copy.deepcopy(vectors),
        pickle.loads(pickle.dumps(vectors)),
        copy.deepcopy(vectors).bfloat16(),
    ):
        inputs = normal(5, 4).to(next(model.parameters()).dtype)
        loss = domaindrop_loss(model, inputs, LABELS, DOMAINS)
        loss.backward()
        assert loss.isfinite()
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert domaindrop_loss(model, inputs[:1], LABELS[:1], DOMAINS[:1]).isfinite()
    frozen = copy.deepcopy(vectors)
    frozen.model[0].weight.requires_grad_(False)
    frozen.zero_grad()
    domaindrop_loss(frozen, normal(5, 4).float(), LABELS, DOMAINS).backward()
    assert frozen.model[0].weight.grad is None


def test_styles_of_the_study():
    images = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    part = LabelledImages(images, torch.arange(12) % 2)
    data = Splits(part, part, part, ("a", "b"), (1, 6, 6))
    found = styled(data, "inverted", torch.Generator().manual_seed(0))
    assert torch.equal(found.data.test.images, 1 - images)
    assert found.domains.tolist() == [0, 1, 2] * 4
    assert torch.equal(found.data.train.images[::3], images[::3])
    assert torch.equal(found.data.train.images[2::3], in_style(images, "edges", torch.Generator())[2::3])
    edge = torch.zeros(1, 1, 3, 3)
    edge[..., 1, 1] = 0.5
    outlines = in_style(edge, "edges", torch.Generator())[0, 0]
    assert outlines[1, 1].item() == pytest.approx(0.5**0.5)
    assert (outlines[1, 2], outlines[2, 1], outlines[0, 0]) == (0.5, 0.5, 0.0)
    for style in STYLES:
        changed = in_style(images, style, torch.Generator())
        assert 0 <= changed.min() <= changed.max() <= 1


def test_channels_dropped_at_random_are_as_many():
    torch.manual_seed(0)
    model = RandomDrop(nn.Sequential(nn.Conv2d(1, 6, 1), nn.Identity()), ["0"], probability=1.0)
    assert ((model(IMAGES.float()).flatten(2) == 0).all(2).sum(1) == 1).all()
    assert not any(part._forward_hooks for part in model.modules())
    assert torch.equal(model.eval()(IMAGES.float()), model.model(IMAGES.float()))
