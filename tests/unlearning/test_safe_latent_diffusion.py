"""Safe latent diffusion against a loop over elements, its limits, and the warm-up and momentum of a sampler."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from paperweight.errors import InputError
from paperweight.generators.generation import generate
from paperweight.generators.process import guided
from paperweight.generators.protocol import predicted_noise
from paperweight.generators.steering import Steered
from paperweight.generators.text_model import TextSpec, TextToImage
from paperweight.testing import FunctionSubject, UnlearnerSubject
from paperweight.unlearning.safe_latent_diffusion import PRESETS, SafeLatentDiffusion, safe_guidance

SHAPE = (1, 8, 8)
NUMBERS = {"safety_scale": 0.8, "threshold": 0.1, "momentum_scale": 0.3, "momentum_decay": 0.4}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def tiny() -> TextToImage:
    arguments = {"patch": 4, "width": 16, "blocks": 1, "heads": 2}
    words = ("a", "photo", "of", "circle", "disc", "cross")
    return TextSpec(shape=SHAPE, words=words, length=6, dim=8, steps=20, arguments=arguments).build()


with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL = tiny().eval()


class PlainRule:
    """Guidance as it is without an eraser."""

    def __call__(self, model, forget, retain):
        return Steered(model, " ".join(forget), self)

    def start(self):
        return lambda eps, guidance: guided(eps("caption"), eps("empty"), guidance)


CONTRACT = {
    "SafeLatentDiffusion": UnlearnerSubject(
        make=partial(SafeLatentDiffusion, warmup=0),
        reads=("forget",),
        model=tiny,
        inputs=(normal(3, *SHAPE).float(), torch.tensor([0, 7, 19]), normal(3, 6, 8, seed=4).float()),
        forget=["circle", "disc"],
        retain=["cross", "a photo of cross"],
        bad={
            "warmup": (-1, 1.5),
            "safety_scale": (-1.0, math.inf, math.nan),
            "threshold": (math.inf, math.nan),
            "momentum_scale": (-0.1, math.inf),
            "momentum_decay": (-0.1, 1.0, math.nan),
        },
        null=partial(SafeLatentDiffusion, warmup=0, safety_scale=0.0),
        baseline=PlainRule,
    ),
    "safe_guidance": FunctionSubject(
        make=safe_guidance,
        arguments={
            "without": normal(2, 3),
            "given": normal(2, 3, seed=1),
            "concept": normal(2, 3, seed=2),
            "momentum": normal(2, 3, seed=3),
            **NUMBERS,
        },
        bad={"safety_scale": (-1.0,), "momentum_decay": (1.0,), "threshold": (math.nan,), "momentum_scale": (-1.0,)},
    ),
}


def by_hand(u: float, p: float, s: float, nu: float, preset) -> tuple[float, float]:
    scale = min(1.0, abs(p - s) * preset["safety_scale"])
    mu = 0.0 if p - s >= preset["threshold"] else scale
    gamma = mu * (s - u) + preset["momentum_scale"] * nu
    return gamma, preset["momentum_decay"] * nu + (1 - preset["momentum_decay"]) * gamma


@pytest.mark.parametrize("preset", [*PRESETS.values(), NUMBERS])
def test_twelve_steps_are_those_of_a_loop_over_elements(preset):
    numbers = {name: value for name, value in preset.items() if name != "warmup"}
    momentum, expected = torch.zeros(2, 3, dtype=torch.float64), [[0.0] * 3 for _ in range(2)]
    for index in range(12):
        u, p, s = (0.05 * normal(2, 3, seed=3 * index + k) for k in range(3))
        gamma, momentum = safe_guidance(u, p, s, momentum, **numbers)
        for row in range(2):
            for column in range(3):
                given = [float(value[row, column]) for value in (u, p, s)]
                wanted, expected[row][column] = by_hand(*given, expected[row][column], numbers)
                assert abs(wanted - float(gamma[row, column])) < 1e-12
    torch.testing.assert_close(momentum, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_only_where_the_caption_comes_near_the_concept_from_below_is_anything_taken():
    u = torch.zeros(1, 5)
    s = torch.ones(1, 5)
    p = s + torch.tensor([[-2.0, -0.0625, 0.0, 0.0625, 0.125]])
    numbers = {"safety_scale": 8.0, "threshold": 0.125, "momentum_scale": 0.0, "momentum_decay": 0.0}
    gamma, _ = safe_guidance(u, p, s, u, **numbers)
    torch.testing.assert_close(gamma, torch.tensor([[1.0, 0.5, 0.0, 0.5, 0.0]]))


def test_a_caption_like_the_concept_leaves_momentum_alone():
    s, nu = normal(2, 3), normal(2, 3, seed=1)
    gamma, after = safe_guidance(normal(2, 3, seed=2), s, s, nu, **NUMBERS)
    torch.testing.assert_close(gamma, 0.3 * nu)
    torch.testing.assert_close(after, 0.4 * nu + 0.6 * gamma)


def test_the_presets_are_those_of_the_authors_and_the_default_is_medium():
    assert list(PRESETS) == ["weak", "medium", "strong", "max"]
    for first, second in pairwise(PRESETS.values()):
        assert first["warmup"] > second["warmup"]
        assert first["safety_scale"] < second["safety_scale"]
        assert first["threshold"] < second["threshold"]
    assert vars(SafeLatentDiffusion()) == dict(PRESETS["medium"])


def test_before_the_warm_up_is_over_it_is_plain_guidance_while_the_momentum_forms():
    erased = SafeLatentDiffusion(warmup=2, **NUMBERS)(MODEL, ["circle"], [])
    sampler, plain = (predicted_noise(each, ["a cross"], 1, 3.0) for each in (erased, MODEL))
    momentum, t = torch.zeros(1, *SHAPE), torch.tensor([9])
    for index in range(4):
        z = normal(1, *SHAPE, seed=index).float()
        u, p, s = (MODEL.eps(z, t, MODEL.condition([text], 1)) for text in ("", "a cross", "circle"))
        gamma, momentum = safe_guidance(u, p, s, momentum, **NUMBERS)
        found = sampler(z, t)
        if index < 2:
            assert torch.equal(found, plain(z, t))
        else:
            torch.testing.assert_close(found, u + 3.0 * (p - u - gamma))
        assert momentum.abs().max() > 1e-4


def test_each_way_from_noise_to_images_has_a_momentum_of_its_own():
    erased = SafeLatentDiffusion(warmup=0, **NUMBERS)(MODEL, ["circle"], [])
    first, second = (generate(erased, ["cross"], SHAPE, generator=seeded(), steps=4) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, generate(MODEL, ["cross"], SHAPE, generator=seeded(), steps=4))


def test_what_cannot_be_kept_off_is_refused():
    with pytest.raises(InputError, match="forget must be a list of captions"):
        SafeLatentDiffusion()(MODEL, "circle", [])
    with pytest.raises(InputError, match="cirle"):
        SafeLatentDiffusion()(MODEL, ["cirle"], [])
