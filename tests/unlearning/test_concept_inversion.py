"""Concept inversion against closed forms of a linear model, a hand-written step, and words that are known."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from paperweight.errors import InputError
from paperweight.generators.process import add_noise, guided
from paperweight.generators.text_model import TextSpec, TextToImage
from paperweight.testing import FunctionSubject
from paperweight.unlearning.concept_inversion import InvertedConcept, invert_concept, negative_prompt_error
from paperweight.unlearning.negative_prompt import NegativePrompt
from paperweight.unlearning.safe_latent_diffusion import SafeLatentDiffusion

WORDS = ("a", "photo", "of", "circle", "cross", "shape")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def tiny() -> TextToImage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        arguments = {"patch": 4, "width": 16, "blocks": 1, "heads": 2}
        spec = TextSpec(shape=(1, 8, 8), words=WORDS, length=8, dim=8, steps=20, arguments=arguments)
        return spec.build()


MODEL = tiny().eval().requires_grad_(False)
IMAGES = torch.rand(5, 1, 8, 8, generator=seeded(1))
invert = partial(invert_concept, MODEL, IMAGES)

CONTRACT = {
    "invert_concept": FunctionSubject(
        make=lambda **given: invert_concept(**{"generator": seeded(), "steps": 2, "batch_size": 2, **given}),
        arguments={"model": MODEL, "images": IMAGES, "initial": "circle"},
        bad={
            "vectors": (0,),
            "steps": (-1,),
            "lr": (-0.1, math.nan, math.inf),
            "batch_size": (0,),
            "weight_decay": (-0.1,),
            "largest_norm": (0.0,),
            "templates": ((), "{}", ("a circle",)),
            "images": (IMAGES[:0],),
            "guidance": (0.0, math.inf),
            "history": (0, 91),
            "history_range": (34,),
        },
    ),
    "negative_prompt_error": FunctionSubject(
        make=negative_prompt_error,
        arguments={"without": normal(2, 3), "concept": normal(2, 3, seed=1), "inverted": normal(2, 3), "guidance": 3.0},
        bad={"guidance": (0.0, -1.0, math.inf)},
    ),
}


@pytest.mark.parametrize("guidance", [0.5, 1.0, 3.0, 7.5])
def test_error_under_a_negative_prompt_vanishes_at_its_closed_form_alone(guidance: float):
    without, concept = normal(4, 3, seed=1), normal(4, 3, seed=2)
    optimum = concept + (guidance - 1) / guidance * (concept - without)
    assert negative_prompt_error(without, concept, optimum, guidance).item() < 1e-25
    shift = normal(4, 3, seed=3)
    off = negative_prompt_error(without, concept, optimum + shift, guidance)
    torch.testing.assert_close(off, (guidance * shift).square().mean())


def test_a_prompt_that_is_the_negative_prompt_is_sampled_without_guidance():
    concept = normal(4, 3)
    for guidance in (0.5, 3.0, 7.5):
        torch.testing.assert_close(guided(concept, concept, guidance), concept)


@pytest.mark.parametrize("attacked", ["weights", "negative prompt"])
def test_the_first_step_is_that_of_adam_on_a_loss_written_by_hand(attacked: str):
    """At the first step AdamW moves each entry by the rate against the sign of its gradient, after the decay."""
    model = MODEL if attacked == "weights" else NegativePrompt()(MODEL, ["circle"], [])
    found = invert_concept(
        model, IMAGES, generator=seeded(3), initial="cross", steps=1, batch_size=4, lr=0.01, weight_decay=0.1
    )
    generator = seeded(3)
    x = 2 * IMAGES[torch.randint(5, (4,), generator=generator)] - 1
    t = torch.randint(20, (4,), generator=generator)
    torch.randint(1, (4,), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    abar = MODEL.schedule.abar[t]
    z, share = add_noise(x, noise, abar), abar.float()[:, None, None, None]
    start, row, tokens = asked("cross", 4)
    output = MODEL.network(z, t * 50.0, tokens)
    if attacked == "weights":
        loss = (output - (share.sqrt() * noise - (1 - share).sqrt() * x)).square().mean()
    else:
        without, concept = MODEL(z, t, None), MODEL(z, t, MODEL.condition(["circle"] * 4, 4))
        loss = (concept + 7.5 * (output - concept) - without - 7.5 * (concept - without)).square().mean()
    check_first_step(found, loss, start, row)


@pytest.mark.parametrize("momentum_scale", [0.0, 0.6])
def test_the_first_step_against_safe_latent_diffusion_is_on_a_recursion_written_by_hand(momentum_scale: float):
    numbers = {"safety_scale": 4.0, "threshold": 0.1, "momentum_scale": momentum_scale, "momentum_decay": 0.4}
    steered = SafeLatentDiffusion(warmup=30, **numbers)(MODEL, ["circle"], [])
    found = invert_concept(
        steered, IMAGES, generator=seeded(3), initial="cross", steps=1, batch_size=2, lr=0.01, weight_decay=0.1,
        guidance=3.0, history=3, history_range=5,
    )  # fmt: skip
    generator = seeded(3)
    x = 2 * IMAGES[torch.randint(5, (2,), generator=generator)] - 1
    torch.randint(1, (2,), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    last = torch.randint(5, 21, (2,), generator=generator)
    picks = torch.rand(2, 5, generator=generator).argsort(dim=1)[:, :3]
    times = [sorted((int(last[k]) - 5 + int(p) for p in picks[k]), reverse=True) for k in range(2)]
    assert all(a > b > c for a, b, c in times)
    start, row, tokens = asked("cross", 2)
    nu, loss = torch.zeros_like(x), torch.zeros(())
    for index in range(3):
        t = torch.tensor([each[index] for each in times])
        abar = MODEL.schedule.abar[t]
        z, share = add_noise(x, noise, abar), abar.float()[:, None, None, None]
        u, s = MODEL.eps(z, t, None), MODEL.eps(z, t, MODEL.condition(["circle"] * 2, 2))
        p = MODEL.eps(z, t, tokens)
        mu = torch.where(p - s >= 0.1, torch.zeros_like(p), (4.0 * (p - s).abs()).clamp(max=1))
        gamma = mu * (s - u) + momentum_scale * nu
        nu = 0.4 * nu + 0.6 * gamma
        error = (u + 3.0 * (p - u - gamma)) - (u + 3.0 * (s - u))
        loss = (error / share.sqrt()).square().mean()
    check_first_step(found, loss, start, row)


def asked(word: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give the embedding of a word, a row with gradients that starts from it, and tokens of a caption of that row."""
    start = MODEL.embedding_of(word)
    row = start.clone().requires_grad_()
    numbers = torch.tensor([[len(WORDS) + 2, 1, 0, 0, 0, 0, 0, 0]]).expand(count, -1)
    return start, row, MODEL.text.encode(torch.cat([MODEL.text.table.weight, row])[numbers])


