"""A tiny pipeline, built here, seen through the adapter: the same noise as a model of our own, the same images back."""

import re
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from paperweight.errors import InputError
from paperweight.generators.model import ModelSpec
from paperweight.generators.pipeline import PipelineAdapter
from paperweight.generators.pipeline_inputs import Texts, pack, unpack
from paperweight.generators.process import NoiseSchedule, add_noise, denoise, linear_schedule, target
from paperweight.generators.protocol import ConditionalDiffusion, predicted_noise

NAMES = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


@pytest.fixture(autouse=True)
def _fixed_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Tiny(nn.Module):
    """Predicts from image, time and the mean of the tokens; has dropout, so that its mode matters."""

    def __init__(self, channels: int, outputs: int | None = None, dim: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.tokens = nn.Linear(dim, 8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Conv2d(8, outputs or channels, 1)
        self.as_tuple = False

    def forward(self, sample, timestep, encoder_hidden_states):
        code = self.tokens(encoder_hidden_states.mean(dim=1)) + (timestep.to(sample) / 500)[:, None]
        output = self.last(self.drop(self.first(sample) + code[:, :, None, None]).tanh())
        return (output, "more") if self.as_tuple else SimpleNamespace(sample=output)


class TinyVAE(nn.Module):
    """A linear code of cells of two by two pixels, four channels for one, which loses nothing."""

    def __init__(self, **config) -> None:
        super().__init__()
        mixing, _ = torch.linalg.qr(drawn(4, 4, seed=9))
        self.mixing = nn.Parameter(2 * mixing)
        self.drop = nn.Dropout(0.9)
        self.config = SimpleNamespace(scaling_factor=0.25, in_channels=1, **config)
        self.latents_alone = False

    def encode(self, x):
        cells = self.drop(nn.functional.pixel_unshuffle(x, 2))
        code = torch.einsum("oc,nchw->nohw", self.mixing, cells)
        if self.latents_alone:
            return SimpleNamespace(latents=code)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: code))

    def decode(self, z):
        cells = self.drop(torch.einsum("oc,nohw->nchw", self.mixing / 4, z))
        return SimpleNamespace(sample=nn.functional.pixel_shuffle(cells, 2))


