"""The text-to-image model: what it promises to samplers, erasers and attacks, its cross attention, and its file."""

import pickle
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.errors import InputError
from paperweight.generators.cross_attention import attention_maps, parameter_group
from paperweight.generators.generation import generate, held_noise, partly_denoised
from paperweight.generators.model import ModelSpec
from paperweight.generators.pipeline import PipelineAdapter
from paperweight.generators.process import add_noise, denoise, normal, target
from paperweight.generators.protocol import predicted_noise
from paperweight.generators.text_model import TextSpec, TextToImage, caption_loss, load_text_model
from paperweight.nets import MLPDenoiser

WORDS = ("a", "red", "circle", "square")
SPEC = TextSpec(
    shape=(1, 4, 4), words=WORDS, length=6, dim=8, arguments={"width": 16, "blocks": 2, "heads": 2}, steps=50
)


def made(spec: TextSpec = SPEC) -> TextToImage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return spec.build()


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 1, 4, 4, generator=drawn()), torch.arange(count) * 10


def test_equal_captions_have_equal_conditions_and_none_is_the_empty_caption():
    model = made()
    tokens = model.condition(["a red circle", "a circle", "A  red circle"], 3)
    assert tokens.shape == (3, 6, 8)
    assert torch.equal(tokens[0], tokens[2])
    assert not torch.equal(tokens[0], tokens[1])
    assert torch.equal(model.condition(None, 2), model.condition(["", ""], 2))
    assert torch.equal(model.condition(model.numbers(["a circle"], 1), 1), model.condition(["a circle"], 1))
    z, t = inputs(2)
    assert torch.equal(model.eps(z, t, None), model.eps(z, t, model.condition(None, 2)))


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_the_loss_is_a_slow_sum_and_the_noise_is_right_for_a_network_that_knows_it(prediction):
    model = made(TextSpec(shape=(1, 4, 4), words=WORDS, steps=50, prediction=prediction))
    images = torch.rand(4, 1, 4, 4, generator=drawn(1))
    numbers = model.numbers(["a circle"] * 4, 4)
    generator = drawn(2)
    t = torch.randint(50, (4,), generator=generator)
    left_out = torch.rand(4, generator=generator) < 0.5
    noise = torch.randn(4, 1, 4, 4, generator=generator)
    assert left_out.any()
    assert not left_out.all()
    slow = torch.tensor(0.0)
    for row in range(4):
        abar = model.schedule.abar[t[row : row + 1]]
        x = 2 * images[row : row + 1] - 1
        caption = [""] if left_out[row] else ["a circle"]
        output = model.network(
            add_noise(x, noise[row : row + 1], abar), t[row : row + 1] * 20.0, model.condition(caption, 1)
        )
        slow += (output - target(x, noise[row : row + 1], abar, prediction)).square().mean() / 4
    torch.testing.assert_close(caption_loss(model, images, numbers, drawn(2), dropout=0.5), slow, rtol=1e-5, atol=1e-6)


def test_images_are_those_of_the_sampler_and_the_way_to_them_ends_where_it_says():
    model = made()
    captions = ["a circle", "a red square"]
    noise = torch.randn(2, 1, 4, 4, generator=drawn(3))
    eps = held_noise(model, predicted_noise(model, captions, 2, 3.0))
    wanted = model.decode(denoise(eps, noise, schedule=model.schedule.subsample(5), clamp=(-1, 1))).clamp(0, 1)
    assert torch.equal(generate(model, captions, (1, 4, 4), steps=5, generator=drawn(3)), wanted)
    model.clamp = None
    free = denoise(predicted_noise(model, captions, 2, 3.0), noise, schedule=model.schedule.subsample(5))
    assert torch.equal(
        generate(model, captions, (1, 4, 4), steps=5, generator=drawn(3)), model.decode(free).clamp(0, 1)
    )
    model.clamp = (-1.0, 1.0)
    times = set()
    for seed in range(20):
        z, t = partly_denoised(model, captions, (1, 4, 4), steps=5, generator=drawn(seed))
        assert z.shape == (2, 1, 4, 4)
        assert t[0] == t[1]
        times.add(int(t[0]))
        if t[0] == 49:
            generator = drawn(seed)
            torch.randint(5, (), generator=generator)
            assert torch.equal(z, torch.randn(2, 1, 4, 4, generator=generator))
    assert times == set(model.schedule.subsample(5).times.tolist())


def test_held_noise_by_hand():
    model = made()
    z, t = torch.full((1, 1, 1, 1), 0.5), torch.tensor([20])
    abar = model.schedule.abar[20].item()
    for noise in (-3.0, 0.0, 3.0):
        data = (0.5 - (1 - abar) ** 0.5 * noise) / abar**0.5
        wanted = (0.5 - abar**0.5 * max(-1.0, min(1.0, data))) / (1 - abar) ** 0.5
        found = held_noise(model, lambda z, t, noise=noise: torch.full_like(z, noise))(z, t)
        torch.testing.assert_close(found.item(), wanted, rtol=1e-5, atol=1e-6)
        assert (found.item() == pytest.approx(noise, abs=1e-5)) == (abs(data) <= 1)


