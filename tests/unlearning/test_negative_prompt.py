"""The negative prompt against guidance written by hand, and images that it leaves as they are."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from paperweight.errors import InputError
from paperweight.generators.generation import generate
from paperweight.generators.pipeline import PipelineAdapter
from paperweight.generators.process import linear_schedule
from paperweight.generators.protocol import GuidedDiffusion, predicted_noise
from paperweight.generators.steering import Steered
from paperweight.generators.text_model import TextSpec, TextToImage
from paperweight.testing import UnlearnerSubject
from paperweight.unlearning.negative_prompt import NegativePrompt

SHAPE = (1, 8, 8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def tiny() -> TextToImage:
    arguments = {"patch": 4, "width": 16, "blocks": 1, "heads": 2}
    words = ("a", "photo", "of", "circle", "disc", "cross")
    return TextSpec(shape=SHAPE, words=words, length=6, dim=8, steps=20, arguments=arguments).build()


with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL = tiny().eval()

CONTRACT = {
    "NegativePrompt": UnlearnerSubject(
        make=NegativePrompt,
        reads=("forget",),
        model=tiny,
        inputs=(normal(3, *SHAPE), torch.tensor([0, 7, 19]), normal(3, 6, 8, seed=4)),
        forget=["circle", "disc"],
        retain=["cross", "a photo of cross"],
    )
}


def noise_of(*captions: str) -> list[Tensor]:
    z, t = normal(1, *SHAPE), torch.tensor([7])
    return [MODEL.eps(z, t, MODEL.condition([caption], 1)) for caption in captions]


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0, 7.5])
def test_guidance_starts_from_the_negative_prompt(guidance: float):
    erased = NegativePrompt()(MODEL, ["circle"], [])
    found = predicted_noise(erased, ["a cross"], 1, guidance)(normal(1, *SHAPE), torch.tensor([7]))
    cross, circle = noise_of("a cross", "circle")
    torch.testing.assert_close(found, circle + guidance * (cross - circle))


def test_the_forgotten_caption_itself_is_sampled_without_guidance_at_any_weight():
    erased = NegativePrompt()(MODEL, ["circle"], [])
    plain = generate(MODEL, ["circle"] * 2, SHAPE, generator=seeded(), guidance=1.0, steps=5)
    for guidance in (1.0, 3.0, 7.5):
        images = generate(erased, ["circle"] * 2, SHAPE, generator=seeded(), guidance=guidance, steps=5)
        torch.testing.assert_close(images, plain)


def test_the_empty_negative_prompt_is_plain_guidance():
    steered = Steered(MODEL, "", NegativePrompt())
    assert isinstance(steered, GuidedDiffusion)
    assert not isinstance(MODEL, GuidedDiffusion)
    images = [generate(each, ["circle"] * 2, SHAPE, generator=seeded(), steps=5) for each in (steered, MODEL)]
    assert torch.equal(*images)


def test_captions_are_joined():
    both = NegativePrompt()(MODEL, ["circle", "a disc"], [])
    assert isinstance(both, Steered)
    assert both.concept == "circle a disc"


def test_it_keeps_its_model_apart_and_in_its_mode():
    assert not NegativePrompt()(MODEL, ["circle"], []).training
    model = tiny()
    erased = NegativePrompt()(model, ["circle"], [])
    assert erased.training
    before = erased(normal(1, *SHAPE), torch.tensor([7]), MODEL.condition(["cross"], 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(erased(normal(1, *SHAPE), torch.tensor([7]), MODEL.condition(["cross"], 1)), before)


def test_an_adapted_pipeline_is_steered_as_it_is():
    pipeline = SimpleNamespace(
        encode_prompt=lambda prompt, **_: (torch.tensor([[[float(len(text))]] for text in prompt]), None),
        unet=lambda z, t, encoder_hidden_states: (z + encoder_hidden_states[:, :, None],),
        scheduler=SimpleNamespace(
            alphas_cumprod=linear_schedule(10).abar, config=SimpleNamespace(prediction_type="epsilon")
        ),
    )
    model = PipelineAdapter(pipeline)
    erased = NegativePrompt()(model, ["cat"], [])
    z = torch.zeros(1, 1, 2, 2)
    found = predicted_noise(erased, ["a long dog"], 1, 2.0)(z, torch.tensor([3]))
    torch.testing.assert_close(found, torch.full_like(z, 3 + 2 * (10 - 3)))
    torch.testing.assert_close(erased.decode(z), model.decode(z))
    assert torch.equal(erased.latent_mask(z[0]), z[0])


def test_what_cannot_be_kept_off_is_refused():
    with pytest.raises(InputError, match="forget must be a list of captions"):
        NegativePrompt()(MODEL, "circle", [])
    with pytest.raises(InputError, match="cirle"):
        NegativePrompt()(MODEL, ["cirle"], [])
    with pytest.raises(InputError, match="at most 5 tokens"):
        NegativePrompt()(MODEL, ["a photo of", "a photo of"], [])
