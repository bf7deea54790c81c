"""DiffPure against the closed form of Gaussian data, an unrolled chain, an integral by quadrature and steps by hand."""

import copy
import math
from functools import partial

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

from paperweight.generators import DiffusionModel, ModelSpec
from paperweight.robustness.diffpure import DiffPure, DiscreteScore, reverse_diffusion, signal_share
from paperweight.testing import DefenseSubject, FunctionSubject, LayerSubject

VARIANCE = 0.2
UNITS = (0.1, 20.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(x: Tensor, t: Tensor) -> Tensor:
    """The score of data N(0, VARIANCE) after diffusion to time t."""
    share = torch.exp(-(0.1 * t + 19.9 * t.square() / 2))
    return -x / (share * VARIANCE + 1 - share).view(-1, *[1] * (x.ndim - 1))


def defended(model, t_star: float = 0.05, generator=None, **given):
    given.setdefault("steps", 3)
    return DiffPure(model, given.pop("score", gaussian), t_star, generator=generator, **given)


def diffusion(steps: int = 1000, schedule: str = "linear", seed: int = 0) -> DiffusionModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        arguments = {"width": 8, "blocks": 1}
        return ModelSpec(shape=(1, 2, 2), arguments=arguments, schedule=schedule, steps=steps).build().eval()


BETAS = {"betas": ((-0.1, 1.0), (0.0, 0.0), (math.nan, 1.0), (0.1, math.inf))}
STEPS = {"steps": (0, -1, 2.5, True)}
CONTRACT = {
    "DiffPure": DefenseSubject(
        make=defended,
        bad={"t_star": (-0.1, 1.1, math.nan, True)} | STEPS | BETAS,
        null=partial(defended, t_star=0.0),
        baseline=lambda model, generator: model,
        random=True,
        tolerance=0.08,
    ),
    "DiscreteScore": LayerSubject(
        make=lambda **given: DiscreteScore(**{"model": diffusion(), **given}),
        inputs=(torch.randn(3, 1, 2, 2, generator=seeded()), torch.tensor([0.001, 0.3, 1.0])),
        shape=(3, 1, 2, 2),
        parameter_count=sum(p.numel() for p in diffusion().parameters()),
        bad={"model": (diffusion(schedule="cosine"), diffusion(steps=20))} | BETAS,
    ),
    "reverse_diffusion": FunctionSubject(
        make=reverse_diffusion,
        arguments={
            "score": gaussian,
            "x": torch.randn(3, 2, generator=seeded()),
            "t_star": 0.2,
            "noises": list(torch.randn(4, 3, 2, generator=seeded(1))),
            "steps": 4,
        },
        bad={"t_star": (0.0, -1.0, 1.1, math.nan, True), "noises": ([], [torch.zeros(3, 2)] * 3)} | STEPS | BETAS,
    ),
    "signal_share": FunctionSubject(
        make=signal_share, arguments={"t": 0.3}, bad={"t": (-0.1, 1.1, math.nan, True)} | BETAS
    ),
}


@pytest.mark.parametrize("betas", [UNITS, (3.0, 0.5)])
def test_the_share_of_signal_is_the_exponential_of_the_integral(betas):
    for t in (0.0, 0.1, 0.7, 1.0):
        area, _ = quad(lambda s: betas[0] + (betas[1] - betas[0]) * s, 0, t)
        assert signal_share(t, betas) == pytest.approx(math.exp(-area), rel=1e-12)


def test_steps_by_hand():
    # t* 0.4 in two steps of 0.2; beta = 1 + 5 t is 3 at 0.4 and 2 at 0.2; the score is t x.
    noises = [torch.tensor([[0.5]]).double(), torch.tensor([[-1.0]]).double()]
    found = reverse_diffusion(
        lambda x, t: t[:, None] * x, torch.tensor([[2.0]]).double(), 0.4, noises, steps=2, betas=(1.0, 6.0)
    )
    first = 2 + 0.2 * 3 / 2 * (2 + 2 * 0.4 * 2) + math.sqrt(0.6) * 0.5
    second = first + 0.2 * 2 / 2 * (first + 2 * 0.2 * first) - math.sqrt(0.4)
    assert found.item() == pytest.approx(second, rel=1e-12)


@pytest.mark.parametrize("t_star", [0.1, 0.4])
def test_purified_gaussian_data_have_the_mean_and_variance_of_the_closed_form(t_star):
    # Given x_a, the state at t* is N(sqrt(a) x_a, 1 - a); the reverse equation draws from the posterior N(m z, v).
    count, given = 20_000, 0.9
    images = torch.full((count, 1, 1, 1), given, dtype=torch.float64)
    found = DiffPure(nn.Identity(), gaussian, t_star, steps=100, generator=seeded()).purify(images)
    share = signal_share(t_star)
    total = share * VARIANCE + 1 - share
    mean = share * VARIANCE / total * (2 * given - 1)
    variance = share * VARIANCE**2 * (1 - share) / total**2 + VARIANCE * (1 - share) / total
    assert found.mean().item() == pytest.approx((mean + 1) / 2, abs=0.01)
    assert found.var().item() == pytest.approx(variance / 4, rel=0.05)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layers = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).double()

    def forward(self, x, t):
        return self.layers(torch.cat([x.flatten(1), t[:, None]], dim=1)).view_as(x)


