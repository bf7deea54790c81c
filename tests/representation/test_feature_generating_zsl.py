"""Feature generating networks: losses by hand and by finite slopes, features class by class, accuracies by loops."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.representation.feature_generating_zsl import (
    FeatureCritic,
    FeatureGenerator,
    feature_critic_loss,
    feature_generator_loss,
    generalised_accuracy,
    synthesise_features,
)
from paperweight.testing import FunctionSubject, LayerSubject, MetricSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


class Sloped(nn.Module):
    """A critic that is linear in features, and adds what it has of attributes."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, features: Tensor, attributes: Tensor) -> Tensor:
        return features @ self.weight + attributes.sum(dim=1)


def networks() -> tuple[FeatureGenerator, FeatureCritic, nn.Linear]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FeatureGenerator(3, 2, 4, 8), FeatureCritic(3, 4, 8), nn.Linear(4, 5)


MODEL, CRITIC, CLASSIFIER = networks()
REAL, FAKE, TOLD = normal(6, 4), normal(6, 4, seed=1), normal(6, 3, seed=2)
LABELS = torch.tensor([0, 4, 2, 2, 1, 0])
BAD_TOLD = (TOLD[:5], TOLD[0], TOLD[:, :0])


def of_critic(lam=10.0, seed=0, **given):
    arguments = {"critic": CRITIC, "real": REAL, "fake": FAKE, "attributes": TOLD, **given}
    return feature_critic_loss(lam=lam, generator=seeded(seed), **arguments)


CONTRACT = {
    "FeatureGenerator": LayerSubject(
        make=lambda attributes=3, noise=2, features=4, hidden=8: FeatureGenerator(attributes, noise, features, hidden),
        inputs=(normal(5, 2), normal(5, 3)),
        shape=(5, 4),
        parameter_count=6 * 8 + 9 * 4,
        bad=dict.fromkeys(("attributes", "noise", "features", "hidden"), (0, -1, 1.5, True)),
    ),
    "FeatureCritic": LayerSubject(
        make=lambda attributes=3, features=4, hidden=8: FeatureCritic(attributes, features, hidden),
        inputs=(normal(5, 4), normal(5, 3)),
        shape=(5,),
        parameter_count=8 * 8 + 9,
        bad=dict.fromkeys(("attributes", "features", "hidden"), (0, -1, 1.5, True)),
    ),
    "feature_critic_loss": FunctionSubject(
        make=of_critic,
        arguments={},
        bad={
            "real": (REAL[0], REAL[:0], REAL[:5]),
            "fake": (FAKE[0], FAKE[:, :3]),
            "attributes": BAD_TOLD,
            "lam": (-1.0, math.nan, math.inf),
        },
    ),
    "feature_generator_loss": FunctionSubject(
        make=feature_generator_loss,
        arguments={"critic": CRITIC, "classifier": CLASSIFIER, "fake": FAKE, "attributes": TOLD, "labels": LABELS},
        bad={
            "fake": (FAKE[0], FAKE[:0]),
            "attributes": BAD_TOLD,
            "labels": (LABELS[:3], LABELS.float()),
            "beta": (-1.0, math.nan, math.inf),
        },
        null=partial(feature_generator_loss, beta=0.0),
        baseline=lambda critic, classifier, fake, attributes, labels: -critic(fake, attributes).mean(),
    ),
    "synthesise_features": FunctionSubject(
        make=lambda seed=0, **given: synthesise_features(MODEL, generator=seeded(seed), **given),
        arguments={"attributes": TOLD[:2], "count": 3},
        bad={"attributes": (TOLD[0], TOLD[:0]), "count": (0, -1, 1.5, True)},
    ),
    "generalised_accuracy": MetricSubject(
        make=lambda **given: (
            lambda *inputs: generalised_accuracy(
                **{**dict(zip(("predictions", "labels", "unseen"), inputs, strict=True)), **given}
            )
        ),
        inputs=(torch.tensor([0, 1, 2, 3, 3]), torch.tensor([0, 0, 2, 3, 2]), torch.tensor([2, 3])),
        known=(
            ((torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]), torch.tensor([2])), (1.0, 1.0, 1.0)),
            ((torch.tensor([0, 1, 0]), torch.tensor([0, 1, 2]), torch.tensor([2])), (1.0, 0.0, 0.0)),
            ((torch.tensor([1, 0, 0]), torch.tensor([0, 1, 2]), torch.tensor([2])), (0.0, 0.0, 0.0)),
            # Two of three images of class 0 and none of class 1; one of two of class 2.
            (
                (torch.tensor([0, 0, 9, 9, 2, 0]), torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([2, 7])),
                (1 / 3, 0.5, 0.4),
            ),
        ),
        range=(0, 1),
        symmetries={"another order": lambda predictions, labels, unseen: (predictions.flip(0), labels.flip(0), unseen)},
        bad={
            "predictions": (torch.zeros(5), torch.zeros(4, dtype=torch.int64)),
            "labels": (torch.zeros(5), torch.zeros(5, dtype=torch.int64), torch.full((5,), 3)),
            "unseen": (torch.tensor([2.0]), torch.tensor(2)),
        },
    ),
}


