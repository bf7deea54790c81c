"""Forget-Me-Not against norms by hand, attention in closed form, a plain loop, and the parameters that it may move."""

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
from paperweight.generators.process import linear_schedule
from paperweight.generators.text_model import TextSpec, TextToImage
from paperweight.testing import FunctionSubject, UnlearnerSubject
from paperweight.unlearning.forget_me_not import ForgetMeNot, attention_mass

WORDS = ("a", "photo", "of", "circle", "disc", "cross", "shape")
SHAPE = (1, 8, 8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def tiny() -> TextToImage:
    arguments = {"patch": 4, "width": 16, "blocks": 2, "heads": 2}
    return TextSpec(shape=SHAPE, words=WORDS, length=6, dim=8, steps=20, arguments=arguments).build()


with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL = tiny()
PROBABILITIES = {
    "first": normal(2, 3, 4, 5).softmax(dim=-1),
    "second": normal(2, 1, 7, 5, seed=1).softmax(dim=-1),
}
MARKS = torch.tensor([[True, False, False, True, False], [False, False, True, False, False]])


class Copied:
    """Does nothing."""

    def __call__(self, model, forget, retain, *, generator):
        return copy.deepcopy(model)


class Attention(nn.Module):
    """Attention of one head, with dropout of what it gives where that is wanted."""

    def __init__(self, size: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = 1
        self.to_q, self.to_k = nn.Linear(size, 2, bias=False), nn.Linear(dim, 2, bias=False)
        self.to_v = nn.Linear(dim, size, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(tokens), self.to_v(tokens)
        return self.dropout((q @ k.transpose(1, 2) / math.sqrt(2)).softmax(dim=-1) @ v)


class Attending(nn.Module):
    """Two attentions to a caption, one after the other, of each row of what is diffused."""

    def __init__(self, size: int = 2, dim: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.ModuleDict({"attn2": Attention(size, dim, dropout)})
        self.second = nn.ModuleDict({"attn2": Attention(size, dim, dropout)})
        generator = seeded(5)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)

    def forward(self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        x = z[:, 0]
        x = x + self.first["attn2"](x, encoder_hidden_states)
        return (x + self.second["attn2"](x, encoder_hidden_states))[:, None]


CAPTIONS = {"circle": 1, "a circle": 2, "": 3}


def adapter(**given) -> PipelineAdapter:
    """Adapt a pipeline whose network attends to three tokens of each caption."""
    pipeline = SimpleNamespace(
        encode_prompt=lambda prompt, **_: (torch.stack([normal(3, 3, seed=CAPTIONS[text]) for text in prompt]), None),
        unet=Attending(**given),
        scheduler=SimpleNamespace(
            alphas_cumprod=linear_schedule(10).abar, config=SimpleNamespace(prediction_type="epsilon")
        ),
    )
    return PipelineAdapter(pipeline)


MARKED = torch.tensor([[True, False, False]])
PICTURES = torch.rand(1, 4, 1, 2, 2, generator=seeded(3))

make = partial(ForgetMeNot, steps=3, lr=1e-3, sampling_steps=4, image_count=2, batch_size=2)
CONTRACT = {
    "ForgetMeNot": UnlearnerSubject(
        make=make,
        random=True,
        reads=("forget",),
        model=tiny,
        inputs=(normal(3, *SHAPE), torch.tensor([0, 7, 19]), normal(3, 6, 8, seed=4)),
        forget=("circle", "a photo of circle"),
        retain=("cross", "shape"),
        bad={
            "group": ("keys_and_values", "cross"),
            "steps": (-1, 1.5),
            "lr": (-0.1, math.inf, math.nan),
            "weight_decay": (-0.1, math.inf),
            "clip": (0.0, -1.0, math.nan),
            "batch_size": (0, 1.5),
            "image_count": (0, 1.5),
            "guidance": (-1.0, math.inf),
            "sampling_steps": (0, 1.5),
        },
        null=partial(make, steps=0),
        baseline=Copied,
    ),
    "attention_mass": FunctionSubject(
        make=attention_mass,
        arguments={"maps": PROBABILITIES, "positions": MARKS},
        bad={
            "maps": ({}, {"first": normal(2, 3, 4, 6)}, {"first": normal(3, 3, 4, 5)}),
            "positions": (MARKS.int(), MARKS[:1], MARKS[:, :4]),
        },
    ),
}


def test_the_mass_by_hand():
    """The marked entries of two layers are 0.3, 0.4 and 1.2: their norm is 1.3."""
    maps = {
        "first": torch.tensor([[[[0.3, 0.7]], [[0.4, 0.6]]]]),
        "second": torch.tensor([[[[1.2, 5.0]], [[0.0, 7.0]]]]),
    }
    torch.testing.assert_close(attention_mass(maps, torch.tensor([[True, False]])), torch.tensor(1.3))


def test_the_mass_is_the_root_of_a_sum_of_squares():
    squares = 0.0
    for layer in PROBABILITIES.values():
        for sample in range(2):
            for head in range(layer.shape[1]):
                for place in range(layer.shape[2]):
                    squares += sum(
                        layer[sample, head, place, token].item() ** 2 for token in range(5) if MARKS[sample, token]
                    )
    assert attention_mass(PROBABILITIES, MARKS).item() == pytest.approx(math.sqrt(squares), rel=1e-5)


def test_where_nothing_is_marked_mass_and_gradient_are_zero():
    maps = {name: layer.clone().requires_grad_() for name, layer in PROBABILITIES.items()}
    mass = attention_mass(maps, torch.zeros(2, 5, dtype=torch.bool))
    mass.backward()
    assert mass.item() == 0
    assert all(layer.grad is not None and not layer.grad.any() for layer in maps.values())
    nothing = torch.zeros(1, 1, 2, 3, requires_grad=True)
    attention_mass({"attn2": nothing}, MARKED).backward()
    assert nothing.grad is not None
    assert not nothing.grad.any()


def plain_loop(
    model: TextToImage, captions: list[str], marks: Tensor, images: Tensor, generator: torch.Generator, *, steps: int,
    group: str, clip: float = 1.0, weight_decay: float = 0.01, batch: int = 2,
) -> TextToImage:  # fmt: skip
    """Lower the attention as it is written by hand, from the outputs of to_q and to_k."""
    student = copy.deepcopy(model).eval()
    chosen = {
        name: parameter for name, parameter in student.network.named_parameters() if group == "all" or ".attn2." in name
    }
    adam = torch.optim.AdamW(chosen.values(), lr=1e-3, weight_decay=weight_decay)
    seen: list[Tensor] = []
    for name, part in student.network.named_modules():
        if name.endswith(("attn2.to_q", "attn2.to_k")):
            part.register_forward_hook(lambda *given: seen.append(given[2]))
    for _ in range(steps):
        t = torch.randint(20, (batch,), generator=generator)
        row = torch.randint(images.shape[0] * images.shape[1], (batch,), generator=generator)
        of = row // images.shape[1]
        x = 2 * images.flatten(0, 1)[row] - 1
        noise = torch.randn(x.shape, generator=generator)
        share = model.schedule.abar[t].float().view(-1, 1, 1, 1)
        with torch.no_grad():
            condition = model.condition([captions[index] for index in of], batch)
        seen.clear()
        student(share.sqrt() * x + (1 - share).sqrt() * noise, t, condition)
        squares = torch.zeros(())
        for q, k in zip(seen[::2], seen[1::2], strict=True):
            for head in range(2):
                span = slice(8 * head, 8 * head + 8)
                scores = q[..., span] @ k[..., span].transpose(1, 2) / math.sqrt(8)
                squares = squares + (scores.softmax(dim=-1).square() * marks[of][:, None]).sum()
        adam.zero_grad()
        squares.sqrt().backward()
        gradients = [parameter.grad for parameter in chosen.values() if parameter.grad is not None]
        length = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        for gradient in gradients:
            gradient.mul_(min(1.0, clip / float(length)))
        adam.step()
    return student


@pytest.mark.parametrize("group", ["all", "cross_attention"])
@pytest.mark.parametrize("end", [True, False])
def test_steps_on_a_text_model_are_those_of_a_plain_loop(group, end: bool):
    captions = ["circle", "a photo of disc"]
    found = make(group=group, end=end, steps=4, clip=0.02, weight_decay=0.3, guidance=2.0)(
        MODEL, captions, [], generator=seeded(4)
    )
    generator = seeded(4)
    asked = [caption for caption in captions for _ in range(2)]
    images = generate(MODEL, asked, SHAPE, generator=generator, guidance=2.0, steps=4).view(2, 2, *SHAPE)
    marks = torch.tensor([[1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]])
    marks[0, 1] = marks[1, 4] = int(end)
    wanted = plain_loop(MODEL, captions, marks, images, generator, steps=4, group=group, clip=0.02, weight_decay=0.3)
    for name, parameter in wanted.named_parameters():
        torch.testing.assert_close(found.get_parameter(name), parameter, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("group", "weights"), [("cross_attention", ("to_q", "to_k")), ("all", ("to_q", "to_k"))])
def test_the_first_step_is_against_the_sign_of_the_gradient_in_closed_form(group, weights):
    """With a constant query the softmax of two keys is a sigmoid, and AdamW's first step has the length of the rate."""
    model = adapter()
    with torch.no_grad():
        for part in (model.network.first["attn2"], model.network.second["attn2"]):
            part.to_v.weight.zero_()
    found = ForgetMeNot(group=group, steps=1, lr=0.01, weight_decay=0.0, batch_size=1)(
        model, ["circle"], [], generator=seeded(2), positions=MARKED, images=PICTURES
    )
    generator = seeded(2)
    t, row = torch.randint(10, (1,), generator=generator), torch.randint(4, (1,), generator=generator)
    x = 2 * PICTURES[0][row] - 1
    share = linear_schedule(10).abar[t].float().view(-1, 1, 1, 1)
    x = (share.sqrt() * x + (1 - share).sqrt() * torch.randn(x.shape, generator=generator))[0, 0]
    tokens = model.condition(["circle"], 1)[0]
    for name in ("first", "second"):
        old, new = getattr(model.network, name)["attn2"], getattr(found.network, name)["attn2"]
        keys, queries = tokens @ old.to_k.weight.T, x @ old.to_q.weight.T
        p = (queries @ keys.T / math.sqrt(2)).softmax(dim=1)
        # d (sum p_0^2) / d score_j = 2 p_0^2 ([j = 0] - p_j); the root and its factor do not change the sign.
        scores = p[:, :1].square() * (torch.tensor([1.0, 0.0, 0.0]) - p)
        gradients = {"to_q": (scores @ keys).T @ x, "to_k": (scores.T @ queries).T @ tokens}
        for each in weights:
            assert gradients[each].abs().min() > 1e-4
            wanted = getattr(old, each).weight - 0.01 * gradients[each].sign()
            torch.testing.assert_close(getattr(new, each).weight, wanted, rtol=0, atol=1e-5)


def mass(model: TextToImage, word: str, *, end: bool = True) -> float:
    with torch.no_grad():
        maps = model.attention_maps(normal(32, *SHAPE, seed=9), torch.arange(32) % 20, model.condition([word] * 32, 32))
        return attention_mass(maps, MODEL.tokens_of([word] * 32, [word], end=end)).item()


@pytest.mark.parametrize("group", ["all", "cross_attention"])
def test_attention_to_the_word_falls_and_moves_to_the_padding(group):
    found = ForgetMeNot(group=group, steps=40, lr=0.01, sampling_steps=4, batch_size=4)(
        MODEL, ["circle"], [], generator=seeded()
    )
    assert mass(found, "circle") < 0.4 * mass(MODEL, "circle")
    z, t = normal(4, *SHAPE), torch.arange(4)
    for layer in found.attention_maps(z, t, found.condition(["circle"] * 4, 4)).values():
        torch.testing.assert_close(layer.sum(dim=-1), torch.ones_like(layer[..., 0]))
        assert layer[..., 2:].sum(dim=-1).mean() > 0.8


def test_without_the_end_attention_may_move_there():
    def at_the_end(end: bool) -> float:
        found = make(end=end, steps=30, lr=0.01, batch_size=4)(MODEL, ["circle"], [], generator=seeded())
        assert mass(found, "circle", end=end) < 0.2 * mass(MODEL, "circle", end=end)
        maps = found.attention_maps(normal(4, *SHAPE), torch.arange(4), found.condition(["circle"] * 4, 4))
        return torch.stack([layer[..., 1].mean() for layer in maps.values()]).mean().item()

    assert at_the_end(True) < 0.05
    assert at_the_end(False) > 0.15


def test_given_positions_are_those_that_are_lowered():
    captions = ["a photo of circle", "circle"]
    marks = MODEL.tokens_of(captions, ["circle"], end=True)
    given = make()(MODEL, captions, [], generator=seeded(), positions=marks)
    images = generate(MODEL, [captions[0]] * 2 + [captions[1]] * 2, SHAPE, generator=(drawn := seeded()), steps=4)
    wanted = plain_loop(MODEL, captions, marks.int(), images.view(2, 2, *SHAPE), drawn, steps=3, group="all", batch=2)
    for name, parameter in wanted.named_parameters():
        torch.testing.assert_close(given.get_parameter(name), parameter, rtol=0, atol=2e-5)
    every = make()(MODEL, captions, [], generator=seeded())
    name = "network.blocks.0.attn2.to_k.weight"
    assert not torch.equal(every.get_parameter(name), given.get_parameter(name))


def test_an_image_goes_with_its_own_caption():
    images = torch.rand(2, 3, *SHAPE, generator=seeded(6))
    captions = ["circle", "a photo of disc"]
    found = make(steps=5, batch_size=3, sampling_steps=100)(MODEL, captions, [], generator=seeded(1), images=images)
    marks = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    wanted = plain_loop(MODEL, captions, marks, images, seeded(1), steps=5, group="all", batch=3)
    for name, parameter in wanted.named_parameters():
        torch.testing.assert_close(found.get_parameter(name), parameter, rtol=0, atol=2e-5)


def test_what_moves():
    """What lies behind the last attention has no part in any, and is not trained, not even by weight decay."""
    before = {name: value.clone() for name, value in MODEL.state_dict().items()}
    found = make(steps=6)(MODEL, ["circle"], ["cross"], generator=seeded())
    changed = {name for name, value in found.named_parameters() if not torch.equal(value, before[name])}
    still = ("network.norm.", "network.out.", "network.blocks.1.attn2.to_v.", "network.blocks.1.attn2.to_out.")
    assert changed
    assert all(name.startswith("network.") and not name.startswith(still) for name in changed)
    assert any(".attn2." not in name for name in changed)
    narrow = make(group="cross_attention", steps=6)(MODEL, ["circle"], ["cross"], generator=seeded())
    moved = {name for name, value in narrow.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name in changed if ".attn2." in name}
    assert all(torch.equal(value, before[name]) for name, value in MODEL.state_dict().items())
    assert all(parameter.grad is None for model in (MODEL, found) for parameter in model.parameters())


def test_without_a_rate_or_steps_the_copy_equals_the_model():
    for eraser in (make(lr=0.0), make(steps=0)):
        found = eraser(MODEL, ["circle"], [], generator=seeded())
        assert all(torch.equal(value, MODEL.state_dict()[name]) for name, value in found.state_dict().items())


def test_modes_and_flags_are_kept_and_dropout_is_off():
    model = adapter(dropout=0.5)
    erase = partial(ForgetMeNot(steps=4, lr=0.01), forget=["circle"], retain=[], positions=MARKED, images=PICTURES)
    model.network.second.requires_grad_(False)
    model.network.eval()
    quiet = erase(model, generator=seeded())
    model.network.train()
    model.network.second.eval()
    modes = [part.training for part in model.network.modules()]
    found = erase(model, generator=seeded())
    assert [part.training for part in model.network.modules()] == modes
    assert [part.training for part in found.network.modules()] == modes
    for name, value in found.network.named_parameters():
        assert torch.equal(value, quiet.network.get_parameter(name))
        assert value.requires_grad == model.network.get_parameter(name).requires_grad


def test_of_an_adapted_pipeline_the_denoiser_alone_is_copied():
    model = adapter()
    network, before = model.network, copy.deepcopy(model.network.state_dict())
    captions, marks = ["circle", "a circle"], torch.tensor([[True, False, False], [False, True, False]])
    images = torch.rand(2, 4, 1, 2, 2, generator=seeded(7))
    eraser = ForgetMeNot(steps=40, lr=0.02, batch_size=4, sampling_steps=3)
    erase = partial(eraser, model, captions, [], generator=seeded())
    found = erase(positions=marks, images=images)
    assert model.pipeline.unet is network is model.network is not found.network
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for row, caption in enumerate(captions):
        tokens, x = model.condition([caption], 1)[0], model.encode(images[row]).flatten(0, 2)
        shares = [
            (each.to_q(x) @ each.to_k(tokens).T / math.sqrt(2)).softmax(dim=1)[:, row].square().mean().item()
            for each in (part.network.first["attn2"] for part in (found, model))
        ]
        assert shares[0] < 0.5 * shares[1]
    drawn = erase(positions=marks, shape=(1, 2, 2))
    assert not torch.equal(drawn.network.first["attn2"].to_q.weight, network.first["attn2"].to_q.weight)
    with pytest.raises(InputError, match="positions must be given for a PipelineAdapter"):
        erase(shape=(1, 2, 2))
    with pytest.raises(InputError, match="shape must be given for a PipelineAdapter"):
        erase(positions=marks)


def test_what_cannot_be_erased_is_refused():
    with pytest.raises(InputError, match="forget must be a list of captions, got the text 'a'"):
        make()(MODEL, "a", [], generator=seeded())
    with pytest.raises(InputError, match="cirle"):
        make()(MODEL, ["circle", "cirle"], [], generator=seeded())
    with pytest.raises(ValueError, match="sampling_steps must be at most the model's 20 training times, got 21"):
        make(sampling_steps=21)(MODEL, ["circle"], [], generator=seeded())
    with pytest.raises(InputError, match="positions must mark a token of each caption"):
        make(end=False)(MODEL, [""], [], generator=seeded())
    for marks in (torch.ones(1, 5, dtype=torch.bool), torch.ones(2, 6, dtype=torch.bool), torch.ones(1, 6)):
        with pytest.raises(InputError, match="positions must mark a token of each caption"):
            make()(MODEL, ["circle"], [], generator=seeded(), positions=marks)
    for images in (torch.rand(2, 1, *SHAPE), torch.rand(1, 0, *SHAPE), torch.rand(1, *SHAPE)):
        with pytest.raises(InputError, match="images must be"):
            make()(MODEL, ["circle"], [], generator=seeded(), images=images)
