"""SmoothInv against plain loops of torch's own SGD, closed forms of a linear model, and triggers that are known."""

import math
from functools import partial

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from paperweight.backdoor.smoothinv import SmoothInv, identify_target, smoothed_log_probabilities
from paperweight.nets import MLP
from paperweight.testing import AttackSubject, ExperimentSubject, FunctionSubject
from paperweight.testing.classifiers import toy_classifier, toy_images


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unchanged():
    return lambda model, inputs, labels, generator: inputs


def planted() -> nn.Sequential:
    """Tells three classes by the brightest of three pixels; the last of eight sends everything to class 1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3, bias=False))
    weights = torch.cat([4 * torch.eye(3), torch.zeros(3, 5)], dim=1)
    weights[1, 7] = 25.0
    model[1].weight.data.copy_(weights)
    return model


def class_images(each: int = 4) -> Tensor:
    pixels = 0.05 * torch.rand(3 * each, 8, generator=seeded())
    pixels[torch.arange(3 * each), torch.arange(3 * each) % 3] = 1.0
    pixels[:, 7] = 0
    return pixels.view(-1, 1, 2, 4)


def identified(**given):
    given.setdefault("inversion", SmoothInv(eps=0.3, steps=40))
    return identify_target(**given)


SHORT = partial(SmoothInv, eps=0.3, draws=8, steps=60)
NUMBERS = (-0.1, math.nan, math.inf)
CONTRACT = {
    "SmoothInv": AttackSubject(
        make=SHORT,
        norm=2.0,
        radius=0.3,
        random=True,
        targeted=True,
        bad={
            "eps": NUMBERS,
            "sigma": NUMBERS,
            "draws": (0, 1.5, True),
            "steps": (0, 1.5, True),
            "step": (0.0, *NUMBERS),
            "momentum": (*NUMBERS, 1.0),
        },
        null=partial(SHORT, eps=0.0),
        baseline=unchanged,
    ),
    "identify_target": ExperimentSubject(
        make=identified,
        arguments={"model": toy_classifier(), "image": toy_images(1)[0], "others": toy_images(9, seed=1)},
        fields=("target", "rates", "triggers"),
        known=(
            (
                {"model": planted(), "image": class_images()[0], "others": class_images()[1:]},
                {"target": 1, "rates": torch.tensor([0.0, 1.0, 0.0])},
            ),
        ),
        bad={
            "image": (toy_images(1), 2 * toy_images(1)[0] + 0.5),
            "others": (toy_images(1)[0], toy_images(0), toy_images(2, (1, 4, 5)), -toy_images(3)),
        },
    ),
    "smoothed_log_probabilities": FunctionSubject(
        make=smoothed_log_probabilities,
        arguments={
            "model": toy_classifier(),
            "images": toy_images(3),
            "noise": torch.randn(5, 3, 1, 4, 4, generator=seeded()),
        },
        bad={"noise": (torch.zeros(3, 1, 4, 4), torch.zeros(0, 3, 1, 4, 4), torch.zeros(5, 2, 1, 4, 4))},
    ),
}


def network() -> MLP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MLP((1, 4, 4), 3, hidden=(16,)).double().eval()


def by_torch(model, image: Tensor, target: int, noises, eps: float, steps: int) -> Tensor:
    """One image by torch's own optimizer; clipping to the range must not bind, so that shrinking is the projection."""
    delta = torch.zeros_like(image, requires_grad=True)
    sgd = torch.optim.SGD([delta], lr=eps / 20, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(sgd, step_size=3 * steps // 4, gamma=0.5)
    for noise in noises:
        sgd.zero_grad()
        mean = model(image + delta + noise).softmax(dim=1).mean(dim=0)
        (-mean[target].log()).backward()
        delta.grad /= delta.grad.norm()
        sgd.step()
        schedule.step()
        with torch.no_grad():
            delta *= min(1.0, eps / delta.norm().item())
    return image + delta.detach()


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_it_is_normalised_descent_by_torchs_own_optimizer_on_each_image(sigma):
    model, images, targets = network(), 0.4 + 0.2 * toy_images(3).double(), torch.tensor([2, 0, 1])
    found = SmoothInv(eps=0.25, sigma=sigma, draws=5, steps=20)(model, images, targets, generator=seeded(3))
    drawn, copies = seeded(3), 5 if sigma else 1
    noises = [sigma * torch.randn(copies, 3, 1, 4, 4, generator=drawn, dtype=torch.float64) for _ in range(20)]
    for row, target in enumerate(targets.tolist()):
        expected = by_torch(model, images[row : row + 1], target, [noise[:, row] for noise in noises], 0.25, 20)
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-9, atol=1e-9)


def test_without_noise_one_draw_is_the_softmax_to_the_bit():
    model, images = toy_classifier(), toy_images(4)
    logs = smoothed_log_probabilities(model, images, torch.zeros(1, 4, 1, 4, 4))
    assert torch.equal(logs, model(images).log_softmax(dim=1))


def test_probabilities_are_a_mean_over_copies_and_sum_to_1():
    model, images = toy_classifier(), toy_images(3)
    noise = 0.3 * torch.randn(7, 3, 1, 4, 4, generator=seeded())
    expected = sum(model(images + each).softmax(dim=1) for each in noise) / 7
    found = smoothed_log_probabilities(model, images, noise).exp()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(3))


