"""JointVAE: divergences in closed form and by drawing, the loss by hand and at capacity, samples by counting, codes."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Normal, kl_divergence

from paperweight.representation import _vae
from paperweight.representation.joint_vae import (
    JointVAE,
    Reconstruction,
    discrete_kl,
    gumbel_softmax,
    joint_vae_loss,
    traverse,
)
from paperweight.testing import FunctionSubject, LayerSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def images(*shape: int, seed: int = 5) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed))


def output(batch: int = 4) -> Reconstruction:
    classes = (normal(batch, 3, seed=3), normal(batch, 2, seed=4))
    return Reconstruction(normal(batch, 6), normal(batch, 2, seed=1), normal(batch, 2, seed=2), classes)


def linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.copy_(normal(outputs, inputs, seed=seed))
        layer.bias.copy_(normal(outputs, seed=seed + 1))
    return layer


def small(discrete=(3, 2), continuous=2, temperature=0.67, generator=None) -> JointVAE:
    sizes = [size for size in discrete if isinstance(size, int)]
    codes = (continuous if isinstance(continuous, int) else 0) + sum(sizes)
    given = max(1, codes + (continuous if isinstance(continuous, int) else 0))
    encoder, decoder = linear(6, given, 7), linear(max(1, codes), 6, 9)
    return JointVAE(encoder, decoder, continuous, discrete, temperature, generator)


class Plain(nn.Module):
    """A variational autoencoder as it is in a textbook."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = linear(6, 4, 7), linear(2, 6, 9)

    def forward(self, x: Tensor) -> Reconstruction:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        code = mean
        if self.training:
            code = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape).to(mean)
        return Reconstruction(self.decoder(code), mean, log_variance, ())


def elbo(output, images, step, gamma=1.0, continuous_capacity=0.0, discrete_capacity=0.0, steps=1):
    """Compute the negative evidence lower bound from torch's own divergences and likelihood."""
    likelihood = F.binary_cross_entropy_with_logits(output.pixels, images, reduction="none").sum(dim=1).mean()
    prior = Normal(torch.zeros_like(output.mean), 1.0)
    divergence = kl_divergence(Normal(output.mean, (0.5 * output.log_variance).exp()), prior).sum(dim=1).mean()
    for logits in output.classes:
        divergence = divergence + kl_divergence(Categorical(logits=logits), Categorical(logits=0 * logits)).mean()
    return likelihood + gamma * divergence


def weighed(output, images, step):
    """Compute the loss of beta-VAE with beta = 1 in the order of the method, without capacities."""
    loss = _vae.pixel_loss(output.pixels, images).mean()
    loss = loss + _vae.gaussian_kl(output.mean, output.log_variance).sum(dim=1).mean()
    return loss + sum(discrete_kl(logits) for logits in output.classes).mean()


NUMBERS = (-1.0, math.nan, math.inf, True, "1")

CONTRACT = {
    "JointVAE": LayerSubject(
        make=small,
        inputs=(images(5, 6),),
        shape=((5, 6), (5, 2), (5, 2), (5, 3), (5, 2)),
        parameter_count=6 * 9 + 9 + 7 * 6 + 6,
        bad={
            "continuous": (-1, 1.5, True),
            "discrete": ((1,), (3, 0), (2.0,), (True, 2)),
            "temperature": (0.0, *NUMBERS),
        },
        null=partial(small, discrete=()),
        baseline=Plain,
    ),
    "discrete_kl": FunctionSubject(
        make=discrete_kl,
        arguments={"logits": normal(4, 3)},
        bad={"logits": (normal(4), normal(0, 3), normal(4, 0), torch.ones(2, 3, dtype=torch.int64))},
    ),
    "gumbel_softmax": FunctionSubject(
        make=lambda logits, temperature=0.67, seed=0: gumbel_softmax(logits, temperature, seeded(seed)),
        arguments={"logits": normal(4, 3)},
        bad={"logits": (normal(4), normal(0, 3), normal(4, 0)), "temperature": (0.0, *NUMBERS)},
    ),
    "joint_vae_loss": FunctionSubject(
        make=joint_vae_loss,
        arguments={"output": output(), "images": images(4, 6), "step": 3, "steps": 10},
        bad={
            "images": (
                images(3, 6),
                images(4, 5),
                images(24),
                images(4, 6) + 1,
                -images(4, 6),
                images(4, 6).round().long(),
                images(4, 6) * math.nan,
            ),
            "step": (-1, 0.5, True),
            "steps": (0, -1, 2.0, True),
            "gamma": NUMBERS,
            "continuous_capacity": NUMBERS,
            "discrete_capacity": NUMBERS,
        },
        null=lambda output, images, step, steps: joint_vae_loss(output, images, step, 1.0, 0.0, 0.0, steps),
        baseline=lambda output, images, step, steps: weighed(output, images, step),
    ),
    "traverse": FunctionSubject(
        make=traverse,
        arguments={"model": small(), "images": images(4, 6), "latent": 1},
        bad={"latent": (-1, 4, 1.0, True), "values": ((),)},
    ),
}


