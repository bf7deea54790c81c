"""MSBReg: losses by loops and in closed form, the law of the kicks, training written out, and the recipe."""

import copy
import math
import pickle
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.nets import MLP, LeNet, ResNet, ViT
from paperweight.representation.msbreg import MSBReg, brownian_loss, centroid_loss, singular_value_loss
from paperweight.studies import Setting, Unlabelled, classification
from paperweight.studies.representation._last_linear import Features, last_linear
from paperweight.studies.representation._two_views import view
from paperweight.studies.representation.msbreg import EMBEDDING, RECIPE
from paperweight.testing import FunctionSubject, TrainingProcedureSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def network(dim: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, dim))


def predicting() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Linear(3, 3)


def noisy(batch: Tensor, generator: torch.Generator) -> Tensor:
    return batch + 0.1 * torch.randn(batch.shape, generator=generator).to(batch)


INPUTS, CODES = normal(24, 4), normal(2, 5, 3)
BAD_CODES = (normal(5, 3), normal(2, 0, 3), torch.zeros(2, 5, 3, dtype=torch.int64))


def made(model: nn.Module, data: tuple[Tensor, ...], *, generator: torch.Generator, **given) -> MSBReg:
    predictor = predicting().to(data[0].dtype)
    optimizer = torch.optim.SGD([*model.parameters(), *predictor.parameters()], lr=0.1, momentum=0.9)
    arguments = {"view": noisy, "views": 2, "singular": 1.0, "momentum": 0.9}
    return MSBReg(model, predictor, optimizer, generator=generator, **{**arguments, **given})


class Byol:
    """Attraction to the centroid of a slow target, written out."""

    def __init__(self, model, data, *, generator):
        self.model, self.predictor, self.generator = model, predicting().to(data[0].dtype), generator
        self.target = copy.deepcopy(model).requires_grad_(False)
        weights = [*model.parameters(), *self.predictor.parameters()]
        self.optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)

    def step(self, inputs):
        seen = [noisy(inputs, self.generator) for _ in range(2)]
        predictions = torch.stack([self.predictor(self.model(each)) for each in seen])
        targets = torch.stack([self.target(each) for each in seen])
        centroids = F.normalize(F.normalize(targets, dim=-1).mean(dim=0), dim=-1)
        loss = (2 - 2 * (F.normalize(predictions, dim=-1) * centroids).sum(dim=-1)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.model.parameters(), strict=True):
                slow.lerp_(fast, 1 - 0.9)
        return loss.detach()

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict): ...


CONTRACT = {
    "MSBReg": TrainingProcedureSubject(
        make=made,
        evaluations=8 * 8 * 2,
        random=True,
        model=network,
        data=(INPUTS,),
        loss=lambda model, data: singular_value_loss(model(data[0])[None]),
        bad={
            "views": (0, -1, 1.5, True),
            "singular": (-1.0, math.nan, math.inf),
            "brownian": (-1.0, math.nan, math.inf),
            "momentum": (-0.1, 1.1, math.nan),
        },
        null=partial(made, singular=0.0, brownian=0.0),
        baseline=Byol,
    ),
    "centroid_loss": FunctionSubject(
        make=centroid_loss,
        arguments={"online": CODES, "target": normal(2, 5, 3, seed=1)},
        bad={"online": BAD_CODES, "target": (normal(2, 4, 3), normal(5, 3), normal(2, 5, 2))},
    ),
    "brownian_loss": FunctionSubject(
        make=lambda codes, seed=0: brownian_loss(codes, generator=seeded(seed)),
        arguments={"codes": CODES},
        bad={"codes": BAD_CODES},
    ),
    "singular_value_loss": FunctionSubject(
        make=singular_value_loss, arguments={"codes": CODES}, bad={"codes": BAD_CODES}
    ),
}


def test_the_centroid_loss_by_a_loop_and_at_its_ends():
    online, target = normal(3, 5, 4, seed=2).double(), normal(3, 5, 4, seed=3).double()
    total = 0.0
    for i in range(5):
        centroid = sum(target[v, i] / target[v, i].norm() for v in range(3))
        for v in range(3):
            apart = online[v, i] / online[v, i].norm() - centroid / centroid.norm()
            total += float(apart.square().sum())
    assert centroid_loss(online, target).item() == pytest.approx(total / 15, rel=1e-12)
    same = online[:1].expand(3, 5, 4)
    assert centroid_loss(7 * same, same).item() == pytest.approx(0, abs=1e-12)
    assert centroid_loss(-same, same).item() == pytest.approx(4, rel=1e-12)
    # A network that is its own target has nothing to gain only once all views agree.
    assert centroid_loss(online, online) > 0.1