def test_attention_maps_sum_to_one_and_give_the_output_of_the_attention():
    model = made()
    z, t = inputs()
    condition = model.condition(["a circle", "a red square", ""], 3)
    seen = {}
    block = model.network.blocks[1].attn2
    handle = block.register_forward_hook(lambda part, given, output: seen.update(given=given, output=output))
    plain = model(z, t, condition)
    handle.remove()
    maps = model.attention_maps(z, t, condition)
    assert list(maps) == ["blocks.0.attn2", "blocks.1.attn2"]
    for value in maps.values():
        assert value.shape == (3, 2, 4, 6)
        assert (value >= 0).all()
        torch.testing.assert_close(value.sum(dim=-1), torch.ones(3, 2, 4))
    x, tokens = seen["given"]
    values = block.to_v(tokens).unflatten(2, (2, -1)).transpose(1, 2)
    queries = block.to_q(x).unflatten(2, (2, -1)).transpose(1, 2)
    keys = block.to_k(tokens).unflatten(2, (2, -1)).transpose(1, 2)
    attended = maps["blocks.1.attn2"] @ values
    torch.testing.assert_close(attended, F.scaled_dot_product_attention(queries, keys, values), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(block.to_out(attended.transpose(1, 2).flatten(2)), seen["output"], rtol=1e-5, atol=1e-6)
    assert torch.equal(model(z, t, condition), plain)
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())


def test_attention_maps_have_gradients_and_leave_nothing_behind_after_a_failure():
    model = made()
    z, t = inputs()
    marked = model.tokens_of(["a circle"] * 3, ["circle"])
    maps = model.attention_maps(z, t, model.condition(["a circle"] * 3, 3))
    torch.cat([value[:, :, :, :][marked[:, None, None].expand_as(value)] for value in maps.values()]).norm().backward()
    assert model.network.blocks[1].attn2.to_k.weight.grad.abs().sum() > 0
    with pytest.raises(ZeroDivisionError):
        attention_maps(model.network, lambda: 1 / 0)
    with pytest.raises(InputError, match=r"must call the network once, blocks\.0\.attn2 was called 0 times"):
        attention_maps(model.network, lambda: None)
    with pytest.raises(InputError, match="MLPDenoiser has none"):
        attention_maps(MLPDenoiser((1, 4, 4)), lambda: None)
    assert not any(part._forward_pre_hooks for part in model.modules())