def check_first_step(found: InvertedConcept, loss: Tensor, start: Tensor, row: Tensor) -> None:
    loss.backward()
    torch.testing.assert_close(found.losses, loss.detach()[None], rtol=1e-4, atol=1e-6)
    assert row.grad is not None
    expected = start * (1 - 0.01 * 0.1) - 0.01 * row.grad.sign()
    torch.testing.assert_close(found.embedding, expected, rtol=0, atol=1e-4)


def test_a_history_that_the_model_does_not_have_is_refused():
    steered = SafeLatentDiffusion()(MODEL, ["circle"], [])
    with pytest.raises(ValueError, match="history_range must be at most the model's 20 training times, got 90"):
        invert_concept(steered, IMAGES, steps=1, generator=seeded())


def test_a_steered_model_stays_as_it_is():
    steered = SafeLatentDiffusion()(MODEL, ["circle"], [])
    state = {name: value.clone() for name, value in steered.state_dict().items()}
    found = invert_concept(steered, IMAGES, steps=2, history=2, history_range=4, generator=seeded())
    assert all(torch.equal(value, state[name]) for name, value in steered.state_dict().items())
    told = steered.with_words({"<v>": found.embedding})
    assert torch.equal(told.embedding_of("<v>"), found.embedding)
    assert told.concept == "circle"


def test_without_steps_the_new_word_is_the_one_it_starts_from():
    found = invert(generator=seeded(), initial="circle", steps=0)
    assert torch.equal(found.embedding, MODEL.embedding_of("circle"))
    assert len(found.losses) == 0
    told = MODEL.with_words({"<v>": found.embedding})
    assert torch.equal(told.condition(["a photo of <v>"], 1), MODEL.condition(["a photo of circle"], 1))


def test_each_vector_starts_from_the_word_or_from_numbers_of_its_own():
    same = invert(generator=seeded(), initial="circle", vectors=3, steps=0).embedding
    assert torch.equal(same, MODEL.embedding_of("circle").expand(3, -1))
    random = invert(generator=seeded(), vectors=2, steps=0).embedding
    assert len(random.unique()) == random.numel()


def test_the_norm_is_bounded_after_every_step():
    free = invert(generator=seeded(), initial="circle", vectors=2, steps=5, lr=1.0)
    held = invert(generator=seeded(), initial="circle", vectors=2, steps=5, lr=1.0, largest_norm=1.5)
    assert (free.embedding.norm(dim=1) > 2).all()
    torch.testing.assert_close(held.embedding.norm(dim=1), torch.full((2,), 1.5), rtol=1e-5, atol=1e-5)


def test_a_caption_may_have_the_word_twice():
    once, twice = (
        invert_concept(MODEL, IMAGES, generator=seeded(), initial="circle", steps=2, templates=[template])
        for template in ("{}", "{} {}")
    )
    assert once.losses.tolist() != twice.losses.tolist()


def test_nothing_but_the_new_rows_changes_and_words_of_before_stay():
    model = MODEL.with_words({"<old>": normal(2, 8).float()})
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = invert_concept(model, IMAGES, generator=seeded(), vectors=2, steps=3, templates=["a photo of {}", "{}"])
    assert found.embedding.shape == (2, 8)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    both = model.with_words({"<new>": found.embedding})
    assert torch.equal(both.embedding_of("<old>"), model.embedding_of("<old>"))


def test_the_loss_falls_where_an_embedding_can_lower_it():
    found = invert(generator=seeded(), initial="cross", steps=150, lr=0.1, batch_size=16)
    assert found.losses[-40:].mean() < found.losses[:40].mean()


def test_bad_words_are_refused():
    with pytest.raises(InputError, match="cirle"):
        invert(generator=seeded(), initial="cirle", steps=1)
    with pytest.raises(InputError, match="at most 7 tokens"):
        invert(generator=seeded(), vectors=8, steps=1)
    model = MODEL.with_words({"<old>": normal(2, 8).float()})
    with pytest.raises(ValueError, match="initial must be a word of one token"):
        invert_concept(model, IMAGES, initial="<old>", steps=1, generator=seeded())
