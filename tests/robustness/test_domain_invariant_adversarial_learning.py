"""DIAL against loops, TRADES and hand-made gradients: what reaches the features, and what the domain head learns."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.attacks import ProjectedGradient
from paperweight.loops import evaluate_classifier, fit_robust, own_predictions, trades_loss
from paperweight.nets import MLP
from paperweight.robustness.domain_invariant_adversarial_learning import (
    DomainInvariantNetwork,
    GradientReversal,
    dial_loss,
    reversal_ramp,
)
from paperweight.testing import FunctionSubject, LayerSubject, LossSubject

IMAGES = torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0))
ATTACKED = (IMAGES + 0.2 * torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def network(hidden=5, **given):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Tanh())
        return DomainInvariantNetwork(**{"features": features, "head": nn.Linear(4, 3), "hidden": hidden} | given)


def forward_gradient():
    """Give a network in eval mode whose reversal is the identity, so that finite differences apply."""
    model = network().eval()
    model.reversal.ratio = -1.0
    return model


def slow(model, images, attacked, labels, lam=6.0, domain_ratio=0.1, divergence=False):
    def shares(logits):
        return [math.exp(z - max(logits)) / sum(math.exp(w - max(logits)) for w in logits) for z in logits]

    total = 0.0
    for x, changed, label in zip(images.split(1), attacked.split(1), labels.tolist(), strict=True):
        h, g = model.features(x), model.features(changed)
        p, q = shares(model.head(h)[0].tolist()), shares(model.head(g)[0].tolist())
        total -= math.log(p[label])
        if divergence:
            total += lam * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        else:
            total -= lam * math.log(q[label])
        total -= domain_ratio * math.log(shares(model.domain(h)[0].tolist())[0])
        total -= domain_ratio * math.log(shares(model.domain(g)[0].tolist())[1])
    return total / len(images)


NOT_FINITE_DIFFERENCES = "the gradient is reversed on purpose"
NO_DOMAIN = "the domain head takes part in `domains` alone"
CONTRACT = {
    "GradientReversal": LayerSubject(
        make=GradientReversal,
        inputs=(torch.ones(3, 2),),
        shape=(3, 2),
        parameter_count=0,
        bad={"ratio": (-0.1, math.nan, math.inf, True)},
        expected_failures={"check_gradients": NOT_FINITE_DIFFERENCES},
    ),
    "DomainInvariantNetwork": LayerSubject(
        make=network,
        inputs=(IMAGES,),
        shape=(6, 3),
        parameter_count=9 * 4 + 4 + 4 * 3 + 3 + 4 * 5 + 5 + 2 * 5 + 5 * 2 + 2,
        bad={"hidden": (0, -1, 1.5, True), "head": (nn.ReLU(),)},
        expected_failures={"check_every_parameter_has_a_gradient": NO_DOMAIN},
    ),
    "dial_loss": LossSubject(
        make=partial(partial, dial_loss),
        inputs=(forward_gradient(), IMAGES, ATTACKED, LABELS),
        differentiable=(1, 2),
        slow=slow,
        bad={"lam": (-0.1, math.nan, math.inf, True), "domain_ratio": (-0.1, math.nan, math.inf, True)},
        null=partial(partial, dial_loss, domain_ratio=0.0, divergence=True),
        baseline=lambda: partial(trades_loss, lam=6.0),
    ),
    "reversal_ramp": FunctionSubject(
        make=reversal_ramp,
        arguments={"progress": 0.3},
        bad={
            "progress": (-0.1, math.nan, math.inf),
            "largest": (-0.1, math.nan, math.inf),
            "speed": (0.0, -1.0, math.nan, math.inf),
        },
    ),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("divergence", [False, True])
def test_it_is_a_loop_over_images(divergence):
    model = network().double().eval()
    given = (IMAGES.double(), ATTACKED.double(), LABELS)
    found = dial_loss(model, *given, lam=3.0, domain_ratio=0.7, divergence=divergence)
    assert found.item() == pytest.approx(slow(model, *given, 3.0, 0.7, divergence), rel=1e-12)


def test_without_domains_and_divergence_it_is_the_loss_on_both():
    model = network()
    expected = F.cross_entropy(model(IMAGES), LABELS) + 3 * F.cross_entropy(model(ATTACKED), LABELS)
    assert torch.equal(dial_loss(model, IMAGES, ATTACKED, LABELS, lam=3.0, domain_ratio=0.0), expected)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 2.0])
def test_features_get_the_opposite_of_the_gradient_that_the_domain_head_follows(ratio):
    model = network().double().eval()
    model.reversal.ratio = ratio
    given = (IMAGES.double(), ATTACKED.double(), LABELS)
    classes = {n: p for n, p in model.named_parameters() if n.startswith(("features", "head"))}
    domains = {n: p for n, p in model.named_parameters() if n.startswith("domain")}

    def gradients(loss, of):
        found = torch.autograd.grad(loss, list(of.values()), allow_unused=True)
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(of.items(), found, strict=True)}

    def told():
        one, other = (model.domain(model.features(x)) for x in given[:2])
        return 0.5 * (
            F.cross_entropy(one, torch.zeros(6, dtype=torch.int64))
            + F.cross_entropy(other, torch.ones(6, dtype=torch.int64))
        )

    loss = partial(dial_loss, model, *given, domain_ratio=0.5)
    found = gradients(loss(), classes)
    without, domain = gradients(dial_loss(model, *given, domain_ratio=0.0), classes), gradients(told(), classes)
    assert domain["features.1.weight"].abs().max() > 1e-4
    for name in classes:
        torch.testing.assert_close(found[name], without[name] - ratio * domain[name])
    for name, gradient in gradients(loss(), domains).items():
        torch.testing.assert_close(gradient, gradients(told(), domains)[name])


def test_ramp_is_the_formula_of_the_code():
    for progress in (0.0, 0.05, 0.5, 1.0, 3.0):
        assert reversal_ramp(progress) == pytest.approx(2 / (1 + math.exp(-10 * progress)) - 1, abs=1e-15)
        expected = 0.3 * (2 / (1 + math.exp(-4 * progress)) - 1)
        assert reversal_ramp(progress, largest=0.3, speed=4.0) == pytest.approx(expected, abs=1e-15)
    assert reversal_ramp(1e9) == 1


def fitted(model, loss, attack_labels=own_predictions):
    images = torch.rand(40, 1, 3, 3, generator=seeded(1))
    labels = images.flatten(1)[:, :3].argmax(dim=1)
    fit_robust(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        images,
        labels,
        attack=ProjectedGradient(radius=0.1, steps=2, keep_going=True),
        steps=7,
        batch_size=8,
        generator=seeded(),
        loss=loss,
        attack_labels=attack_labels,
    )
    return model


def test_training_without_domains_is_trades_bit_for_bit_and_with_them_another():
    plain = network()
    plain = fitted(nn.Sequential(plain.features, plain.head), trades_loss)
    for ratio, same in ((0.0, True), (0.5, False)):
        model = fitted(network(), partial(dial_loss, domain_ratio=ratio, divergence=True))
        pairs = zip(nn.Sequential(model.features, model.head).parameters(), plain.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs) == same


def test_a_reversal_of_0_trains_the_domain_head_alone():
    model = network()
    before = copy.deepcopy(model.state_dict())
    model.reversal.ratio = 0.0
    fitted(model, partial(dial_loss, domain_ratio=0.5, divergence=True))
    plain = fitted(network(), partial(dial_loss, domain_ratio=0.0, divergence=True))
    for name, found in model.state_dict().items():
        if name.startswith("domain"):
            assert not torch.equal(found, before[name])
        else:
            torch.testing.assert_close(found, plain.state_dict()[name])


def trained(together, ratio):
    """Train where domain 0 has the second entry near 0 and domain 1 near 1.

    Give how well the domain head tells, and by how many standard deviations the mean features differ.
    """
    images = torch.rand(200, 2, generator=seeded())
    labels = (images[:, 0] > 0.5).long()
    images[:, 1] *= 0.2
    attacked = images + torch.tensor([0.0, 0.8])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DomainInvariantNetwork(nn.Linear(2, 4), nn.Linear(4, 2), hidden=16)
    model.reversal.ratio = ratio
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        dial_loss(model, images, attacked, labels, lam=1.0, domain_ratio=1.0, together=together).backward()
        optimizer.step()
    assert evaluate_classifier(model, images, labels).accuracy > 0.9
    with torch.no_grad():  # in train mode, as the domain head learned
        rows = [model.features(x) for x in (images, attacked)]
        logits = model.domains(torch.cat(rows)).split(200) if together else [model.domains(row) for row in rows]
    right = torch.cat([each.argmax(dim=1) == number for number, each in enumerate(logits)])
    gap = (rows[1].mean(0) - rows[0].mean(0)).norm() / rows[0].std(0).norm()
    return right.double().mean().item(), gap.item()


def test_behind_the_reversal_features_hide_the_domain():
    (told, shown), (_, hidden) = trained(together=True, ratio=0.0), trained(together=True, ratio=1.0)
    assert told > 0.95
    assert hidden < 0.7 * shown


def test_one_after_the_other_the_domain_head_sees_no_difference_of_means():
    assert trained(together=False, ratio=0.0)[0] < 0.6


@pytest.mark.parametrize("together", [False, True])
def test_in_train_mode_the_domain_head_normalises_each_or_both_at_once(together):
    model = network().train()
    found = dial_loss(model, IMAGES, ATTACKED, LABELS, lam=0.0, domain_ratio=1.0, together=together)
    rows = [network().features(x) for x in (IMAGES, ATTACKED)]
    logits = []
    for batch in [torch.cat(rows)] if together else rows:
        hidden = network().domain[0](batch)
        hidden = ((hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()).relu()
        logits.append(network().domain[3](hidden))
    first, second = torch.cat(logits).split(6)
    domain = F.cross_entropy(first, torch.zeros(6).long()) + F.cross_entropy(second, torch.ones(6).long())
    torch.testing.assert_close(found, F.cross_entropy(network()(IMAGES), LABELS) + domain)


def test_called_as_it_is_it_gives_the_logits_in_both_modes_and_leaves_the_domain_head():
    model = network()
    before = copy.deepcopy(model.domain.state_dict())
    for training in (True, False):
        model.train(training)
        assert torch.equal(model(IMAGES), model.head(model.features(IMAGES)))
        assert model(IMAGES[:1]).shape == (1, 3)
    assert all(torch.equal(value, before[name]) for name, value in model.domain.state_dict().items())


def test_the_head_shares_its_weights_with_the_classifier_that_was_given():
    mlp = MLP((1, 3, 3), 3, hidden=(4,)).double()
    model = DomainInvariantNetwork(mlp.body, mlp.head)
    assert model.domain[0].weight.dtype == torch.float64
    assert torch.equal(model(IMAGES.double()), mlp(IMAGES.double()))
    assert model.head.weight is mlp.head.weight


def test_copies_and_states_go_on_alike():
    model = network()
    other = network()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    for each in (copy.deepcopy(model), other):
        assert torch.equal(
            dial_loss(each.train(), IMAGES, ATTACKED, LABELS), dial_loss(network().train(), IMAGES, ATTACKED, LABELS)
        )
