"""Selective amnesia against closed forms of a model that is linear in the caption, and against a plain loop."""

import copy
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.generators.generation import generate
from paperweight.generators.pipeline import PipelineAdapter
from paperweight.generators.process import add_noise, linear_schedule, normal
from paperweight.generators.text_model import TextSpec, TextToImage
from paperweight.testing import FunctionSubject, UnlearnerSubject
from paperweight.unlearning.selective_amnesia import SelectiveAmnesia, elastic_penalty, fisher_diagonal

WORDS = ("a", "photo", "of", "circle", "disc", "cross", "shape")
SHAPE = (1, 8, 8)
TIMES = 10


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def tiny() -> TextToImage:
    arguments = {"patch": 4, "width": 16, "blocks": 1, "heads": 2}
    return TextSpec(shape=SHAPE, words=WORDS, length=6, dim=8, steps=20, arguments=arguments).build()


with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL = tiny()


class Copied:
    """Does nothing."""

    def __call__(self, model, forget, retain, *, generator):
        return copy.deepcopy(model)


class Captioned(nn.Module):
    """Predicts B c, whatever is to be denoised, with entries dropped where that is wanted."""

    def __init__(self, size: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.attn2 = nn.ModuleDict({"to_k": nn.Linear(3, size, bias=False), "to_v": nn.Identity()})
        self.attn2["to_k"].weight.data = 0.5 * drawn(size, 3, seed=5, dtype=torch.float32)
        self.dropout = nn.Dropout(dropout)

    def forward(self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.dropout(self.attn2["to_k"](encoder_hidden_states[:, 0])).view_as(z)


TOKENS = {None: (0.2, -0.1, 0.4), "circle": (1.0, 0.5, -0.3), "cross": (-0.4, 0.8, 0.1)}
NAME = "attn2.to_k.weight"


class Linear(nn.Module):
    """Meets what selective amnesia needs of a model, with closed forms."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.schedule = linear_schedule(TIMES)
        self.clamp = None
        self.network = Captioned() if network is None else network

    def condition(self, given, count: int) -> Tensor:
        return torch.stack([torch.tensor([TOKENS[word]]) for word in (given or [None] * count)])

    def eps(self, z: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self.network(z, t, condition)

    def encode(self, images: Tensor) -> Tensor:
        return 2 * images - 1

    def decode(self, z: Tensor) -> Tensor:
        return (z + 1) / 2

    @property
    def matrix(self) -> Tensor:
        return self.network.get_parameter(NAME).detach()


class Shifted(nn.Module):
    """Predicts the noise in nothing but noise, plus a number b."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.3))

    def forward(self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        spread = (1 - linear_schedule(TIMES).abar[t]).sqrt().to(z)
        return z / spread.view(-1, 1, 1, 1) + self.shift


def erase_linear(model: nn.Module, **given):
    eraser = SelectiveAmnesia(**{"samples": 2, "sampling_steps": 2, "batch_size": 64, **given})
    return eraser(model, ["circle"], ["cross"], generator=seeded(2), shape=(1, 2, 2))


make = partial(SelectiveAmnesia, steps=3, lr=1e-3, samples=2, times=3, sampling_steps=2, batch_size=4, ema=0.5)
CONTRACT = {
    "SelectiveAmnesia": UnlearnerSubject(
        make=make,
        random=True,
        model=tiny,
        inputs=(drawn(2, *SHAPE).float(), torch.tensor([1, 7]), drawn(2, 6, 8, seed=4).float()),
        forget=["circle", "disc"],
        retain=["cross", "a photo of cross"],
        bad={
            "gamma": (-1.0, math.inf, math.nan),
            "lam": (-1.0, math.inf, math.nan),
            "times": (0, 1.5),
            "samples": (0, 1.5),
            "steps": (-1, 1.5),
            "lr": (-0.1, math.inf, math.nan),
            "batch_size": (0, 1.5),
            "ema": (-0.1, 1.0, math.nan),
            "guidance": (-1.0, math.inf),
            "sampling_steps": (0, 1.5),
            "fisher": ({}, {"stem.weight": torch.ones(1)}),
        },
        null=partial(make, steps=0),
        baseline=Copied,
    ),
    "elastic_penalty": FunctionSubject(
        make=elastic_penalty,
        arguments={
            "parameters": [drawn(3, 4), drawn(2)],
            "anchors": [drawn(3, 4, seed=1), drawn(2, seed=2)],
            "fisher": [drawn(3, 4, seed=3).square(), drawn(2, seed=4).square()],
        },
        bad={"parameters": ([drawn(3, 4)],), "anchors": ([drawn(4, 3), drawn(2)],), "fisher": ([drawn(3, 4)] * 3,)},
    ),
    "fisher_diagonal": FunctionSubject(
        make=fisher_diagonal,
        arguments={
            "model": MODEL,
            "x": drawn(2, *SHAPE, dtype=torch.float32),
            "captions": ["circle", "cross"],
            "generator": seeded(),
            "times": 5,
        },
        bad={"times": (0, 21, 1.5), "batch_size": (0,), "captions": (["circle"], "circle")},
    ),
}


def test_the_penalty_by_hand_at_its_anchors_and_its_gradient():
    # 2 (3 - 1)^2 + 5 (0 - 1)^2 + 7 (4 - 4)^2 = 13
    theta = [torch.tensor([3.0, 0.0], requires_grad=True), torch.tensor([[4.0]], requires_grad=True)]
    anchors, fisher = (
        [torch.tensor([1.0, 1.0]), torch.tensor([[4.0]])],
        [torch.tensor([2.0, 5.0]), torch.tensor([[7.0]])],
    )
    assert elastic_penalty(theta, anchors, fisher).item() == 13
    assert elastic_penalty(anchors, anchors, fisher).item() == 0
    for lam in (1.0, 10.0):
        found = torch.autograd.grad(lam * elastic_penalty(theta, anchors, fisher), theta)
        for gradient, p, a, f in zip(found, theta, anchors, fisher, strict=True):
            assert torch.equal(gradient, 2 * lam * f * (p - a))


@pytest.mark.parametrize("side", [2, 4])
@pytest.mark.parametrize(("times", "batch_size"), [(None, 128), (4, 3)])
def test_the_fisher_information_of_a_shift_is_in_closed_form(side: int, times, batch_size: int):
    """The error is b at every pixel and time: the gradient of the sum of all squares is 2 b times their number."""
    model = Linear(Shifted())
    x = torch.zeros(3, 1, side, side)
    found = fisher_diagonal(model, x, ["circle"] * 3, generator=seeded(), times=times, batch_size=batch_size)
    wanted = torch.tensor((2 * 0.3 * side**2 * TIMES) ** 2)
    torch.testing.assert_close(found["shift"], wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize("times", [None, 2])
def test_the_fisher_information_with_noise_in_closed_form(times):
    """With K of T times it is 4 c_j^2 (T^2 / K + T^2 (B c)_i^2): noise is new each time, B c is not."""
    model = Linear()
    found = fisher_diagonal(model, torch.zeros(800, 1, 2, 2), ["circle"] * 800, generator=seeded(), times=times)
    word = torch.tensor(TOKENS["circle"])
    level = TIMES**2 / (times or TIMES) + TIMES**2 * (model.matrix @ word).square()
    torch.testing.assert_close(found[NAME], 4 * torch.outer(level, word.square()), rtol=0.15, atol=0)


def test_the_fisher_information_is_a_mean_over_samples():
    one = fisher_diagonal(Linear(Shifted()), torch.zeros(1, 1, 2, 2), ["circle"], generator=seeded())
    many = fisher_diagonal(Linear(Shifted()), torch.zeros(7, 1, 2, 2), ["circle"] * 7, generator=seeded())
    torch.testing.assert_close(one, many, rtol=1e-4, atol=0)


def test_the_fisher_information_of_low_precision_is_added_up_without_loss():
    """In bfloat16 a sum of 400 equal numbers stays at 256 of them."""
    found = fisher_diagonal(
        Linear(Shifted().bfloat16()),
        torch.zeros(400, 1, 2, 2, dtype=torch.bfloat16),
        ["circle"] * 400,
        generator=seeded(),
    )
    wanted = torch.tensor((2 * 0.3 * 2**2 * TIMES) ** 2)
    torch.testing.assert_close(found["shift"], wanted, rtol=0.05, atol=0)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_errors_are_those_of_what_the_network_predicts(prediction):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        arguments = {"patch": 4, "width": 8, "blocks": 1, "heads": 2}
        spec = TextSpec(shape=SHAPE, words=WORDS, length=6, dim=8, steps=4, arguments=arguments, prediction=prediction)
        model = spec.build().double().eval()
    x, given = drawn(1, *SHAPE, seed=3), ["circle"]
    found = fisher_diagonal(model, x, given, generator=seeded())
    noise, abar = normal(x.expand(4, *SHAPE), seeded()), model.schedule.abar.view(4, 1, 1, 1)
    wanted = {"eps": noise, "x0": x.expand(4, *SHAPE), "v": abar.sqrt() * noise - (1 - abar).sqrt() * x}[prediction]
    z = add_noise(x.expand(4, *SHAPE), noise, model.schedule.abar)
    output = model(z, torch.arange(4), model.condition(given * 4, 4))
    (output - wanted).square().sum().backward()
    for name, parameter in model.network.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad.square(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("gamma", "lam"), [(0.0, 3.0), (2.0, 0.5), (0.5, 10.0)])
def test_a_linear_model_goes_to_the_minimum_in_closed_form(gamma: float, lam: float):
    """The loss is |B c|^2 + gamma |B r|^2 + lam sum F (B - B*)^2 and a constant: a linear system for each row of B."""
    model = Linear()
    fisher = {NAME: drawn(4, 3, seed=8, dtype=torch.float32).square() + 0.1}
    found = erase_linear(model, gamma=gamma, lam=lam, fisher=fisher, steps=400, lr=0.02, ema=0.985)
    c, r = torch.tensor(TOKENS["circle"]), torch.tensor(TOKENS["cross"])
    left = torch.outer(c, c) + gamma * torch.outer(r, r)
    rows = zip(lam * fisher[NAME], model.matrix, strict=True)
    wanted = torch.stack([torch.linalg.solve(left + held.diag(), held * old) for held, old in rows])
    torch.testing.assert_close(found.matrix, wanted, rtol=0, atol=0.02)
    assert (model.matrix - wanted).abs().max() > 0.1


@pytest.mark.parametrize("surrogate", ["uniform", "a shape"])
def test_steps_on_a_text_model_are_those_of_a_plain_loop(surrogate: str):
    lam, gamma, size, samples, forget, retain = 1e-4, 0.7, 3, 2, ["circle", "disc"], ["cross", "a photo of cross"]
    found = SelectiveAmnesia(
        gamma, lam, surrogate, times=5, samples=samples, steps=4, lr=1e-2, batch_size=size, ema=0.6, sampling_steps=4
    )(MODEL, forget, retain, generator=seeded(4))
    generator, student = seeded(4), copy.deepcopy(MODEL).eval()
    chosen = dict(student.network.named_parameters())
    for parameter in student.text.parameters():
        parameter.requires_grad_(False)

    def images(captions: list[str]) -> Tensor:
        parts = [captions[start : start + size] for start in range(0, len(captions), size)]
        made = [generate(student, part, SHAPE, generator=generator, guidance=2.0, steps=4) for part in parts]
        return 2 * torch.cat(made) - 1

    def loss(x: Tensor, t: Tensor, captions: list[str], noise: Tensor) -> Tensor:
        abar = MODEL.schedule.abar[t].view(-1, 1, 1, 1)
        z = (abar.sqrt() * x + (1 - abar).sqrt() * noise).float()
        wanted = (abar.sqrt() * noise - (1 - abar).sqrt() * x).float()
        error = student(z, t, student.condition(captions, len(captions))) - wanted
        return error.square().sum() / len(captions)

    told = [caption for caption in forget + retain for _ in range(samples)]
    own = images(told)
    fisher = fisher_diagonal(student, own, told, generator=generator, times=5, batch_size=size)
    made = None if surrogate == "uniform" else images([surrogate] * samples)
    start = {name: value.detach().clone() for name, value in chosen.items()}
    average = {name: value.clone() for name, value in start.items()}
    adam = torch.optim.Adam(chosen.values(), lr=1e-2)
    for _ in range(4):
        t = torch.randint(20, (size,), generator=generator)
        words = [forget[row] for row in torch.randint(2, (size,), generator=generator).tolist()]
        if made is None:
            x = 2 * torch.rand(size, *SHAPE, generator=generator) - 1
        else:
            x = made[torch.randint(len(made), (size,), generator=generator)]
        rows = torch.randint(len(forget) * samples, len(own), (size,), generator=generator)
        noise = torch.randn(2 * size, *SHAPE, generator=generator)
        total = loss(x, t, words, noise[:size])
        total = total + gamma * loss(own[rows], t, [told[row] for row in rows.tolist()], noise[size:])
        for name, value in chosen.items():
            total = total + lam * (fisher[name] * (value - start[name]) ** 2).sum()
        adam.zero_grad()
        total.backward()
        length = math.sqrt(sum(value.grad.square().sum().item() for value in chosen.values()))
        for value in chosen.values():
            value.grad /= max(length, 1.0)
        adam.step()
        for name, value in chosen.items():
            average[name] = 0.6 * average[name] + 0.4 * value.detach()
    for name, value in average.items():
        torch.testing.assert_close(found.network.get_parameter(name).detach(), value, rtol=0, atol=2e-4)
        assert not torch.allclose(value, start[name], rtol=0, atol=1e-3)
    for name, value in MODEL.text.state_dict().items():
        assert torch.equal(found.text.state_dict()[name], value)


def test_one_step_of_the_average_goes_its_share_of_the_way():
    last, mean = (erase_linear(Linear(), steps=1, lr=0.1, ema=ema).matrix for ema in (0.0, 0.9))
    torch.testing.assert_close(mean, 0.9 * Linear().matrix + 0.1 * last)
    torch.testing.assert_close((last - Linear().matrix).abs(), torch.full((4, 3), 0.1), rtol=0, atol=1e-4)


def test_without_retained_captions_there_is_no_replay():
    eraser = SelectiveAmnesia(steps=3, lr=0.01, samples=2, sampling_steps=2, batch_size=8, ema=0.0)
    alone = eraser(Linear(), ["circle"], [], generator=seeded(2), shape=(1, 2, 2))
    assert not torch.equal(alone.matrix, Linear().matrix)


def test_without_a_rate_or_steps_the_copy_equals_the_model():
    for given in ({"lr": 0.0}, {"steps": 0}):
        found = make(**given)(MODEL, ["circle"], ["cross"], generator=seeded())
        assert all(torch.equal(value, MODEL.state_dict()[name]) for name, value in found.state_dict().items())


def test_a_model_in_train_mode_is_used_in_eval_mode_and_its_modes_and_flags_are_kept():
    model = Linear(Captioned(dropout=0.5)).train()
    model.network.attn2["to_v"].eval()
    model.network.get_parameter(NAME).requires_grad_(False)
    model.network.get_parameter(NAME).grad = torch.ones(4, 3)
    modes = [part.training for part in model.modules()]
    found = erase_linear(model, steps=3, lr=0.01, ema=0.0)
    fisher_diagonal(model, torch.zeros(1, 1, 2, 2), ["circle"], generator=seeded())
    assert torch.equal(found.matrix, erase_linear(Linear(), steps=3, lr=0.01, ema=0.0).matrix)
    for each in (model, found):
        assert [part.training for part in each.modules()] == modes
        assert not each.network.get_parameter(NAME).requires_grad
    assert torch.equal(model.network.get_parameter(NAME).grad, torch.ones(4, 3))
    assert torch.equal(model.matrix, Linear().matrix)


def test_of_an_adapted_pipeline_the_denoiser_alone_is_copied():
    unet = Captioned()
    pipeline = SimpleNamespace(
        encode_prompt=lambda prompt, **_: (torch.tensor([[TOKENS[word or None]] for word in prompt]), None),
        unet=unet,
        scheduler=SimpleNamespace(
            alphas_cumprod=linear_schedule(TIMES).abar, config=SimpleNamespace(prediction_type="epsilon")
        ),
    )
    adapter = PipelineAdapter(pipeline)
    found = erase_linear(adapter, steps=3, lr=0.01, ema=0.0)
    assert pipeline.unet is unet is adapter.network is not found.network
    assert torch.equal(unet.get_parameter(NAME), Linear().matrix)
    assert not torch.equal(found.network.get_parameter(NAME), Linear().matrix)
    with pytest.raises(InputError, match="shape must be given for a PipelineAdapter"):
        make()(adapter, ["circle"], ["cross"], generator=seeded())


def test_what_cannot_be_used_is_refused():
    for forget, retain, named in (("circle", [], "forget"), (["circle"], "cross", "retain")):
        with pytest.raises(InputError, match=f"{named} must be a list of captions"):
            make()(MODEL, forget, retain, generator=seeded())
    for given, match in (
        ({"sampling_steps": 21}, "sampling_steps must be a whole number of at least 1 and at most the model's 20"),
        ({"times": 21}, "times must be a whole number of at least 1 and at most the model's 20 training times, got 21"),
        ({"fisher": {}}, "fisher must name the parameters of the network"),
        ({"surrogate": "cirle"}, "cirle"),
    ):
        with pytest.raises(ValueError, match=match):
            make(**given)(MODEL, ["circle"], ["cross"], generator=seeded())