def test_the_loss_of_a_critic_of_constant_slope_by_hand():
    critic = Sloped(torch.tensor([0.0, 3.0, 4.0, 0.0]))
    apart = ((FAKE - REAL) @ critic.weight.detach()).mean().item()
    for lam in (0.0, 0.5, 10.0):
        assert of_critic(lam, critic=critic).item() == pytest.approx(apart + lam * 16, rel=1e-5)
    of_critic(0.5, critic=critic).backward()
    expected = (FAKE - REAL).mean(dim=0) + 2 * 0.5 * 4 * critic.weight.detach() / 5
    torch.testing.assert_close(critic.weight.grad, expected)
    # A slope of 1 costs nothing.
    flat = Sloped(torch.tensor([0.6, 0.8, 0.0, 0.0]))
    assert of_critic(critic=flat).item() == pytest.approx(
        ((FAKE - REAL) @ flat.weight.detach()).mean().item(), rel=1e-5
    )
    # One without a slope is penalised by lam, and stays finite.
    none = Sloped(torch.zeros(4))
    loss = of_critic(critic=none)
    loss.backward()
    assert loss.item() == pytest.approx(10)
    assert none.weight.grad.isfinite().all()


def test_slopes_are_those_between_a_real_and_a_generated_feature_with_the_attributes_of_its_class():
    share = torch.rand(6, 1, generator=seeded(3))
    between, step = (share * REAL + (1 - share) * FAKE).double(), 1e-5
    steep = copy.deepcopy(CRITIC)
    with torch.no_grad():
        for parameter in steep.parameters():
            parameter.mul_(40)
    critic, told = copy.deepcopy(steep).double(), TOLD.double()
    slopes = torch.stack(
        [
            (critic(between + step * e, told) - critic(between - step * e, told)).detach() / (2 * step)
            for e in torch.eye(4).double()
        ]
    )
    penalty = (slopes.norm(dim=0) - 1).square().mean().item()
    apart = (critic(FAKE.double(), told).mean() - critic(REAL.double(), told).mean()).item()
    assert of_critic(7.0, seed=3, critic=steep).item() == pytest.approx(apart + 7 * penalty, rel=1e-4)


def test_gradients_of_the_critics_loss_reach_the_critic_alone_even_where_gradients_are_off():
    real, fake, told = (given.clone().requires_grad_() for given in (REAL, FAKE, TOLD))
    with torch.no_grad():
        loss = of_critic(real=real, fake=fake)
    critic = copy.deepcopy(CRITIC)
    of_critic(critic=critic, real=real, fake=fake).backward()
    assert loss.requires_grad
    assert real.grad is None
    assert fake.grad is None
    assert told.grad is None
    assert all(p.grad is not None and p.grad.any() for p in (critic.layers[0].weight, critic.layers[2].weight))


def test_the_generators_loss_is_the_critics_score_and_the_cross_entropy():
    fake, classifier = FAKE.clone().requires_grad_(), copy.deepcopy(CLASSIFIER)
    loss = feature_generator_loss(CRITIC, classifier, fake, TOLD, LABELS, beta=0.3)
    expected = -CRITIC(FAKE, TOLD).mean() + 0.3 * F.cross_entropy(CLASSIFIER(FAKE), LABELS)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert fake.grad.any()
    assert all(p.grad is None and p.requires_grad for p in classifier.parameters())


def test_networks_start_as_the_paper_has_it_and_features_are_not_negative():
    model = FeatureGenerator(20, 20, 50)
    assert model.hidden == FeatureCritic(2, 3).hidden == 4096
    first, last = model.layers[0], model.layers[2]
    assert first.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert last.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not first.bias.any()
    assert not last.bias.any()
    given = normal(9, 2), normal(9, 3, seed=1)
    hidden = F.linear(torch.cat(given, dim=1), MODEL.layers[0].weight, MODEL.layers[0].bias)
    hidden = hidden.where(hidden > 0, 0.2 * hidden)
    expected = (hidden @ MODEL.layers[2].weight.T + MODEL.layers[2].bias).clamp(min=0)
    torch.testing.assert_close(MODEL(*given), expected)
    scores = CRITIC(REAL, TOLD)
    assert scores.shape == (6,)
    assert scores.min() < 0 or scores.max() > 0


def test_features_are_made_class_by_class_of_standard_normal_noise():
    class Echo(nn.Module):
        noise = 2

        def forward(self, latent: Tensor, attributes: Tensor) -> Tensor:
            return torch.cat([latent, attributes], dim=1)

    features, labels = synthesise_features(Echo(), torch.eye(3), count=2_000, generator=seeded())
    assert labels.tolist() == [0] * 2_000 + [1] * 2_000 + [2] * 2_000
    assert torch.equal(features[:, 2:], torch.eye(3)[labels])
    assert features[:, :2].mean().item() == pytest.approx(0, abs=0.04)
    assert features[:, :2].std().item() == pytest.approx(1, abs=0.04)
    more = synthesise_features(MODEL, TOLD, 3, generator=seeded())[0]
    assert not more.requires_grad
    assert not torch.equal(more, synthesise_features(MODEL, TOLD, 3, generator=seeded(1))[0])


def test_attributes_must_be_floating():
    with pytest.raises(ValueError, match="attributes must be floating"):
        synthesise_features(FeatureGenerator(2, 3, 4, hidden=5), torch.eye(2).long(), generator=torch.Generator())