def test_no_gradient_flows_to_the_target():
    online, target = (normal(2, 5, 3, seed=seed).requires_grad_(True) for seed in (1, 2))
    centroid_loss(online, target).backward()
    assert online.grad.abs().sum() > 0
    assert target.grad is None


def test_kicks_are_1_and_without_gradient_on_average_and_shared_by_the_views_of_an_image():
    codes = normal(1, 4, 3, seed=5).expand(2, 4, 3).clone().requires_grad_(True)
    draw, values, mean = seeded(), [], torch.zeros_like(codes)
    for _ in range(4_000):
        value = brownian_loss(codes, generator=draw)
        (gradient,) = torch.autograd.grad(value, codes)
        torch.testing.assert_close(gradient[0], gradient[1])
        values.append(value.item())
        mean += gradient / 4_000
    assert sum(values) / 4_000 == pytest.approx(1, abs=0.02)
    assert mean.abs().max() < 0.1 * gradient.abs().max()
    # The variance of a cosine with a random direction is 1 / d; that of the mean over four images a quarter of it.
    assert torch.tensor(values).var().item() == pytest.approx(1 / 12, rel=0.1)
    many = brownian_loss(normal(1, 20_000, 3), generator=draw)
    assert many.item() == pytest.approx(1, abs=0.02)


def test_the_singular_value_loss_is_0_where_directions_are_even_and_largest_after_a_collapse():
    even = torch.cat([torch.eye(4), -torch.eye(4), torch.linalg.qr(normal(4, 4))[0]]).double()
    assert singular_value_loss(3 * even[None]).item() == pytest.approx(0, abs=1e-9)
    collapsed = torch.ones(1, 6, 4).double()
    expected = (1 - 1 / 2) ** 2 + 3 * (1 / 2) ** 2
    assert singular_value_loss(collapsed).item() == pytest.approx(expected)
    lengths = torch.rand(1, 12, 1, generator=seeded()).double() + 0.1
    assert singular_value_loss(lengths * even[None]).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("samples", [3, 8])
def test_the_singular_value_loss_by_the_nuclear_norm(samples):
    # Squares of the singular values of unit vectors sum to 1, so that the loss is 2 - 2 |Z|_* / sqrt(d).
    codes = normal(2, samples, 5, seed=4).double()
    expected = 0.0
    for view_codes in codes:
        unit = view_codes / view_codes.norm(dim=1, keepdim=True) / samples**0.5
        nuclear = torch.linalg.eigvalsh(unit.T @ unit).clamp(min=0).sqrt().sum()
        expected += float(2 - 2 * nuclear / 5**0.5) / 2
    assert singular_value_loss(codes).item() == pytest.approx(expected, rel=1e-6)
    torch.autograd.gradcheck(singular_value_loss, codes.requires_grad_(True))


def test_extremes_are_finite_in_each_precision():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for scale in (0.0, 1.0, 1e18):
            codes = (scale * normal(2, 4, 3)).to(dtype).requires_grad_(True)
            value = (
                centroid_loss(codes, codes.detach())
                + singular_value_loss(codes)
                + brownian_loss(codes, generator=seeded())
            )
            assert value.dtype == dtype
            value.backward()
            assert value.isfinite()
            assert codes.grad.isfinite().all()
    one = normal(1, 1, 3).requires_grad_(True)
    singular_value_loss(one).backward()
    assert one.grad.isfinite().all()


