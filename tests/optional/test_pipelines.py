"""Pipelines of diffusers through the adapter: what their own call is given and predicts, the adapter predicts too."""

import copy
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers import PixArtSigmaPipeline
from tests.optional.tiny_pipelines import deep_floyd, hunyuan, made, pixart, scheduler, sdxl, stable_diffusion, unet
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.generators import PipelineAdapter, add_noise, generate, split_prediction

CAPTIONS = ["a cat", "Dog &amp; 7 <b>cows</b>"]
PIPELINES: dict[str, Callable[[], Any]] = {
    "stable_diffusion": stable_diffusion,
    "stable_diffusion_v": lambda: stable_diffusion("v_prediction", zero_snr=True),
    "stable_diffusion_x0": lambda: stable_diffusion("sample"),
    "sdxl": sdxl,
    "sdxl_empty_caption": lambda: sdxl(zeros=False),
    "pixart_alpha": pixart,
    "pixart_alpha_sizes": lambda: pixart(sizes=True),
    "pixart_sigma": lambda: pixart(PixArtSigmaPipeline),
    "deep_floyd": deep_floyd,
}


def network_of(pipeline: Any) -> nn.Module:
    return pipeline.transformer if getattr(pipeline, "unet", None) is None else pipeline.unet


def called(pipeline: Any, **more: Any) -> Any:
    """Call a pipeline as its users do, with guidance, for images of 24 by 16 pixels."""
    if hasattr(pipeline, "transformer"):
        more["use_resolution_binning"] = False
    return pipeline(
        prompt=CAPTIONS,
        height=24,
        width=16,
        guidance_scale=3.0,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(0),
        **more,
    )[0]


def watched(pipeline: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Give image, times and output of each call of the network while the pipeline is called."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def note(part: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        z = given[0]
        t = torch.as_tensor(named["timestep"] if "timestep" in named else given[1])
        seen.append((z, t.expand(len(z)), output[0]))

    handle = network_of(pipeline).register_forward_hook(note, with_kwargs=True)
    try:
        called(pipeline, output_type="pt")
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", PIPELINES)
def test_every_prediction_is_that_of_the_pipelines_own_call(name: str):
    pipeline = made(PIPELINES[name])
    seen = watched(pipeline)
    model = PipelineAdapter(pipeline)
    condition = torch.cat([model.condition(None, 2), model.condition(CAPTIONS, 2)])
    assert len(seen) == 3
    with torch.no_grad():
        for z, t, output in seen:
            output = output[:, : z.shape[1]]
            found = model.eps(z, t, condition)
            abar = torch.as_tensor(pipeline.scheduler.alphas_cumprod)[t].double()
            expected = split_prediction(z, output, abar, model.prediction)[1]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            without, own = output.chunk(2)
            assert (without - own).abs().max() > 1e-4  # the caption is heard at all
            torch.testing.assert_close(model.eps(z[:2], t[:2], None), expected[:2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["stable_diffusion", "sdxl", "pixart_alpha_sizes"])
def test_in_low_precision_the_network_is_given_the_same(name: str):
    pipeline = made(PIPELINES[name]).to(torch.bfloat16)
    z, t, output = watched(pipeline)[0]
    model = PipelineAdapter(pipeline)
    condition = torch.cat([model.condition(None, 2), model.condition(CAPTIONS, 2)])
    with torch.no_grad():
        assert torch.equal(model.eps(z, t, condition), output[:, : z.shape[1]])


def test_a_compiled_network_is_seen_through():
    pipeline = made(sdxl)
    z, t = torch.randn(2, 4, 12, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500, 20])
    expected = PipelineAdapter(pipeline).eps(z, t, None)
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    torch.testing.assert_close(PipelineAdapter(pipeline).eps(z, t, None), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_image_behind_the_noise_is_that_of_the_scheduler(prediction: str):
    pipeline = made(lambda: stable_diffusion(prediction))
    model = PipelineAdapter(pipeline)
    z, t = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([500, 500])
    condition = model.condition(CAPTIONS, 2)
    pipeline.scheduler.set_timesteps(1000)
    with torch.no_grad():
        output = pipeline.unet(z, t, encoder_hidden_states=condition).sample
        expected = pipeline.scheduler.step(output, 500, z).pred_original_sample
        found, _ = split_prediction(z, model.eps(z, t, condition), model.schedule.abar[t], "eps")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["pixart_alpha", "sdxl"])
def test_what_the_pipeline_adds_to_the_tokens_matters(name: str):
    pipeline = made(PIPELINES[name])
    model = PipelineAdapter(pipeline)
    z, t = torch.randn(2, 4, 12, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500, 500])
    condition = model.condition(CAPTIONS, 2)
    rows = 120 if name == "pixart_alpha" else 12
    other = condition.clone()
    other[:, rows:] = 1.0
    with torch.no_grad():
        error = (model.eps(z, t, other) - model.eps(z, t, condition)).norm() / model.eps(z, t, condition).norm()
    assert error > 0.01


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (stable_diffusion, {}),
        (stable_diffusion, {"shift_factor": 0.4}),
        (sdxl, {"latents_mean": [0.1, 0.2, -0.3, 0.0], "latents_std": [0.5, 2.0, 1.0, 3.0]}),
        (sdxl, {"force_upcast": True}),
    ],
)
def test_images_of_latents_are_those_of_the_pipeline(build: Callable[..., Any], code: dict[str, Any]):
    pipeline = made(lambda: build(**code))
    latents = called(pipeline, output_type="latent")
    expected = called(pipeline, output_type="pt")
    model = PipelineAdapter(pipeline)
    torch.testing.assert_close(model.decode(latents), expected, rtol=0, atol=1e-6)
    half = torch.float16 if code.get("force_upcast") else torch.float32
    pipeline.vae.to(half)
    before = copy.deepcopy(pipeline.vae.state_dict())
    torch.testing.assert_close(model.decode(latents), expected, rtol=0, atol=2e-3)
    assert torch.isfinite(model.encode(expected)).all()
    assert all(
        torch.equal(value, before[key]) and value.dtype == half for key, value in pipeline.vae.state_dict().items()
    )


