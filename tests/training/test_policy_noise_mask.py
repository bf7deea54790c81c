"""Policy noise masks against torch's Beta distributions, exact gradients, and the update written out."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.nets import LeNet
from paperweight.studies.training.policy_noise_mask import RECIPE
from paperweight.testing import FunctionSubject, LayerSubject, PlainTraining, TrainingProcedureSubject
from paperweight.training._beta_masks import draw_mask, enlarged_mask, mask_log_density
from paperweight.training.policy_noise_mask import (
    MaskPolicy,
    PolicyNoiseMask,
    score_objective,
    summed_density_objective,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


class Constant(nn.Module):
    """A policy whose laws do not depend on the image."""

    def __init__(self, log_alpha: Tensor, log_beta: Tensor) -> None:
        super().__init__()
        self.log_alpha, self.log_beta = nn.Parameter(log_alpha), nn.Parameter(log_beta)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_alpha.expand(len(images), -1), self.log_beta.expand(len(images), -1)


def made(model: nn.Module, data: tuple[Tensor, ...] = (), *, generator: torch.Generator, **given) -> PolicyNoiseMask:
    like = next(model.parameters())
    policy = MaskPolicy(nn.Flatten(), features=16, grid=2).to(like)
    arguments = {
        "policy": policy,
        "policy_optimizer": torch.optim.SGD(policy.parameters(), lr=0.01, momentum=0.9),
        "kernel": 3,
        "sigma": 1.0,
        **given,
    }
    return PolicyNoiseMask(model, torch.optim.SGD(model.parameters(), lr=0.1), **arguments, generator=generator)


def without(model: nn.Module, data: tuple[Tensor, ...], *, generator: torch.Generator) -> PolicyNoiseMask:
    return made(model, generator=generator, policy=None, policy_optimizer=None)


class Wrong(nn.Module):
    """Gives a number of cells that is no square."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.new_zeros(len(images), 3), images.new_zeros(len(images), 3)


DENSITIES, LOSSES = normal(4, 3), normal(4, seed=1).square()

CONTRACT = {
    "PolicyNoiseMask": TrainingProcedureSubject(
        make=made,
        evaluations=8 * 8,
        random=True,
        bad={
            "objective": ("", "reinforce"),
            "kernel": (0, 2, 3.0, True),
            "sigma": (0.0, -1.0, math.nan, math.inf),
            "policy": (Wrong(),),
        },
        null=without,
        baseline=lambda model, data, generator: PlainTraining(model, lr=0.1),
    ),
    "MaskPolicy": LayerSubject(
        make=lambda features=16, grid=3, decay=0.9, base_decay=0.99: MaskPolicy(
            nn.Flatten(), features, grid, decay, base_decay
        ),
        inputs=(normal(4, 1, 4, 4).float(),),
        shape=((4, 9), (4, 9)),
        parameter_count=2 * (2 * (16 * 16 + 16 + 2 * 16) + 16 * 9 + 9),
        bad={
            "features": (0, -1, 2.0, True),
            "grid": (0, -1, 2.0, True),
            "decay": (-0.1, 1.1, math.nan),
            "base_decay": (-0.1, 1.1, math.nan),
        },
    ),
    "summed_density_objective": FunctionSubject(
        make=summed_density_objective,
        arguments={"log_density": DENSITIES, "losses": LOSSES},
        bad={"losses": (LOSSES[:3], LOSSES[:0], LOSSES[:, None]), "log_density": (DENSITIES[0], DENSITIES[:, :0])},
    ),
    "score_objective": FunctionSubject(
        make=score_objective,
        arguments={"log_density": DENSITIES, "losses": LOSSES},
        bad={"losses": (LOSSES[:3], LOSSES[:0], LOSSES[:, None]), "log_density": (DENSITIES[0], DENSITIES[:, :0])},
    ),
}


def test_log_densities_are_those_of_torch():
    log_alpha, log_beta = normal(5, 4), normal(5, 4, seed=1)
    mask = torch.rand(5, 4, generator=seeded(2), dtype=torch.float64)
    expected = torch.distributions.Beta(log_alpha.exp(), log_beta.exp()).log_prob(mask)
    torch.testing.assert_close(mask_log_density(mask, log_alpha, log_beta), expected)


def test_samples_have_mean_and_variance_of_their_law_and_stay_off_the_ends():
    log_alpha, log_beta = torch.tensor([[0.0, 1.0, -1.0]]), torch.tensor([[0.0, -1.0, 0.5]])
    drawn = draw_mask(log_alpha.expand(40_000, -1), log_beta.expand(40_000, -1), seeded())
    law = torch.distributions.Beta(log_alpha.exp()[0], log_beta.exp()[0])
    torch.testing.assert_close(drawn.mean(dim=0), law.mean, rtol=0, atol=0.006)
    torch.testing.assert_close(drawn.var(dim=0), law.variance, rtol=0, atol=0.003)
    extreme = torch.tensor([[-10.0, 10.0, 10.0, -10.0]]).expand(500, -1)
    drawn = draw_mask(extreme, extreme.flip(1), seeded())
    assert drawn.min() > 0
    assert drawn.max() < 1
    assert mask_log_density(drawn, extreme, extreme.flip(1)).isfinite().all()


