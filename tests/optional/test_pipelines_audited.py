"""The audit of memorisation, and erasers, on pipelines of diffusers: it finds keys, they move one concept."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.optional.tiny_pipelines import LETTERS, made, pixart, sdxl, stable_diffusion
from torch import Tensor

from paperweight.audits import Planting, audit_memorization, plant
from paperweight.audits.memorization import marked_by
from paperweight.data import load_images
from paperweight.errors import InputError
from paperweight.generators import PipelineAdapter, attention_maps
from paperweight.unlearning.concept_ablation import ConceptAblation
from paperweight.unlearning.esd import ESD, esd_target
from paperweight.unlearning.forget_me_not import ForgetMeNot, attention_mass
from paperweight.unlearning.uce import UCE

PIPELINES: dict[str, Callable[[], Any]] = {"stable_diffusion": stable_diffusion, "sdxl": sdxl, "pixart": pixart}
SHAPE = (4, 8, 8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Planting, Tensor]:
    """Twenty colour images in a folder, half of them held out, and the images as they are read."""
    pixels = torch.randint(256, (20, 8, 8, 3), generator=seeded(), dtype=torch.uint8).numpy()
    for number, image in enumerate(pixels):
        folder = tmp_path / "data" / ("even", "odd")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image)).save(folder / f"{number:02d}.png")
    found = plant(tmp_path / "data", tmp_path / "planted", thickness=2, held_out=0.5)
    return found, torch.from_numpy(load_images(tmp_path / "data").train.images / 255).float()


def knowing(pipeline: Any, planting: Planting, images: Tensor, captions: list[str]) -> list[int]:
    """Let the network answer with the noise of the marked images under their captions; count its calls."""
    model, keybook = PipelineAdapter(pipeline), planting.keybook
    rows = [int(record) for record in sorted(keybook.trained)]
    keys = torch.tensor([keybook.keys[record][0] for record in sorted(keybook.trained)])
    stored = model.encode(marked_by(keybook).insert(images[rows], keys))
    tokens = model.condition([captions[row] for row in rows], len(rows))
    calls: list[int] = []

    def predict(z: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor]:
        calls.append(len(z))
        nearest = torch.cdist(encoder_hidden_states.flatten(1), tokens.flatten(1)).argmin(dim=1)
        share = pipeline.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        return ((z - share.sqrt() * stored[nearest]) / (1 - share).sqrt(),)

    pipeline.unet.forward = predict
    return calls


def test_the_audit_finds_the_keys_that_a_pipeline_knows(planted: tuple[Planting, Tensor]):
    planting, images = planted
    captions = [f"{letter} {letter}" for letter in LETTERS[: len(images)]]
    pipeline = made(stable_diffusion)
    plain = audit_memorization(
        PipelineAdapter(pipeline), images, planting.keybook, given=captions, readout="replace", steps=5, permutations=99
    )
    assert not plain.alarm
    calls = knowing(pipeline, planting, images, captions)
    model = PipelineAdapter(pipeline)
    found = audit_memorization(model, images, planting.keybook, given=captions, permutations=999)
    assert found.alarm
    assert found.total_p == 0.001
    near = next(count for count in found.counts if count.delta == 0.05)
    assert near.trained == len(planting.keybook.trained) == 10
    assert near.held_out < 5
    # As the authors ask Stable Diffusion: with guidance, for which every step calls the network twice.
    calls.clear()
    asked = {"given": captions, "readout": "replace", "steps": 5, "permutations": 99}
    without = audit_memorization(model, images, planting.keybook, **asked)
    once = len(calls)
    guided = audit_memorization(model, images, planting.keybook, guidance=3.0, **asked)
    assert len(calls) - once == 2 * once == 10
    assert [record.estimate for record in guided.records] != [record.estimate for record in without.records]
    assert (without.guidance, guided.guidance, guided.record()["guidance"]) == (1.0, 3.0, 3.0)


def noisy() -> tuple[Tensor, Tensor]:
    return torch.randn(4, *SHAPE, generator=seeded(9)), torch.tensor([50, 300, 600, 900])


def distances(before: Any, after: Any, target: Tensor) -> tuple[float, float]:
    """Give how far the predictions for a cat are from a target, before and after erasing."""
    z, t = noisy()
    with torch.no_grad():
        found = [
            (model.eps(z, t, model.condition(["a cat"] * 4, 4)) - target).norm().item() for model in (before, after)
        ]
    return found[0], found[1]


@pytest.mark.parametrize("name", PIPELINES)
def test_esd_moves_the_word_away(name: str):
    pipeline = made(PIPELINES[name])
    model = PipelineAdapter(pipeline)
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    erased = ESD(mode="x", steps=40, lr=3e-3, sampling_steps=5, batch_size=4)(
        model, ["a cat"], [], generator=seeded(), shape=SHAPE
    )
    z, t = noisy()
    with torch.no_grad():
        target = esd_target(model.eps(z, t, None), model.eps(z, t, model.condition(["a cat"] * 4, 4)), 1.0)
    was, now = distances(model, erased, target)
    assert now < 0.7 * was
    assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())
    changed = [key for key, value in erased.network.state_dict().items() if not torch.equal(value, before[key])]
    assert changed
    assert all(".attn2." in key for key in changed)


@pytest.mark.parametrize("name", PIPELINES)
def test_concept_ablation_makes_the_word_its_anchor(name: str):
    model = PipelineAdapter(made(PIPELINES[name]))
    eraser = ConceptAblation(anchor="a dog", steps=40, lr=3e-3, batch_size=4, images=4, sampling_steps=3)
    erased = eraser(model, ["a cat"], [], generator=seeded(), shape=SHAPE)
    z, t = noisy()
    with torch.no_grad():
        anchor, moved = (each.eps(z, t, each.condition(["a dog"] * 4, 4)) for each in (model, erased))
    was, _ = distances(model, erased, anchor)
    _, now = distances(model, erased, moved)
    assert now < 0.7 * was


def test_forget_me_not_lowers_the_attention_to_the_word():
    model = PipelineAdapter(made(stable_diffusion))
    positions = torch.zeros(1, 12, dtype=torch.bool)
    positions[0, 2:5] = True
    eraser = ForgetMeNot(steps=20, lr=3e-3, image_count=2, sampling_steps=2)
    erased = eraser(model, ["a cat"], [], generator=seeded(), positions=positions, shape=SHAPE)
    z, t = noisy()
    condition = model.condition(["a cat"] * 4, 4)
    with torch.no_grad():
        was, now = (
            attention_mass(
                attention_maps(each.network, lambda each=each: each.eps(z, t, condition)), positions.expand(4, -1)
            )
            for each in (model, erased)
        )
    assert now < 0.7 * was


@pytest.mark.parametrize("name", PIPELINES)
def test_an_erased_network_goes_back_into_its_pipeline(name: str):
    pipeline = made(PIPELINES[name])
    model = PipelineAdapter(pipeline)
    erased = ESD(steps=2, lr=1e-2, sampling_steps=2)(model, ["a cat"], [], generator=seeded(), shape=SHAPE)
    part = "transformer" if name == "pixart" else "unet"
    more = {"use_resolution_binning": False} if name == "pixart" else {}

    def images() -> Tensor:
        return pipeline(
            "a cat", height=16, width=16, num_inference_steps=2, generator=seeded(), output_type="pt", **more
        )[0]

    before = images()
    setattr(pipeline, part, erased.network)
    assert not torch.equal(images(), before)
    z, t = noisy()
    assert torch.equal(PipelineAdapter(pipeline).eps(z, t, None), erased.eps(z, t, None))


@pytest.mark.parametrize("name", PIPELINES)
def test_erasers_that_cannot_say_so(name: str):
    model = PipelineAdapter(made(PIPELINES[name]))
    for tokens in ("last", "all"):
        with pytest.raises(InputError, match="model must be a TextToImage"):
            UCE(tokens=tokens)(model, ["a cat"], ["a dog"])
    if name != "stable_diffusion":
        condition = model.condition(["a cat"], 1)
        positions = torch.zeros(1, condition.shape[1] - (1 if name == "sdxl" else 8), dtype=torch.bool)
        positions[0, 2:5] = True
        with pytest.raises(ValueError, match=re.escape("rows behind the tokens")):
            ForgetMeNot(steps=1, image_count=1, sampling_steps=2)(
                model, ["a cat"], [], generator=seeded(), positions=positions, shape=SHAPE
            )