def test_the_gradient_is_that_of_the_unrolled_chain_to_inputs_and_weights():
    images = torch.rand(3, 1, 2, 2, generator=seeded(), dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, dtype=torch.float64))

    def unrolled(score, given):
        drawn = seeded(7)
        noise = partial(torch.randn, given.shape, generator=drawn, dtype=torch.float64)
        share = signal_share(0.3)
        x = math.sqrt(share) * (2 * given - 1) + math.sqrt(1 - share) * noise()
        for number in range(5):
            t = 0.3 * (1 - number / 5)
            beta = 0.1 + 19.9 * t
            x = x + 0.06 * beta / 2 * (x + 2 * score(x, torch.full((3,), t, dtype=torch.float64)))
            x = x + math.sqrt(0.06 * beta) * noise()
        return model((x + 1) / 2)

    gradients, score = [], Net()
    for run in (
        lambda given: unrolled(score, given),
        lambda given: DiffPure(model, score, 0.3, steps=5, generator=seeded(7))(given),
    ):
        given = images.clone().requires_grad_()
        outputs = run(given)
        wanted = (given, *score.parameters(), *model.parameters())
        gradients.append((outputs.detach(), *torch.autograd.grad(outputs.square().sum(), wanted)))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        assert found.abs().max() > 0


def test_activations_of_steps_are_not_kept():
    def kept(steps: int) -> int:
        sizes = []
        score = Net()
        wide = nn.Linear(4, 4_000, dtype=torch.float64)
        images = torch.rand(2, 1, 2, 2, generator=seeded(), dtype=torch.float64).requires_grad_()
        purified = DiffPure(
            nn.Identity(), lambda x, t: score(x, t) + wide(x.flatten(1)).tanh().mean(), 0.2, steps, generator=seeded()
        )
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            purified(images)
        return sum(sizes)

    assert kept(9) - kept(1) < 1_000


def test_without_gradients_it_gives_the_same():
    images = torch.rand(2, 1, 2, 2, generator=seeded(), dtype=torch.float64)
    outputs = [DiffPure(nn.Identity(), Net(), 0.3, 4, generator=seeded(1)) for _ in range(2)]
    with torch.no_grad():
        plain = outputs[0](images)
    assert not plain.requires_grad
    assert torch.equal(plain, outputs[1](images.requires_grad_()).detach())


@pytest.mark.parametrize("time", [0.001, 0.25, 1.0])
def test_the_score_of_a_discrete_model_is_the_noise_over_its_deviation(time):
    model, x = diffusion(), torch.randn(2, 1, 2, 2, generator=seeded())
    index = round(1000 * time) - 1
    noise = model.eps(x, torch.full((2,), index), None)
    found = DiscreteScore(model)(x, torch.full((2,), time))
    torch.testing.assert_close(found, -noise / math.sqrt(1 - model.schedule.abar[index].item()))
    # The schedule is the diffusion at time (i + 1) / T, up to the discretisation.
    assert model.schedule.abar[index].item() == pytest.approx(signal_share(time), abs=1e-3)


def test_each_image_is_asked_at_its_own_time():
    model = diffusion()
    score, x = DiscreteScore(model), torch.randn(1, 1, 2, 2, generator=seeded()).expand(2, 1, 2, 2)
    both = score(x, torch.tensor([0.1, 0.6]))
    for row, time in enumerate((0.1, 0.6)):
        torch.testing.assert_close(both[row], score(x, torch.full((2,), time))[0])
    with pytest.raises(ValueError, match=r"t must have shape \(2,\), one time for each of x, got \(\)"):
        score(x, torch.tensor(0.5))


def test_a_defended_network_is_a_module_that_can_be_copied_and_saved():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    purified = DiffPure(model, DiscreteScore(diffusion()), 0.1, 2, generator=seeded()).eval()
    assert not model.training
    other = copy.deepcopy(model)
    second = DiffPure(other, DiscreteScore(diffusion(seed=1)), 0.1, 2, generator=seeded())
    images = torch.rand(3, 1, 2, 2, generator=seeded(4))
    second.load_state_dict(purified.state_dict())
    assert torch.equal(purified(images), second(images))
    assert purified(images[:1]).shape == (1, 3)
    assert purified(images[:0]).shape == (0, 3)


def test_bytes_are_refused():
    with pytest.raises(ValueError, match=r"images must be floating numbers in \[0, 1\], got torch.uint8; divide"):
        DiffPure(nn.Identity(), gaussian, generator=seeded())(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