class Attention(nn.Module):
    """An attention that is called as pipelines call it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.to_q, self.to_k, self.to_v = (nn.Linear(4, 8, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(8, 4), nn.Dropout()])

    def forward(self, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return hidden_states


class PipelineNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        block = nn.Module()
        block.attn1, block.attn2, block.ff = Attention(), Attention(), nn.Linear(4, 4)
        self.down_blocks = nn.ModuleList([block])

    def forward(self, z, t, encoder_hidden_states):
        x = z.flatten(2).transpose(1, 2)
        x = self.down_blocks[0].attn2(x, encoder_hidden_states=encoder_hidden_states, attention_mask=None)
        return (x.transpose(1, 2).view_as(z),)


def test_groups_and_maps_of_a_pipeline():
    pipeline = SimpleNamespace(
        encode_prompt=lambda prompt, **_: (torch.ones(len(prompt), 3, 4), None),
        unet=PipelineNetwork(),
        scheduler=SimpleNamespace(
            alphas_cumprod=torch.tensor([0.9, 0.5]), config=SimpleNamespace(prediction_type="epsilon")
        ),
    )
    model = PipelineAdapter(pipeline)
    z = torch.randn(2, 4, 3, 3, generator=drawn())
    maps = attention_maps(model.network, lambda: model.eps(z, torch.tensor([0, 1]), model.condition(["x", "y"], 2)))
    assert {name: value.shape for name, value in maps.items()} == {"down_blocks.0.attn2": (2, 2, 9, 3)}
    assert torch.allclose(maps["down_blocks.0.attn2"], torch.full((2, 2, 9, 3), 1 / 3))
    assert [name.split("attn2.")[1] for name in parameter_group(model.network, "cross_attention")] == [
        "to_q.weight",
        "to_k.weight",
        "to_v.weight",
        "to_out.0.weight",
        "to_out.0.bias",
    ]


def test_parameter_groups_are_a_partition():
    network = made().network
    cross, others, narrow, everything = (
        parameter_group(network, group)
        for group in ("cross_attention", "all_but_cross_attention", "keys_and_values", "all")
    )
    assert len(cross) == 2 * 5
    assert len(narrow) == 2 * 2
    assert set(narrow) < set(cross)
    assert not set(cross) & set(others)
    assert {**cross, **others}.keys() == everything.keys() == dict(network.named_parameters()).keys()
    assert all(everything[name] is value for name, value in network.named_parameters())
    assert not any("norm2" in name for name in cross)
    with pytest.raises(InputError, match="one of cross_attention, all_but_cross_attention, keys_and_values, all; got"):
        parameter_group(network, "x")
    with pytest.raises(InputError, match="MLPDenoiser has none"):
        parameter_group(MLPDenoiser((1, 4, 4)), "keys_and_values")


def test_a_placeholder_with_a_copied_embedding_is_the_word_and_the_model_stays():
    model = made().eval().requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copied = model.with_words({"<v>": model.embedding_of("circle"), "<w>": model.embedding_table()[[3, 4]]})
    z, t = inputs(2)
    for ours, theirs in (("a <v>", "a circle"), ("<w>", "red circle"), ("a square", "a square")):
        wanted = model.eps(z, t, model.condition([theirs] * 2, 2))
        assert torch.equal(copied.eps(z, t, copied.condition([ours] * 2, 2)), wanted)
    assert not copied.training
    copied.text.placeholders.requires_grad_()
    copied.eps(z, t, copied.condition(["a <v>"] * 2, 2)).sum().backward()
    assert copied.text.placeholders.grad[0].abs().sum() > 0
    assert copied.text.placeholders.grad[1:].abs().sum() == 0
    assert [name for name, value in copied.named_parameters() if value.grad is not None] == ["text.placeholders"]
    with torch.no_grad():
        for value in copied.parameters():
            value.add_(1)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.spec == SPEC
    with pytest.raises(InputError, match="'<v>' is not one"):
        model.condition(["<v>"], 1)


def test_words_can_be_added_twice_and_the_first_keep_their_embedding():
    model = made()
    first = model.with_words({"<v>": torch.ones(8)})
    second = first.with_words({"<w>": torch.zeros(2, 8)})
    assert torch.equal(second.embedding_of("<v>"), torch.ones(1, 8))
    assert torch.equal(second.embedding_of("<w>"), torch.zeros(2, 8))
    assert second.embedding_table().shape == (2 + 4 + 3, 8)
    assert second.tokens_of(["a <w>"], ["<w>"], end=True).tolist() == [[False, True, True, True, False, False]]
    assert second.tokens_of(["a <w>"], ["<w>"]).tolist() == [[False, True, True, False, False, False]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: made().with_words({"circle": torch.zeros(8)}), "'circle' is known already"),
        (lambda: made().with_words({"<v>": torch.zeros(7)}), r"must have shape \(8,\) or \(k, 8\), got \(7,\)"),
        (lambda: made().with_words({"<v>": torch.tensor(1.0)}), r"got \(\)"),
        (lambda: made().condition(["a circle"], 2), "captions must be 2 texts"),
        (lambda: made().condition("a circle", 1), "a sequence of texts"),
        (lambda: made().condition(["a cirle"], 1), "did you mean circle"),
        (lambda: TextSpec(shape=(1, 4, 4), words=WORDS, prediction="noise"), "must be eps, x0 or v; got 'noise'"),
        (lambda: TextSpec(shape=(1, 4, 4), words=WORDS, steps=0), "at least 1, got 0"),
        (lambda: TextSpec(shape=(1, 4, 4), words=WORDS, arguments={"patch": 3}).build(), "patch must divide"),
        (lambda: TextSpec(shape=(1, 4, 4), words=WORDS, arguments={"colour": 3}).build(), "cannot be built"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_file_gives_the_model_back_bit_for_bit(tmp_path):
    model = made().with_words({"<v>": torch.ones(2, 8)})
    model.save(tmp_path / "model.safetensors")
    state = torch.get_rng_state()
    loaded = load_text_model(tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.spec == model.spec
    assert not loaded.training
    z, t = inputs(1)
    wanted = model.eps(z, t, model.condition(["a <v>"], 1))
    assert torch.equal(loaded.eps(z, t, loaded.condition(["a <v>"], 1)), wanted)


def test_files_of_other_things_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        pickle.dump({"weights": [1.0]}, file)
    with pytest.raises(InputError, match="is a pickle"):
        load_text_model(path)
    torch.save({"weights": torch.ones(1)}, path)
    with pytest.raises(InputError, match="is a pickle"):
        load_text_model(path)
    ModelSpec(shape=(1, 4, 4)).build().save(path)
    with pytest.raises(InputError, match="holds no text-to-image model"):
        load_text_model(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_text_model(tmp_path / "missing")
    model = made()
    model.text.position = nn.Parameter(torch.zeros(7, 8))
    model.save(path)
    with pytest.raises(InputError, match=r"do not fit the network: size mismatch for text\.position: \(7, 8\), wanted"):
        load_text_model(path)


def test_a_short_training_lowers_the_loss():
    model = made()
    images = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]).repeat(8, 1, 1, 1)
    numbers = model.numbers(["a circle", "a square"] * 8, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = drawn()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = caption_loss(model, images, numbers, generator)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert normal(images, drawn()).shape == images.shape