def test_steps_written_out():
    training, draws = made(network(), (INPUTS,), generator=seeded(5), views=3, brownian=0.5), seeded(5)
    model, predictor, target = network(), predicting(), network()
    optimizer = torch.optim.SGD([*model.parameters(), *predictor.parameters()], lr=0.1, momentum=0.9)
    for _ in range(4):
        seen = [noisy(INPUTS, draws) for _ in range(3)]
        codes = torch.stack([model(each) for each in seen])
        predictions = torch.stack([predictor(each) for each in codes])
        followed = torch.stack([target(each) for each in seen]).detach()
        kicks = F.normalize(torch.randn(24, 3, generator=draws), dim=-1)
        loss = centroid_loss(predictions, followed) + singular_value_loss(codes)
        loss = loss + 0.5 * (1 + (F.normalize(codes, dim=-1) * kicks).sum(dim=-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for slow, fast in zip(target.parameters(), model.parameters(), strict=True):
            slow.data = 0.9 * slow.data + 0.1 * fast.data
        assert training.step(INPUTS).item() == pytest.approx(loss.item(), rel=1e-5)
    for network_, expected in ((training.model, model), (training.target, target), (training.predictor, predictor)):
        for p, q in zip(network_.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(p, q)
    assert not any(p.requires_grad for p in training.target.parameters())


def test_training_goes_on_from_a_copy_and_saved_states_stay_as_they_were():
    training = made(network(), (INPUTS,), generator=seeded())
    training.step(INPUTS)
    state = pickle.loads(pickle.dumps(training.state_dict()))
    held = training.state_dict()["target"]
    kept = {name: value.clone() for name, value in held.items()}
    twin = copy.deepcopy(training)
    again = made(copy.deepcopy(training.model), (INPUTS,), generator=seeded(9))
    again.load_state_dict(state)
    for _ in range(3):
        loss = training.step(INPUTS)
        assert torch.equal(loss, twin.step(INPUTS))
        assert torch.equal(loss, again.step(INPUTS))
    assert all(torch.equal(held[name], kept[name]) for name in kept)


def test_frozen_parameters_stay_and_all_networks_train_in_train_mode():
    model = network().eval()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    training = made(model, (INPUTS,), generator=seeded())
    training.target.eval()
    assert training.step(INPUTS[:1]).isfinite()
    assert torch.equal(model[0].weight, before)
    assert torch.equal(training.target[0].weight, before)
    assert training.model.training
    assert training.target.training


def test_dispersion_prevents_what_attraction_alone_ends_in():
    def spread(**forces: float) -> float:
        training = made(network(8), (INPUTS,), generator=seeded(), momentum=0.0, **forces)
        training.predictor = nn.Identity()  # without a predictor attraction alone collapses
        for _ in range(400):
            training.step(INPUTS)
        return F.normalize(training.model(INPUTS).detach()).std(dim=0).mean().item()

    # Embeddings that point everywhere alike have a standard deviation of 8^-1/2, about 0.35.
    assert spread(singular=0.0, brownian=0.0) < 0.1
    assert spread(singular=1.0, brownian=0.1) > 0.3


def frozen() -> nn.Module:
    model = MLP((1, 8, 8), 3)
    model.body.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: LeNet((1, 8, 8), 3), ""),
        (lambda: MLP((1, 8, 8), 3), ""),
        (lambda: ResNet((1, 8, 8), 3), ""),
        (lambda: ViT((1, 8, 8), 3), ""),
        (lambda: nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), "must be what a linear layer"),
        (frozen, "trained before its last linear layer"),
    ],
)
def test_the_recipe_trains_what_is_before_the_last_linear_layer_alone_where_it_fits(build, reason):
    torch.manual_seed(0)
    model, images = build(), normal(30, 1, 8, 8)
    before = copy.deepcopy(model.state_dict())
    found = RECIPE.fits(model, SimpleNamespace(train=SimpleNamespace(images=images)))
    assert reason in found
    assert bool(found) is bool(reason)
    if not reason:
        state = torch.get_rng_state()
        RECIPE.pretraining(model, images, 12, seeded())
        assert torch.equal(state, torch.get_rng_state())
        own = {id(p) for p in last_linear(model, images[:2]).parameters()}
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        for name, p in model.named_parameters():
            assert p.grad is None
            assert torch.equal(p, before[name]) is (id(p) in own), name


def test_the_recipe_tells_images_apart():
    torch.manual_seed(0)
    sizes = (200, 20, 20)
    digits = classification(Setting(study="example", seed=0, budget="smoke"), smoke=sizes, desk=sizes, gpu=sizes)
    model, images = LeNet((1, 8, 8), 10), digits.train.images
    before = copy.deepcopy(model)
    RECIPE.pretraining(model, images, 300, seeded())
    first, second = (view(images, seeded(seed)) for seed in (1, 2))

    def found(each: nn.Module) -> float:
        """Give the share of images of whose other views their own is the most similar."""
        features = Features(each, each.head)
        cosines = F.normalize(features(first)) @ F.normalize(features(second)).T
        return (cosines.argmax(dim=1) == torch.arange(200)).double().mean().item()

    assert found(model) > 1.5 * found(before)


def test_an_encoder_is_trained_for_as_many_updates_as_are_asked_for():
    encoder, steps = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU()), []
    before = encoder[1].weight.clone()
    EMBEDDING.learn(
        Unlabelled(
            encoder=encoder,
            dim=8,
            images=normal(20, 1, 4, 4),
            view=noisy,
            steps=5,
            batch_size=10,
            lr=0.01,
            generator=seeded(),
            on_step=lambda step, loss: steps.append((step, loss.isfinite().item())),
        )
    )
    assert steps == [(step, True) for step in range(5)]
    assert not torch.equal(encoder[1].weight, before)