def test_a_schedule_without_signal_at_its_end_is_used_up_to_there():
    pipeline = made(PIPELINES["stable_diffusion_v"])
    shares = pipeline.scheduler.alphas_cumprod
    assert shares[-1] == 0
    model = PipelineAdapter(pipeline)
    assert torch.equal(model.schedule.abar, shares[:-1].double())
    samples = generate(model, CAPTIONS, (4, 12, 8), generator=torch.Generator().manual_seed(0), steps=3)
    assert samples.shape == (2, 3, 24, 16)
    assert torch.isfinite(samples).all()


def test_noise_that_the_network_knows_is_found():
    pipeline = made(PIPELINES["stable_diffusion_v"])
    model = PipelineAdapter(pipeline)
    x, noise = torch.randn(2, 2, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([10, 700])
    abar = model.schedule.abar[t]
    velocity = pipeline.scheduler.get_velocity(x, noise, t) if hasattr(pipeline.scheduler, "get_velocity") else None
    assert velocity is not None
    pipeline.unet.forward = lambda *given, **named: (velocity,)
    found = model.eps(add_noise(x, noise, abar), t, model.condition(CAPTIONS, 2))
    torch.testing.assert_close(found, noise, rtol=1e-4, atol=1e-4)


def replaced(part: str, value: Any) -> Callable[[], Any]:
    def build() -> Any:
        pipeline = stable_diffusion()
        setattr(pipeline, part, value())
        return pipeline

    return build


def refiner() -> Any:
    pipeline = sdxl()
    sizes = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    pipeline.unet = unet(32, **sizes, projection_class_embeddings_input_dim=5 * 8 + 20)
    return pipeline


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "flow matching": (
        replaced("scheduler", diffusers.FlowMatchEulerDiscreteScheduler),
        "must have alphas_cumprod, and FlowMatchEulerDiscreteScheduler has none",
    ),
    "continuous noise": (
        replaced("scheduler", diffusers.EDMEulerScheduler),
        "must have alphas_cumprod, and EDMEulerScheduler has none",
    ),
    "flow prediction": (
        replaced("scheduler", lambda: diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction")),
        "prediction_type of the pipeline's scheduler.config must be one of epsilon, sample, v_prediction",
    ),
    "inpainting": (replaced("unet", lambda: unet(in_channels=9)), "has 9 channels in and 4 out"),
    "guidance distilled": (replaced("unet", lambda: unet(time_cond_proj_dim=8)), "unet.config.time_cond_proj_dim"),
    "class labels": (replaced("unet", lambda: unet(num_class_embeds=3)), "unet.config.num_class_embeds"),
    "image prompts": (
        replaced("unet", lambda: unet(encoder_hid_dim=16, encoder_hid_dim_type="image_proj")),
        "unet.config.encoder_hid_dim_type",
    ),
    "control": (replaced("controlnet", lambda: nn.Identity()), "the pipeline has a part controlnet"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_adapted_is_refused_for_its_reason(name: str):
    build, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        PipelineAdapter(made(build))


def cogview() -> Any:
    pipeline = pixart()
    pipeline.transformer = diffusers.CogView3PlusTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2, text_embed_dim=16
    )
    return pipeline


def test_transformers_that_take_other_inputs_are_refused_for_their_reason():
    with pytest.raises(InputError, match="gives a mask of the tokens, and its transformer takes no encoder_attention_"):
        PipelineAdapter(made(hunyuan)).condition(CAPTIONS, 2)
    with pytest.raises(InputError, match="transformer of the pipeline must be called with original_size, which is not"):
        PipelineAdapter(made(cogview))


def test_a_refiner_is_refused_for_its_reason():
    with pytest.raises(InputError, match=r"must give pooled embeddings of 12 numbers for its unet, got 20; .* refiner"):
        PipelineAdapter(made(refiner)).condition(CAPTIONS, 2)


@pytest.mark.filterwarnings("default:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("kind", ["Euler", "DPMSolverMultistep", "UniPCMultistep", "PNDM", "LMS", "Heun", "DDPM"])
def test_schedulers_that_sample_otherwise_have_the_same_training_times(kind: str):
    kind += "DiscreteScheduler" if kind in ("Euler", "LMS", "Heun") else "Scheduler"
    made_of = getattr(diffusers, kind).from_config(scheduler().config)
    pipeline = made(replaced("scheduler", lambda: made_of))
    expected = PipelineAdapter(made(stable_diffusion)).schedule.abar
    torch.testing.assert_close(PipelineAdapter(pipeline).schedule.abar, expected, rtol=1e-6, atol=0)