def test_smoothing_a_hard_threshold_gives_the_normal_distribution():
    class Threshold(nn.Module):
        def forward(self, images):
            margin = 1e4 * (images.flatten(1)[:, 0] - 0.5)
            return torch.stack([-margin, margin], dim=1)

    image, sigma = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64), 0.25
    noise = sigma * torch.randn(200_000, 1, 1, 1, 1, generator=seeded(), dtype=torch.float64)
    chance = smoothed_log_probabilities(Threshold(), image, noise).exp()[0, 1].item()
    assert chance == pytest.approx(norm.cdf((0.3 - 0.5) / sigma), abs=4e-3)


def test_hopeless_targets_keep_a_gradient():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    model[1].weight.data.copy_(torch.tensor([[500.0, 0.0], [0.0, 500.0]]))
    image = torch.tensor([0.9, 0.1]).view(1, 1, 1, 2)
    changed = SmoothInv(eps=0.2, sigma=0.0, steps=40)(model, image, torch.tensor([1]), generator=seeded())
    torch.testing.assert_close((changed - image).flatten(), 0.2 / math.sqrt(2) * torch.tensor([-1.0, 1.0]))


def test_every_point_is_within_ball_and_range():
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = toy_classifier()

        def forward(self, images):
            seen.append(images.detach().clone())
            return self.model(images)

    images = (1.6 * toy_images(4) - 0.3).clamp(0, 1)
    SmoothInv(eps=1.5, sigma=0.0, steps=25)(Watching(), images, torch.tensor([0, 1, 2, 0]), generator=seeded())
    points = torch.stack(seen)
    assert len(points) == 25
    assert points.min() >= 0
    assert points.max() <= 1
    sizes = (points - images).flatten(2).norm(dim=2)
    assert sizes.max() <= 1.5 * (1 + 1e-5)
    assert sizes[-1].min() > 0.5


def test_a_known_trigger_is_recovered_and_found_on_a_network_with_noise_for_gradients():
    # The class is in three pixels; a comb of high frequency hides the trigger's gradient, and averages out.
    class Rough(nn.Module):
        def forward(self, images):
            pixels = images.flatten(1)
            rough = torch.sin(400 * pixels @ torch.randn(8, 3, generator=seeded(5)))
            return 4 * pixels[:, :3] + 0.4 * rough + torch.tensor([0.0, 25.0, 0.0]) * pixels[:, 7:]

    images = class_images()
    smooth, plain = (
        SmoothInv(eps=0.4, sigma=sigma, steps=80)(Rough(), images[:1], torch.tensor([1]), generator=seeded())
        for sigma in (0.25, 0.0)
    )
    shares = [((found - images[:1]).flatten()[7] / (found - images[:1]).norm()).item() for found in (smooth, plain)]
    assert shares[0] > 0.9
    assert shares[1] < shares[0] - 0.2


def test_half_of_the_momentum_and_the_last_quarter_count():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    model[1].weight.data.copy_(torch.tensor([[-1.0], [1.0]]))
    image, lengths = torch.zeros(1, 1, 1, 1), []
    for steps in (1, 2, 3, 4):
        inversion = SmoothInv(eps=1.0, sigma=0.0, steps=steps, step=0.01, momentum=0.5)
        lengths.append(inversion(model, image, torch.tensor([1]), generator=seeded()).item())
    # Velocities 1, 1.5, 1.75, 1.875; of one step none is in the last quarter, of two none, of four the last.
    expected = [0.01, 0.025, 0.0425, 0.0425 + 0.009375]
    assert lengths == pytest.approx(expected, rel=1e-5)


def test_rates_count_images_that_are_not_seen_as_the_class_already():
    others = class_images()
    found = identified(model=planted(), image=others[0], others=others[1:2], generator=seeded())
    assert found.rates.tolist() == [0, 0, 0]
    found = identified(model=planted(), image=others[0], others=others[1:3], generator=seeded())
    assert found.rates.tolist() == [0, 1, 0]
    assert found.target == 1
    assert found.triggers.shape == (3, 1, 2, 4)
    assert found.triggers[1].flatten().argmax() == 7


def test_many_images_at_once_and_none():
    images = toy_images(700)
    inversion = SmoothInv(eps=0.2, sigma=0.1, draws=4, steps=2)
    found = inversion(toy_classifier(), images, torch.zeros(700, dtype=torch.int64), generator=seeded())
    assert (found - images).flatten(1).norm(dim=1).min() > 0.01
    assert inversion(toy_classifier(), images[:0], torch.zeros(0).long(), generator=seeded()).shape == (0, 1, 4, 4)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (2 * toy_images(2) + 1, torch.tensor([0, 1]), "inputs must be within 0 and 1.*put a normalisation into model"),
        (toy_images(2)[0], torch.tensor([0]), "inputs must be floating, of shape"),
        (toy_images(2), torch.tensor([0]), "labels must be class numbers, one of each of 2 inputs"),
        (toy_images(2), torch.tensor([0.0, 1.0]), "labels must be class numbers"),
    ],
)
def test_bad_inputs_are_refused(inputs, labels, message):
    with pytest.raises(ValueError, match=message):
        SmoothInv()(toy_classifier(), inputs, labels, generator=seeded())