class Encoder(nn.Module):
    """Words to tokens by their letters, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(128, 6)
        self.drop = nn.Dropout(0.5)

    def forward(self, texts):
        letters = torch.tensor([[ord(letter) for letter in text.ljust(8)[:8]] for text in texts])
        return self.drop(self.table(letters))


def pipeline(prediction: str = "epsilon", *, vae: bool = False, longer: bool = False, **network):
    channels = 4 if vae else 1
    encoder = Encoder()

    def encode_prompt(prompt, device, num_images_per_prompt, do_classifier_free_guidance):
        assert (num_images_per_prompt, do_classifier_free_guidance) == (1, False)
        tokens = encoder(prompt).to(device)
        return (tokens, None, tokens[:, 0], None) if longer else (tokens, None)

    return SimpleNamespace(
        encode_prompt=encode_prompt,
        text_encoder=encoder,
        unet=Tiny(channels, **network).eval(),
        vae=TinyVAE() if vae else None,
        scheduler=SimpleNamespace(
            alphas_cumprod=linear_schedule().abar, config=SimpleNamespace(prediction_type=prediction)
        ),
    )


def modules(parts) -> list[nn.Module]:
    return [
        module for part in (parts.unet, parts.vae, parts.text_encoder) if part is not None for module in part.modules()
    ]


def test_it_meets_the_protocol():
    model: ConditionalDiffusion = PipelineAdapter(pipeline())
    assert isinstance(model.schedule, NoiseSchedule)
    assert (model.schedule.times == torch.arange(1000)).all()
    assert torch.equal(model.schedule.abar, linear_schedule().abar)


@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("vae", [False, True])
def test_the_noise_is_that_of_a_model_around_the_same_network(prediction: str, vae: bool):
    parts = pipeline(prediction, vae=vae)
    model = PipelineAdapter(parts)
    spec = ModelSpec(
        shape=(4 if vae else 1, 4, 4),
        network="custom",
        schedule="linear",
        steps=1000,
        prediction=NAMES[prediction],
    )

    class Bare(nn.Module):
        def forward(self, z, t, condition):
            return parts.unet(z, t, encoder_hidden_states=condition).sample

    own = spec.build(Bare())
    z, t = drawn(3, *spec.shape), torch.tensor([0, 400, 999])
    condition = model.condition(["a cat", "", "dog"], 3)
    expected = own.eps(z, t, condition)
    assert torch.equal(model.eps(z, t, condition), expected)
    assert len({tuple(row.flatten().tolist()) for row in expected}) == 3
    parts.unet.as_tuple = True
    assert torch.equal(model.eps(z, t, condition), expected)


@pytest.mark.parametrize(("name", "prediction"), NAMES.items())
def test_a_network_that_knows_the_truth_gives_the_noise(name: str, prediction):
    x, noise, t = drawn(2, 1, 4, 4, seed=1), drawn(2, 1, 4, 4, seed=2), torch.tensor([30, 700])
    abar = linear_schedule().abar[t]
    parts = pipeline(name)
    parts.unet = lambda z, t, encoder_hidden_states: (target(x, noise, abar, prediction),)
    found = PipelineAdapter(parts).eps(add_noise(x, noise, abar), t, torch.zeros(2, 1, 6))
    torch.testing.assert_close(found, noise, rtol=1e-4, atol=1e-4)


def test_a_transformer_takes_the_place_of_the_unet():
    parts = pipeline()
    z, t = drawn(2, 1, 4, 4), torch.tensor([3, 800])
    condition = PipelineAdapter(parts).condition(["a", "b"], 2)
    expected = PipelineAdapter(parts).eps(z, t, condition)
    parts.transformer = parts.unet
    del parts.unet
    assert torch.equal(PipelineAdapter(parts).eps(z, t, condition), expected)
    parts.unet = None
    assert torch.equal(PipelineAdapter(parts).eps(z, t, condition), expected)


def test_captions_are_encoded_and_none_is_the_empty_one():
    parts = pipeline(longer=True)
    model = PipelineAdapter(parts)
    tokens = model.condition(["a cat", "dogs"], 2)
    assert tokens.shape == (2, 8, 6)
    parts.text_encoder.eval()
    assert torch.equal(tokens, parts.text_encoder(["a cat", "dogs"]))
    assert torch.equal(model.condition(None, 2), model.condition(["", ""], 2))
    assert not tokens.requires_grad
    z, t = drawn(2, 1, 4, 4), torch.tensor([3, 800])
    assert torch.equal(model.eps(z, t, None), model.eps(z, t, model.condition(None, 2)))
    assert not torch.equal(model.eps(z, t, None), model.eps(z, t, tokens))


@pytest.mark.parametrize("bad", ["a cat", ["a"], ["a", 3], []])
def test_other_captions(bad):
    with pytest.raises(
        InputError, match="captions must be 2 texts, one for each sample, or None for the empty one; got"
    ):
        PipelineAdapter(pipeline()).condition(bad, 2)


def test_guided_samples_are_drawn_with_it():
    model = PipelineAdapter(pipeline(vae=True))
    schedule = model.schedule.subsample(10)
    network = predicted_noise(model, ["a cat", "a dog"], 2, guidance=3.0)
    samples = model.decode(denoise(network, drawn(2, 4, 4, 4), schedule=schedule, clamp=model.clamp))
    assert samples.shape == (2, 1, 8, 8)
    assert samples.min() >= 0
    assert samples.max() <= 1


def test_pixels_without_a_vae():
    model = PipelineAdapter(pipeline())
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    assert model.clamp == (-1, 1)
    assert torch.equal(model.encode(images), 2 * images - 1)
    torch.testing.assert_close(model.round_trip(images), images)
    mask = torch.eye(4)[None]
    assert model.latent_mask(mask) is mask
    parts = pipeline()
    del parts.vae
    assert PipelineAdapter(parts).clamp == (-1, 1)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("latents_alone", [False, True])
def test_latents_are_the_normalised_and_scaled_code(normalised: bool, latents_alone: bool):
    parts = pipeline(vae=True)
    means, deviations = ([0.5, 0.1, 0.0, -0.3], [2.0, 1.0, 0.5, 3.0]) if normalised else ([0.0] * 4, [1.0] * 4)
    parts.vae.config.shift_factor = 0.7  # which no pipeline with such a scheduler reads
    if normalised:
        parts.vae.config.latents_mean, parts.vae.config.latents_std = means, deviations
    parts.vae.latents_alone = latents_alone
    model = PipelineAdapter(parts)
    images = torch.rand(3, 1, 8, 6, generator=torch.Generator().manual_seed(1))
    z = model.encode(images)
    assert model.clamp is None
    assert z.shape == (3, 4, 4, 3)
    # One cell by hand: its four pixels in [-1, 1], mixed, normalised, times 1/4.
    cell = (2 * images[1, 0, 2:4, 4:6] - 1).flatten()
    code = (parts.vae.mixing.detach() @ cell - torch.tensor(means)) / torch.tensor(deviations)
    torch.testing.assert_close(z[1, :, 1, 2], code / 4)
    torch.testing.assert_close(model.round_trip(images), images, rtol=0, atol=1e-5)
    assert not z.requires_grad


def test_a_vae_that_overflows_in_half_precision_computes_in_float32_and_stays_as_it_is():
    parts = pipeline(vae=True)
    parts.vae.config.force_upcast = True
    exact = PipelineAdapter(parts).round_trip(torch.rand(2, 1, 8, 8))
    assert exact.dtype == torch.float32
    parts.vae.half()
    mixing = parts.vae.mixing.detach().clone()
    seen, plain = [], parts.vae.decode
    parts.vae.decode = lambda z: (seen.append((z.dtype, parts.vae.mixing.dtype)), plain(z))[1]
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model = PipelineAdapter(parts)
    wide = mixing.float()
    cells = nn.functional.pixel_unshuffle(2 * images - 1, 2)
    assert torch.equal(model.encode(images), torch.einsum("oc,nchw->nohw", wide, cells) / 4)
    model.round_trip(images)
    assert seen == [(torch.float32, torch.float32)]
    assert parts.vae.mixing.dtype == torch.float16
    assert torch.equal(parts.vae.mixing, mixing)


def test_images_are_held_to_their_range():
    model = PipelineAdapter(pipeline(vae=True))
    images = torch.tensor([-3.0, 0.25, 4.0, 1.0]).view(1, 1, 2, 2)
    torch.testing.assert_close(model.round_trip(images).flatten(), torch.tensor([0, 0.25, 1, 1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64])
def test_an_entry_is_unknown_where_a_pixel_of_its_cell_is(dtype):
    model = PipelineAdapter(pipeline(vae=True))
    mask = torch.zeros(1, 6, 8)
    mask[0, 0, 1] = mask[0, 3, 7] = mask[0, 4, 4] = 1
    expected = torch.tensor([[[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]]).to(dtype)
    found = model.latent_mask(mask.to(dtype))
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    border = torch.ones(1, 8, 8)
    border[:, 1:-1, 1:-1] = 0
    rim = torch.ones(1, 4, 4)
    rim[:, 1:-1, 1:-1] = 0
    assert torch.equal(model.latent_mask(border), rim)
    border[:, 1, :] = border[:, :, 1] = border[:, -2, :] = border[:, :, -2] = 1
    assert torch.equal(model.latent_mask(border), rim)


def test_what_changes_only_known_pixels_changes_no_entry_that_is_unknown_alone():
    model = PipelineAdapter(pipeline(vae=True))
    mask = torch.ones(1, 8, 8)
    mask[:, 2:-2, 2:-2] = 0
    first, second = (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    mixed = torch.where(mask.bool(), second, first)
    same = (model.encode(first) == model.encode(mixed)).all(dim=1)
    assert torch.equal(same, ~model.latent_mask(mask).bool())


def test_masks_that_do_not_fit():
    parts = pipeline(vae=True)
    plain = parts.vae.encode
    parts.vae.encode = lambda x: plain(x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2])
    with pytest.raises(
        InputError, match="mask must have sides that are a multiple of the vae's cell of about 2 pixels"
    ):
        PipelineAdapter(parts).latent_mask(torch.ones(1, 7, 8))


def test_weights_modes_and_gradients_of_the_pipeline_stay_as_they_were():
    parts = pipeline(vae=True)
    parts.vae.train()
    parts.vae.drop.eval()
    parts.text_encoder.train()
    for index, module in enumerate(modules(parts)):
        for parameter in module.parameters(recurse=False):
            parameter.grad = torch.full_like(parameter, float(index))
    before = [
        (module.training, [(p.detach().clone(), p.grad.clone(), p.requires_grad) for p in module.parameters()])
        for module in modules(parts)
    ]
    state = torch.random.get_rng_state()
    model = PipelineAdapter(parts)
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    z = model.encode(images)
    model.round_trip(images)
    model.latent_mask(torch.ones(1, 8, 8))
    model.eps(z, torch.tensor([1, 2]), model.condition(["a", "b"], 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for module, (mode, weights) in zip(modules(parts), before, strict=True):
        assert module.training == mode
        for parameter, (weight, gradient, wanted) in zip(module.parameters(), weights, strict=True):
            assert torch.equal(parameter, weight)
            assert torch.equal(parameter.grad, gradient)
            assert parameter.requires_grad == wanted


def test_modes_come_back_after_an_error():
    parts = pipeline(vae=True)
    with pytest.raises(RuntimeError, match="pixel_unshuffle"):
        PipelineAdapter(parts).encode(torch.zeros(1, 1, 7, 8))
    assert all(module.training for module in parts.vae.modules())


def test_gradients_reach_tokens_image_and_network():
    parts = pipeline()
    model = PipelineAdapter(parts)
    condition, z = model.condition(["a cat"], 1).requires_grad_(), drawn(1, 1, 4, 4).requires_grad_()
    model.eps(z, torch.tensor([500]), condition).square().sum().backward()
    assert condition.grad.abs().max() > 0
    assert z.grad.abs().max() > 0
    assert model.network is parts.unet
    assert all(parameter.grad.abs().max() > 0 for parameter in model.network.parameters())


def test_dtype_is_that_of_the_network():
    parts = pipeline(vae=True)
    parts.unet.double()
    model = PipelineAdapter(parts)
    images = torch.rand(2, 1, 8, 8)
    assert model.encode(images).dtype == torch.float64
    assert model.condition(None, 2).dtype == torch.float64
    assert model.decode(model.encode(images)).dtype == torch.float64
    z = drawn(2, 4, 4, 4)
    assert model.eps(z, torch.tensor([1, 2]), model.condition(None, 2)).dtype == z.dtype


def test_a_network_that_predicts_the_variance_too():
    parts = pipeline(outputs=2)
    model = PipelineAdapter(parts)
    z, t = drawn(2, 1, 4, 4), torch.tensor([3, 800])
    both = parts.unet(z, t, model.condition(None, 2)).sample
    assert torch.equal(model.eps(z, t, None), both[:, :1])
    with pytest.raises(
        InputError, match=r"unet of the pipeline must predict the shape of its input \(2, 1, 4, 4\), got"
    ):
        PipelineAdapter(pipeline(outputs=3)).eps(z, t, None)


def without(path: str, value=None):
    def change(parts) -> None:
        *owners, name = path.split(".")
        for owner in owners:
            parts = getattr(parts, owner)
        setattr(parts, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("encode_prompt"), "pipeline must have encode_prompt, and has none; give"),
        (without("unet"), "the pipeline must have a denoising network, unet or transformer, and has neither; give"),
        (without("scheduler"), "pipeline must have scheduler, and has none; give"),
        (without("scheduler.config"), "scheduler must have config, and has none; give"),
        (without("scheduler.config.prediction_type"), "scheduler.config must have prediction_type, and has none; give"),
        (
            without("scheduler.config.prediction_type", "flow_prediction"),
            "must be one of epsilon, sample, v_prediction, got 'flow_prediction'; give",
        ),
        (
            without("scheduler.alphas_cumprod"),
            "scheduler of the pipeline must have alphas_cumprod, and SimpleNamespace has none, as those of flow",
        ),
        (without("scheduler.alphas_cumprod", torch.tensor([0.0])), "abar must fall within (0, 1), got 0 to 0; give"),
        (
            without("scheduler.alphas_cumprod", torch.tensor([0.9, 0.0, 0.0])),
            "alphas_cumprod of the pipeline's scheduler cannot be used: abar must fall within (0, 1), got 0.9 to 0;",
        ),
        (without("scheduler.alphas_cumprod", torch.ones(2, 2)), "alphas_cumprod of the pipeline's scheduler"),
        (without("vae.encode"), "vae must have encode, and has none; give"),
        (without("vae.decode"), "vae must have decode, and has none; give"),
        (without("vae.config"), "vae must have config, and has none; give"),
        (without("vae.config.scaling_factor"), "vae.config must have scaling_factor, and has none; give"),
    ],
)
def test_what_is_missing_is_named(change, message: str):
    parts = pipeline(vae=True)
    change(parts)
    with pytest.raises(InputError, match=re.escape(message)):
        PipelineAdapter(parts)


def test_outputs_of_another_form_are_named():
    parts = pipeline(vae=True)
    model = PipelineAdapter(parts)
    parts.vae.encode = lambda x: SimpleNamespace(code=x)
    with pytest.raises(InputError, match=r"the output of vae\.encode must have latents, or be a tuple"):
        model.encode(torch.zeros(1, 1, 8, 8))
    parts.vae.decode = lambda z: None
    with pytest.raises(InputError, match=r"the output of vae\.decode must have sample"):
        model.decode(torch.zeros(1, 4, 4, 4))
    parts = pipeline()
    parts.unet = lambda *given, **more: {}
    with pytest.raises(InputError, match="the output of unet must have sample"):
        PipelineAdapter(parts).eps(torch.zeros(1, 1, 4, 4), torch.tensor([1]), torch.zeros(1, 1, 6))
    for tokens in (None, torch.zeros(2, 6), torch.zeros(1, 4, 6)):
        parts.encode_prompt = lambda tokens=tokens, **more: (tokens, None)
        with pytest.raises(InputError, match=r"encode_prompt of the pipeline must give prompt_embeds \(2, L, dim\)"):
            PipelineAdapter(parts).condition(None, 2)


def test_settings_may_be_mappings():
    parts = pipeline("v_prediction", vae=True)
    parts.scheduler.config = {"prediction_type": "v_prediction"}
    parts.vae.config = {"scaling_factor": 0.25, "in_channels": 1}
    model = PipelineAdapter(parts)
    assert model.prediction == "v"
    assert model.encode(torch.zeros(1, 1, 8, 8)).shape == (1, 4, 4, 4)


def test_a_last_time_without_signal_is_left_out():
    parts = pipeline("v_prediction")
    shares = torch.cat([linear_schedule(10).abar[:-1], torch.zeros(1, dtype=torch.float64)])
    parts.scheduler.alphas_cumprod = shares
    model = PipelineAdapter(parts)
    assert torch.equal(model.schedule.abar, shares[:-1])
    assert torch.equal(model.schedule.times, torch.arange(9))


class Asked(nn.Module):
    """A network that keeps what it is called with."""

    def __init__(self, **config) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)
        self.use_additional_conditions = config.get("sizes", False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z, timestep, encoder_hidden_states, added_cond_kwargs=None, encoder_attention_mask=None):
        self.tokens, self.mask = encoder_hidden_states, encoder_attention_mask
        self.added = {} if added_cond_kwargs is None else added_cond_kwargs
        return (self.scale * z,)


def asking(*, mask: bool = False, pooled: int = 0, **config):
    """A pipeline whose captions are their lengths, with a mask and pooled embeddings where they are wanted."""
    parts = pipeline(vae=True)
    if pooled:
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 2}
        config["projection_class_embeddings_input_dim"] = 12 + pooled
    parts.unet, parts.vae_scale_factor = Asked(**config), 2
    parts.config = {"force_zeros_for_empty_prompt": True}

    def encode_prompt(prompt, device, num_images_per_prompt, do_classifier_free_guidance, clean_caption=False):
        parts.cleaned = clean_caption
        sizes = torch.tensor([float(len(text)) for text in prompt])
        tokens = sizes[:, None, None] + torch.arange(30.0).view(5, 6)
        masks = (torch.arange(5) < sizes[:, None]).long() if mask else None
        return tokens, masks, None, (sizes[:, None] + torch.arange(float(pooled))) if pooled else None

    parts.encode_prompt = encode_prompt
    return parts


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pooled", [0, 1, 5, 12])
def test_what_is_packed_is_unpacked_for_every_number_of_tokens(masked: bool, pooled: int):
    for length in range(1, 30):
        for dim in range(1, 8):
            mask = (drawn(2, length) > 0).float() if masked else None
            texts = Texts(drawn(2, length, dim), mask, drawn(2, pooled, seed=2) if pooled else None)
            found = unpack(pack(texts), masked, pooled)
            for value, expected in zip(found, texts, strict=True):
                assert value is expected is None or torch.equal(value, expected)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("pooled", [0, 4, 6, 13])
def test_mask_and_pooled_embeddings_go_with_their_captions(mask: bool, pooled: int):
    parts = asking(mask=mask, pooled=pooled)
    model = PipelineAdapter(parts)
    captions = ["a", "cat", "cats", "cattle"]
    condition = model.condition(captions, 4)
    order = torch.tensor([2, 0, 3])
    PipelineAdapter(parts).eps(drawn(3, 4, 3, 5), torch.tensor([1, 2, 3]), condition[order].detach())
    found, sizes = parts.unet, torch.tensor([4.0, 1.0, 6.0])
    assert torch.equal(found.tokens, sizes[:, None, None] + torch.arange(30.0).view(5, 6))
    if mask:
        assert torch.equal(found.mask, (torch.arange(5) < sizes[:, None]).float())
    else:
        assert found.mask is None
    if pooled:
        assert torch.equal(found.added["text_embeds"], sizes[:, None] + torch.arange(float(pooled)))
        assert found.added["time_ids"].tolist() == [[6.0, 10.0, 0.0, 0.0, 6.0, 10.0]] * 3
    else:
        assert not found.added
        assert condition.shape == (4, 6 if mask else 5, 6)
    model.eps(drawn(1, 4, 3, 5), torch.tensor([1]), None)
    assert bool((found.tokens == 0).all()) == bool(pooled)


def test_the_network_is_told_sizes_where_it_asks_for_them():
    parts = asking(sizes=True)
    PipelineAdapter(parts).eps(drawn(2, 4, 3, 6), torch.tensor([1, 2]), None)
    assert parts.unet.added["resolution"].tolist() == [[6.0, 12.0]] * 2
    assert parts.unet.added["aspect_ratio"].tolist() == [[0.5]] * 2


def test_captions_are_cleaned_where_the_pipeline_cleans_them():
    class Called(SimpleNamespace):
        def __call__(self, prompt, clean_caption=True):
            raise AssertionError

    parts = asking()
    PipelineAdapter(parts).condition(["a cat"], 1)
    assert parts.cleaned is False
    PipelineAdapter(Called(**vars(parts))).condition(["a cat"], 1)
    assert parts.cleaned is True


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"class_embed_type": "timestep"}, "unet.config.class_embed_type of the pipeline must be None, got 'timestep'"),
        ({"addition_embed_type": "image"}, "must be None or text or text_time, got 'image': the network takes more"),
        ({"encoder_hid_dim_type": "ip_image_proj"}, "must be None or text_proj, got 'ip_image_proj'"),
        ({"time_cond_proj_dim": 8}, "unet.config.time_cond_proj_dim of the pipeline must be None, got 8"),
        ({"in_channels": 9, "out_channels": 4}, "must take the noisy image alone, and has 9 channels in and 4 out"),
    ],
)
def test_networks_that_take_more_than_captions_are_refused(config: dict, message: str):
    with pytest.raises(InputError, match=re.escape(message)):
        PipelineAdapter(asking(**config))


def test_what_the_network_would_not_be_given_is_refused():
    parts = asking()
    parts.unet.forward = lambda z, t, encoder_hidden_states, image_rotary_emb: (z,)
    with pytest.raises(InputError, match="unet of the pipeline must be called with image_rotary_emb, which is not"):
        PipelineAdapter(parts)
    parts = asking(mask=True)
    parts.unet.forward = lambda z, t, encoder_hidden_states: (z,)
    with pytest.raises(InputError, match=r"gives a mask of the tokens, and its unet takes no\s+encoder_attention_mask"):
        PipelineAdapter(parts).condition(["a"], 1)
    parts = asking(pooled=4)
    parts.unet.config.projection_class_embeddings_input_dim = 14
    with pytest.raises(InputError, match="must give pooled embeddings of 2 numbers for its unet, got 4; give"):
        PipelineAdapter(parts).condition(["a"], 1)
    parts = asking()
    parts.controlnet = nn.Identity()
    with pytest.raises(InputError, match="the pipeline has a part controlnet, which its predictions or latents depend"):
        PipelineAdapter(parts)
    parts = asking()
    parts.encode_prompt = lambda text: None
    with pytest.raises(
        InputError, match=r"encode_prompt of the pipeline must take prompt, device, .* takes no prompt;"
    ):
        PipelineAdapter(parts)