def test_divergences_have_closed_forms():
    mean, log_variance = normal(5, 3).double(), normal(5, 3, seed=1).double()
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(torch.zeros(5, 3).double(), 1.0))
    torch.testing.assert_close(_vae.gaussian_kl(mean, log_variance), expected, rtol=1e-12, atol=1e-12)
    assert not _vae.gaussian_kl(torch.zeros(2, 2), torch.zeros(2, 2)).any()
    # A tiny divergence is not lost among numbers of size 1.
    tiny = _vae.gaussian_kl(torch.zeros(1), torch.tensor([1e-3]))
    assert tiny.item() == pytest.approx(1e-6 / 4, rel=1e-3)
    for classes in (2, 3, 10):
        certain = 1e4 * F.one_hot(torch.arange(classes)).float()
        torch.testing.assert_close(discrete_kl(certain), torch.full((classes,), math.log(classes)))
        assert discrete_kl(torch.full((2, classes), 7.0)).abs().max() < 1e-6
    half = torch.tensor([[0.5, 0.5, 1e-30]]).log()
    assert discrete_kl(half).item() == pytest.approx(math.log(3) - math.log(2), rel=1e-6)


def test_the_loss_without_capacities_is_the_evidence_lower_bound():
    given, shown = output(), images(4, 6)
    given = Reconstruction(*(part.double() for part in given[:3]), tuple(each.double() for each in given.classes))
    for gamma in (1.0, 4.0):
        loss = joint_vae_loss(given, shown.double(), 7, gamma, 0.0, 0.0, 5)
        assert loss.item() == pytest.approx(elbo(given, shown.double(), 0, gamma).item(), rel=1e-10)


def test_the_loss_by_hand_while_capacities_grow():
    # Means of 2 and a variance of 1: 2 nats. One of three classes is certain, and of two both are as likely.
    certain = torch.tensor([[900.0, 0.0, 0.0]])
    given = Reconstruction(torch.zeros(1, 5), torch.tensor([[2.0]]), torch.zeros(1, 1), (certain, torch.zeros(1, 2)))
    pixels, most = 5 * math.log(2), math.log(3)

    def loss(step: int, continuous: float, discrete: float) -> float:
        return joint_vae_loss(given, torch.ones(1, 5), step, 10.0, continuous, discrete, 4).item()

    assert loss(0, 9.0, 9.0) == pytest.approx(pixels + 10 * (2 + most))
    assert loss(1, 4.0, 0.4) == pytest.approx(pixels + 10 * (1 + most - 0.1))
    assert loss(2, 4.0, 0.0) == pytest.approx(pixels + 10 * most)
    assert loss(3, 4.0, 0.0) == pytest.approx(pixels + 10 * (1 + most))
    assert loss(9, 3.0, 0.0) == loss(4, 3.0, 0.0) == pytest.approx(pixels + 10 * (1 + most))
    # Both divergences at their capacities: what is left is the reconstruction.
    assert loss(4, 2.0, most) == pytest.approx(pixels)
    # More than log 3 + log 2 is not asked for.
    assert loss(4, 2.0, 50.0) == loss(2, 4.0, 50.0) == pytest.approx(pixels + 10 * math.log(2))