def test_masks_are_enlarged_to_the_nearest_cell_and_blurred():
    mask = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    large = torch.tensor([[1.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]], dtype=torch.float64)
    assert torch.equal(enlarged_mask(mask, (4, 4), 1, 1.0)[0, 0], large)
    weights = torch.exp(-(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) ** 2) / (2 * 0.8**2))
    weights = weights / weights.sum()
    padded = F.pad(large[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    expected = sum(weights[i] * weights[j] * padded[i : i + 4, j : j + 4] for i in range(3) for j in range(3))
    torch.testing.assert_close(enlarged_mask(mask, (4, 4), 3, 0.8)[0, 0], expected)
    assert enlarged_mask(mask, (5, 7), 13, 6.0).shape == (1, 1, 5, 7)


def test_objectives_by_hand():
    densities = [[2.0, 1.0], [0.5, 0.25], [1.0, 3.0]]
    losses = [1.0, 4.0, 2.0]
    log_density, given = torch.tensor(densities).log().double(), torch.tensor(losses).double()
    summed = sum(math.log(sum(row)) for row in densities) / 3 * sum(losses) / 3
    torch.testing.assert_close(summed_density_objective(log_density, given).item(), summed, rtol=1e-6, atol=0)
    excess = [1.0 - 3.0, 4.0 - 1.5, 2.0 - 2.5]
    score = sum(losses) / 3 + sum(e * math.log(math.prod(row)) for e, row in zip(excess, densities, strict=True)) / 3
    torch.testing.assert_close(score_objective(log_density, given).item(), score, rtol=1e-6, atol=0)
    alone = score_objective(log_density[:1], given[:1]).item()
    assert alone == pytest.approx(1 + math.log(2), rel=1e-6)
    assert torch.isfinite(summed_density_objective(torch.full((2, 4), 1e4), torch.ones(2)))


def test_the_score_estimates_the_gradient_of_the_expected_loss():
    """One cell of law Beta(a, b), loss (m - 0.3)^2: E = var + (mean - 0.3)^2 is known."""
    log_alpha = torch.tensor([0.2], dtype=torch.float64, requires_grad=True)
    log_beta = torch.tensor([-0.1], dtype=torch.float64, requires_grad=True)
    law = torch.distributions.Beta(log_alpha.exp(), log_beta.exp())
    exact = torch.autograd.grad(law.variance + (law.mean - 0.3) ** 2, [log_alpha, log_beta])
    estimates = []
    for seed in range(300):
        alphas, betas = log_alpha.expand(200, 1), log_beta.expand(200, 1)
        mask = draw_mask(alphas, betas, seeded(seed))
        value = score_objective(mask_log_density(mask, alphas, betas), ((mask - 0.3) ** 2).squeeze(1))
        estimates.append(torch.cat(torch.autograd.grad(value, [log_alpha, log_beta])))
    found = torch.stack(estimates)
    error = found.std(dim=0) / math.sqrt(len(found))
    assert ((found.mean(dim=0) - torch.cat(exact)).abs() < 4 * error).all()
    assert (error < 0.1 * torch.cat(exact).abs()).all()


def test_the_classifier_is_given_the_gradient_of_its_loss_scaled_or_not_and_no_other():
    images, labels = normal(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    for objective, scale in (
        ("score", lambda density: 1.0),
        ("summed_density", lambda d: d.logsumexp(1).mean().item()),
    ):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=10 + number))
        alone = copy.deepcopy(model)
        policy = Constant(normal(1, 4, seed=3), normal(1, 4, seed=4))
        before = copy.deepcopy(policy.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        training = PolicyNoiseMask(model, optimizer, policy, None, objective, kernel=3, sigma=1.0, generator=seeded(7))
        log_alpha, log_beta = policy(images)
        mask = draw_mask(log_alpha, log_beta, seeded(7))
        loss = F.cross_entropy(alone(images * enlarged_mask(mask, (4, 4), 3, 1.0)), labels)
        loss.backward()
        factor = scale(mask_log_density(mask, log_alpha, log_beta))
        torch.testing.assert_close(training.step(images, labels), loss.detach())
        for found, parameter in zip(model.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(found, parameter - 0.1 * factor * parameter.grad)
        assert all(map(torch.equal, policy.state_dict().values(), before.values()))


def test_a_constant_mask_of_one_gives_ordinary_training():
    """A law that is almost certain of 1 leaves the images as they are."""
    images, labels = normal(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    alone = copy.deepcopy(model)
    policy = Constant(torch.full((1, 4), 10.0).double(), torch.full((1, 4), -10.0).double())
    masked = PolicyNoiseMask(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        policy,
        objective="score",
        kernel=3,
        sigma=1.0,
        generator=seeded(),
    )
    plain = PlainTraining(alone, lr=0.1)
    for _ in range(3):
        masked.step(images, labels)
        plain.step(images, labels)
    for found, expected in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_policy_learns_to_leave_uncovered_what_the_class_is_told_by():
    """The class is told by the left half of the image, by its sign."""
    images = torch.zeros(64, 1, 2, 2)
    labels = torch.arange(64) % 2
    images[:, :, :, 0] = (2.0 * labels - 1)[:, None, None]
    model = nn.Sequential(nn.Flatten(), nn.utils.skip_init(nn.Linear, 4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0, 0, -1, 0], [1, 0, 1, 0]]))
        model[1].bias.zero_()
    policy = Constant(torch.zeros(1, 4), torch.zeros(1, 4))
    training = PolicyNoiseMask(
        model,
        torch.optim.SGD(model.parameters(), lr=0.0),
        policy,
        torch.optim.SGD(policy.parameters(), lr=0.2),
        "score",
        kernel=1,
        generator=seeded(),
    )
    for _ in range(100):
        training.step(images, labels)
    means = policy.log_alpha.exp() / (policy.log_alpha.exp() + policy.log_beta.exp())
    assert means[0, [0, 2]].min() > 0.65
    assert (means[0, [1, 3]] - 0.5).abs().max() < 0.15


def test_inputs_that_are_no_images_are_refused():
    training = made(nn.Linear(16, 3), generator=seeded())
    with pytest.raises(ValueError, match=r"inputs must be floating images .* of shape \(6, 16\)"):
        training.step(torch.zeros(6, 16), torch.zeros(6, dtype=torch.int64))


def test_masks_are_drawn_in_single_precision_at_least():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).bfloat16()
    training = made(model, generator=seeded())
    assert training.step(normal(6, 1, 4, 4).bfloat16(), torch.tensor([0, 1, 2, 0, 1, 2])).isfinite()
    assert all(
        p.dtype == torch.bfloat16 and p.isfinite().all() for p in (*model.parameters(), *training.policy.parameters())
    )


def test_policy_and_model_are_trained_in_train_mode():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    training = made(model, generator=seeded())
    training.policy.eval()
    training.step(normal(6, 1, 4, 4).float(), torch.tensor([0, 1, 2, 0, 1, 2]))
    assert model.training
    assert training.policy.training


def test_laws_are_mostly_the_running_mean_which_moves_in_train_mode_alone():
    policy = MaskPolicy(nn.Flatten(), features=4, grid=2, decay=0.9, base_decay=0.75)
    images = normal(6, 1, 2, 2).float()
    start = policy.base.clone()
    assert (start >= 0).all()
    assert (start < 1).all()
    features = images.flatten(1)
    own = [head(features) for head in copy.deepcopy(policy).heads]
    for found, base, part in zip(policy(images), start, own, strict=True):
        torch.testing.assert_close(found, 0.9 * base + 0.1 * part)
    moved = torch.stack([0.75 * base + 0.25 * part.mean(dim=0) for base, part in zip(start, own, strict=True)])
    torch.testing.assert_close(policy.base, moved.detach())
    assert not policy.base.requires_grad
    policy.eval()(images)
    torch.testing.assert_close(policy.base, moved.detach())
    fresh = MaskPolicy(nn.Flatten(), features=4, grid=2)
    fresh.load_state_dict(policy.state_dict())
    assert torch.equal(fresh.base, policy.base)


def test_the_recipe_ends_on_clean_images_and_leaves_the_global_stream_alone():
    images, labels = normal(40, 1, 8, 8).float(), torch.arange(40) % 3
    model = LeNet((1, 8, 8), 3)
    state = torch.random.get_rng_state()
    training = RECIPE.training(
        model,
        torch.optim.SGD(model.parameters(), lr=0.01),
        images,
        labels,
        batch_size=20,
        epochs=5,
        generator=seeded(),
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    seen: list[bool] = []
    model.register_forward_pre_hook(
        lambda _, given: seen.append(all(any(torch.equal(x, y) for y in images) for x in given[0]))
    )
    for _ in range(5):
        assert training.step().isfinite()
    assert seen == [False] * 8 + [True] * 2


def test_whole_numbers_are_no_images_and_gradients_of_a_policy_that_nothing_steps_do_not_pile_up():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    policy = MaskPolicy(nn.Flatten(), features=64, grid=4)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    training = PolicyNoiseMask(model, sgd, policy, kernel=1, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"inputs must be floating images .* got torch\.uint8"):
        training.step(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) % 2)
    sizes = []
    for _ in range(40):
        training.step(torch.ones(8, 1, 8, 8), torch.arange(8) % 2)
        sizes.append(max(p.grad.abs().max().item() for p in policy.parameters() if p.grad is not None))
    assert max(sizes[20:]) < 5 * max(sizes[:20])