def test_the_loss_of_one_kind_of_latents_and_its_gradient():
    mean, zero = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.zeros(1, 2)
    given = Reconstruction(torch.zeros(1, 4), mean, zero, ())
    loss = joint_vae_loss(given, torch.zeros(1, 4), 1, 3.0, 2.0, 5.0, 1)
    assert loss.item() == pytest.approx(4 * math.log(2) + 3 * 1.5)
    (slope,) = torch.autograd.grad(loss, mean)
    assert slope.tolist() == [[-3.0, 0.0]]  # below capacity the divergence is pushed up
    empty = torch.zeros(2, 0)
    alone = joint_vae_loss(Reconstruction(torch.zeros(2, 4), empty, empty, (torch.zeros(2, 3),)), torch.zeros(2, 4), 1)
    assert alone.item() == pytest.approx(4 * math.log(2) + 30 * 5 / 25_000, rel=1e-6)


def test_samples_have_the_law_of_the_latents():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().repeat(20_000, 1)
    for temperature in (0.1, 0.67, 5.0):
        drawn = gumbel_softmax(logits, temperature, seeded(1))
        torch.testing.assert_close(drawn.sum(dim=1), torch.ones(20_000))
        share = torch.bincount(drawn.argmax(dim=1), minlength=3) / 20_000
        assert (share - torch.tensor([0.5, 0.3, 0.2])).abs().max() < 4 * (0.25 / 20_000) ** 0.5
    sure = [gumbel_softmax(logits, each, seeded(1)).amax(dim=1).mean().item() for each in (0.01, 0.67, 50.0)]
    assert sure[0] > 0.99
    assert sure[0] > sure[1] > sure[2]
    assert sure[2] == pytest.approx(1 / 3, abs=0.02)
    # Two classes: the first entry is sigmoid((difference of logits + a logistic draw) / temperature).
    two = gumbel_softmax(torch.tensor([[1.0, 0.0]]).repeat(20_000, 1), 0.5, seeded(2))[:, 0]
    law = torch.special.expit((torch.rand(20_000, generator=seeded(3)).logit() + 1) / 0.5)
    assert (two.sort().values - law.sort().values).abs().max() < 0.03
    drawn = _vae.gaussian_sample(torch.full((50_000,), 3.0), torch.full((50_000,), math.log(4.0)), seeded())
    assert drawn.mean().item() == pytest.approx(3, abs=4 * 2 / 50_000**0.5)
    assert drawn.std().item() == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits_give_finite_samples_divergences_and_gradients(dtype):
    logits = torch.tensor([[6e4, -6e4, 0.0], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    drawn, divergence = gumbel_softmax(logits, 0.5, seeded()), discrete_kl(logits)
    assert drawn.dtype == divergence.dtype == dtype
    assert drawn.isfinite().all()
    assert divergence.isfinite().all()
    (drawn.square().sum() + divergence.sum()).backward()
    assert logits.grad.isfinite().all()


def test_codes_are_samples_in_training_and_the_likeliest_in_evaluation():
    model = JointVAE(nn.Identity(), nn.Identity(), 1, (2, 3), generator=seeded())
    given = torch.tensor([[3.0, -100.0, 1.0, 2.0, 5.0, 4.0, 0.0], [-1.0, -100.0, 9.0, 2.0, 0.0, 4.0, 6.0]])
    code, mean, log_variance, classes = model.eval()(given)
    assert code.tolist() == [[3, 0, 1, 1, 0, 0], [-1, 1, 0, 0, 0, 1]]
    assert (mean.tolist(), log_variance.tolist()) == ([[3.0], [-1.0]], [[-100.0], [-100.0]])
    assert [each.tolist() for each in classes] == [[[1, 2], [9, 2]], [[5, 4, 0], [0, 4, 6]]]
    code = model.train()(given).pixels
    assert code[:, 0].tolist() == [3.0, -1.0]
    torch.testing.assert_close(code[:, 1:3].sum(dim=1), torch.ones(2))
    torch.testing.assert_close(code[:, 3:].sum(dim=1), torch.ones(2))
    assert ((code[:, 1:] > 0) & (code[:, 1:] < 1)).any()
    hot = JointVAE(nn.Identity(), nn.Identity(), 0, (3,), temperature=1e-3, generator=seeded()).train()
    assert hot(torch.zeros(50, 3)).pixels.amax(dim=1).mean() > 0.95
    with pytest.raises(ValueError, match=r"encoder must give \(N, 7\), it gives \(2, 6\)"):
        model(given[:, :6])
    with pytest.raises(ValueError, match="continuous must be at least 1 where discrete is empty"):
        JointVAE(nn.Identity(), nn.Identity(), 0, ())


def test_draws_come_from_the_generator_of_the_model():
    first, second = (small(generator=seeded(3)).train() for _ in range(2))
    x = images(4, 6)
    torch.manual_seed(0)
    given = first(x).pixels
    torch.manual_seed(1)
    assert torch.equal(second(x).pixels, given)
    assert not torch.equal(first(x).pixels, given)
    copied = copy.deepcopy(first)
    assert torch.equal(copied(x).pixels, first(x).pixels)
    whole = pickle.loads(pickle.dumps(small(generator=None).eval()))
    assert torch.equal(whole(x).pixels, small().eval()(x).pixels)
    doubled = copy.deepcopy(whole).double()
    torch.testing.assert_close(doubled(x.double()).pixels.float(), whole(x).pixels)


@pytest.mark.parametrize("training", [True, False])
def test_traversals_change_one_latent_alone(training):
    model = JointVAE(nn.Dropout(0.9), nn.Identity(), 2, (3,), generator=seeded()).train(training)
    given = torch.tensor([[0.5, -0.5, 9.0, 9.0, 0.0, 3.0, 1.0]])
    shown = traverse(model, given, 1, values=(-3.0, 4.0))
    assert shown.shape == (1, 2, 5)
    codes = shown.logit().round(decimals=4)
    assert codes[0].tolist() == [[0.5, -3.0, 0.0, 1.0, 0.0], [0.5, 4.0, 0.0, 1.0, 0.0]]
    classes = traverse(model, given, 2).logit().round(decimals=4)[0]
    assert classes.tolist() == [[0.5, -0.5, *row] for row in torch.eye(3).tolist()]
    assert not shown.requires_grad
    assert model.training is training


def test_two_kinds_of_images_fall_into_two_classes():
    """Bars that stand or lie, at any brightness: the kind is the class, and brightness is left to the Gaussian."""
    kinds = torch.arange(2).repeat(100)
    standing = torch.tensor([[0.0, 1.0, 0.0] * 3, [0.0] * 3 + [1.0] * 3 + [0.0] * 3])
    shown = standing[kinds] * (0.3 + 0.7 * torch.rand(200, 1, generator=seeded(8)))
    model = JointVAE(linear(9, 4, 1), linear(3, 9, 3), 1, (2,), generator=seeded())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(300):
        optimizer.zero_grad()
        joint_vae_loss(model(shown), shown, step, 2.0, 1.0, 5.0, steps=600).backward()
        optimizer.step()
    found = model.eval()(shown).classes[0].argmax(dim=1)
    assert max((found == kinds).sum().item(), (found != kinds).sum().item()) == 200


def test_traversal_without_continuous_latents_changes_the_one_that_is_asked_for():
    torch.manual_seed(0)
    model = JointVAE(nn.Linear(4, 5), nn.Linear(5, 4), continuous=0, discrete=[2, 3])
    images = torch.rand(3, 4)
    with torch.no_grad():
        codes = [F.one_hot(each.argmax(dim=1), each.shape[1]).float() for each in model.encode(images)[2]]
        for latent, classes in ((0, 2), (1, 3)):
            shown = traverse(model, images, latent)
            assert shown.shape == (3, classes, 4)
            for value in range(classes):
                changed = list(codes)
                changed[latent] = torch.eye(classes)[value].expand(3, -1)
                assert torch.allclose(shown[:, value], model.decoder(torch.cat(changed, dim=1)).sigmoid())
    with pytest.raises(ValueError, match=r"discrete must hold numbers of classes, got 10; give \(10,\)"):
        JointVAE(nn.Linear(4, 5), nn.Linear(5, 4), discrete=10)
