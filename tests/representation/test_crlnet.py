"""CRLNet: attention, positions, correlation and its convolution by loops; pairs reversed; episodes pair by pair."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from paperweight.representation import _joint_attention, crlnet
from paperweight.representation.crlnet import (
    CRLNet,
    JointCrossAttention,
    PairOfTensors,
    correlation,
    episode_scores,
    pair_loss,
)
from paperweight.studies.representation._episodes import disturbed, drawn_characters, episodes, pairs
from paperweight.testing import FunctionSubject, LayerSubject


@pytest.fixture(autouse=True)
def _same_weights_whatever_ran_before() -> None:
    torch.manual_seed(1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(channels: int = 8, size=(2, 3), heads: int = 2, ffn: int = 6, hidden: int = 5, **given) -> CRLNet:
    return CRLNet(channels, size, heads, ffn, hidden, **given)


class Pooled(nn.Module):
    """Embeds each image by the mean of its pixels, whatever the other."""

    def forward(self, support: Tensor, query: Tensor) -> PairOfTensors:
        return PairOfTensors(support.mean(dim=(2, 3)), query.mean(dim=(2, 3)))


class Crossed(nn.Module):
    """Embeds the support with the query added, and the query with the support subtracted."""

    def forward(self, support: Tensor, query: Tensor) -> PairOfTensors:
        return PairOfTensors(support + query, query - 0.5 * support)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    return first @ second / (first.norm() * second.norm())


def attention_parameters(channels: int, ffn: int) -> int:
    return 4 * (channels**2 + channels) + 4 * channels + 2 * channels * ffn + ffn + channels


def head_parameters(channels: int, size: tuple[int, int], ffn: int, hidden: int) -> int:
    linear = channels**2 + channels
    pixels = (channels + 2) * hidden + (hidden + 1) * hidden + (hidden + 1) * channels
    condition = 9 * size[0] * size[1] + 1 + 2
    return 8 * linear + 2 * attention_parameters(channels, ffn) + pixels + condition + 2 * channels


MAPS = (normal(3, 8, 2, 3).float(), normal(3, 8, 2, 3, seed=1).float())
SAME = torch.tensor([True, False, True])
WHOLE_NUMBERS = (0, -1, 2.0, True, None)

CONTRACT = {
    "CRLNet": LayerSubject(
        make=small,
        inputs=MAPS,
        shape=((3, 8), (3, 8)),
        parameter_count=head_parameters(8, (2, 3), 6, 5),
        bad={
            "channels": (*WHOLE_NUMBERS, 6, 9),
            "size": ((2,), (2, 3, 4), (0, 3), (2, 3.0), (2, True)),
            "heads": (*WHOLE_NUMBERS, 3),
            "ffn": WHOLE_NUMBERS,
            "hidden": WHOLE_NUMBERS,
            "dropout": (-0.1, 1.0, math.nan),
            "share": (-0.1, 1.1, math.nan),
        },
        null=partial(small, share=0.0),
        baseline=Pooled,
    ),
    "JointCrossAttention": LayerSubject(
        make=lambda **given: JointCrossAttention(**{"channels": 8, "heads": 2, "ffn": 6, **given}),
        inputs=MAPS,
        shape=((3, 8, 2, 3), (3, 8, 2, 3)),
        parameter_count=6 * 72 + attention_parameters(8, 6),
        bad={
            "channels": (*WHOLE_NUMBERS, 6, 9),
            "heads": (*WHOLE_NUMBERS, 3),
            "ffn": WHOLE_NUMBERS,
            "dropout": (-0.1, 1.0, math.nan),
        },
    ),
    "correlation": FunctionSubject(
        make=correlation,
        arguments={"first": MAPS[0], "second": MAPS[1]},
        bad={"first": (normal(8, 2, 3), normal(2, 8, 2, 3)), "second": (normal(3, 8, 2), normal(3, 4, 2, 3))},
    ),
    "pair_loss": FunctionSubject(
        make=pair_loss,
        arguments={"support": normal(3, 4), "query": normal(3, 4, seed=1), "same": SAME},
        bad={
            "support": (normal(4), normal(0, 4), normal(2, 4), normal(3, 5)),
            "query": (normal(4), normal(0, 4), normal(2, 4), normal(3, 5)),
            "same": (SAME.float(), SAME[:2], SAME.long()),
        },
    ),
    "episode_scores": FunctionSubject(
        make=episode_scores,
        arguments={
            "model": Pooled(),
            "support": MAPS[0],
            "labels": torch.tensor([1, 0, 1]),
            "query": MAPS[1],
        },
        bad={
            "support": (MAPS[0][:0], MAPS[0][:, :4]),
            "labels": (
                torch.tensor([1, 0]),
                torch.tensor([0, 2, 2]),
                torch.tensor([-1, 0, 1]),
                torch.tensor([0.0, 1.0, 1.0]),
                torch.tensor([True, False, True]),
            ),
            "query": (MAPS[0][:0], MAPS[0][..., :2]),
            "batch_size": (0, 2.0, True),
        },
    ),
}


def position(row: int, column: int, height: int, width: int, channels: int) -> Tensor:
    """The code of one pixel, number by number: half of the channels for its row, half for its column."""
    code = []
    for place, length in ((row, height), (column, width)):
        angle = 2 * math.pi * (place + 1) / length
        for k in range(channels // 2):
            wave = 10_000 ** ((k - k % 2) / (channels // 2))
            code.append((math.cos if k % 2 else math.sin)(angle / wave))
    return torch.tensor(code, dtype=torch.float64)


def attend(layer: nn.MultiheadAttention, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What one token gets from others, head by head."""
    parts, size = [], layer.head_dim
    weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
    q = weights[0] @ query + biases[0]
    k, v = (given @ w.T + b for given, w, b in zip((keys, values), weights[1:], biases[1:], strict=True))
    for head in range(layer.num_heads):
        own = slice(head * size, (head + 1) * size)
        scores = k[:, own] @ q[own] / math.sqrt(size)
        parts.append(scores.softmax(dim=0) @ v[:, own])
    return layer.out_proj(torch.cat(parts))


def finished(shared: nn.Module, added: Tensor, given: Tensor) -> Tensor:
    x = shared.norm(added + given)
    first, second = shared.ffn[0], shared.ffn[3]
    return shared.ffn_norm(x + second(first(x).clamp(min=0)))


def crossed_by_loops(layer: JointCrossAttention, support: Tensor, query: Tensor) -> PairOfTensors:
    channels, height, width = support.shape
    below = [(maps, row, row + at) for at, maps in ((0, support), (height, query)) for row in range(height)]
    new = []
    for maps, own in ((support, layer.support), (query, layer.query)):
        keys, values = [], []
        for other, row, at in below:
            for column in range(width):
                pixel = other[:, row, column]
                keys.append(own.key(pixel) + position(at, column, 2 * height, width, channels))
                values.append(own.value(pixel))
        out = torch.empty_like(maps)
        for row in range(height):
            for column in range(width):
                asked = own.query(maps[:, row, column]) + position(row, column, height, width, channels)
                given = attend(layer.shared.attention, asked, torch.stack(keys), torch.stack(values))
                out[:, row, column] = finished(layer.shared, asked, given)
        new.append(out)
    return PairOfTensors(*new)


def condition_by_loops(model: CRLNet, other: Tensor, own: Tensor) -> Tensor:
    """What one map has in common with the other, (H, W): each pair of pixels, weighted by place and neighbour."""
    convolution, norm = model.condition[0], model.condition[1]
    _, height, width = own.shape
    out = torch.full((height, width), convolution.bias.item(), dtype=own.dtype)
    for x in range(height):
        for y in range(width):
            for dx in (-1, 0, 1):
                for dy in (-1, 0, 1):
                    if 0 <= x + dx < height and 0 <= y + dy < width:
                        for h in range(height):
                            for w in range(width):
                                weight = convolution.weight[0, h, w, dx + 1, dy + 1]
                                out[x, y] += weight * (other[:, h, w] @ own[:, x + dx, y + dy])
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return ((out - norm.running_mean) * scale + norm.bias).clamp(min=0)


def embedded_by_loops(model: CRLNet, maps: Tensor, condition: Tensor, projection: nn.Linear) -> Tensor:
    channels, height, width = maps.shape
    places = [(row, column) for row in range(height) for column in range(width)]
    pixels = []
    for row, column in places:
        x = torch.cat([maps[:, row, column], condition[row, column][None]])
        first, second, third = model.pixels[0], model.pixels[2], model.pixels[4]
        x = third(second(first(x).clamp(min=0)).clamp(min=0))
        pixels.append(projection(x) + position(row, column, height, width, channels))
    normed = torch.stack([model.encoder_norm(x) for x in pixels])
    attention = model.encoder.attention
    new = [
        finished(model.encoder, x, attend(attention, query, normed, normed))
        for x, query in zip(pixels, normed, strict=True)
    ]
    old = torch.stack([maps[:, row, column] for row, column in places]).mean(dim=0)
    return (torch.stack(new).mean(dim=0) + old) / 2


def shaken(model: nn.Module, seed: int = 3) -> nn.Module:
    """Give norms, biases and running statistics values of their own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0, generator=generator)
            elif value.is_floating_point():
                value.add_(0.3 * torch.randn(value.shape, generator=generator).to(value.dtype))
    return model.double().eval()


@torch.no_grad()
def test_the_attention_by_loops():
    layer = shaken(JointCrossAttention(8, heads=2, ffn=6))
    support, query = normal(2, 8, 2, 3), normal(2, 8, 2, 3, seed=1)
    given = layer(support, query)
    for n in range(2):
        expected = crossed_by_loops(layer, support[n], query[n])
        torch.testing.assert_close(given.support[n], expected.support, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(given.query[n], expected.query, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_whole_by_loops():
    model = shaken(small())
    support, query = normal(1, 8, 2, 3), normal(1, 8, 2, 3, seed=1)
    crossed = crossed_by_loops(model.cross, support[0], query[0])
    for_support = condition_by_loops(model, crossed.query, crossed.support)
    for_query = condition_by_loops(model, crossed.support, crossed.query)
    assert for_support.any()
    assert for_query.any()
    given = model(support, query)
    expected = embedded_by_loops(model, support[0], for_support, model.support)
    torch.testing.assert_close(given.support[0], expected, rtol=1e-5, atol=1e-5)
    expected = embedded_by_loops(model, query[0], for_query, model.query)
    torch.testing.assert_close(given.query[0], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_reversed_pairs_have_reversed_embeddings_where_projections_are_tied_and_keys_do_not_tell_positions(monkeypatch):
    model = shaken(small())
    model.cross.support.load_state_dict(model.cross.query.state_dict())
    model.support.load_state_dict(model.query.state_dict())
    support, query = normal(4, 8, 2, 3), normal(4, 8, 2, 3, seed=1)
    there, back = model(support, query), model(query, support)
    assert not torch.allclose(there.support, back.query, atol=1e-3)
    for module in (_joint_attention, crlnet):
        monkeypatch.setattr(module, "positions", lambda maps: torch.zeros(maps.shape[2] * maps.shape[3], 8).double())
    there, back = model(support, query), model(query, support)
    torch.testing.assert_close(there.support, back.query, rtol=0, atol=1e-12)
    torch.testing.assert_close(there.query, back.support, rtol=0, atol=1e-12)


@torch.no_grad()
def test_without_new_features_half_of_the_backbones_is_left_with_their_cosine():
    model = shaken(small())
    model.encoder.ffn_norm.weight.zero_()
    model.encoder.ffn_norm.bias.zero_()
    support, query = normal(4, 8, 2, 3), normal(4, 8, 2, 3, seed=1)
    given, pooled = model(support, query), Pooled()(support, query)
    torch.testing.assert_close(given.support, pooled.support / 2)
    torch.testing.assert_close(given.query, pooled.query / 2)


@torch.no_grad()
def test_an_embedding_depends_on_the_other_image():
    model = shaken(small())
    support, query, other = normal(4, 8, 2, 3), normal(4, 8, 2, 3, seed=1), normal(4, 8, 2, 3, seed=2)
    assert not torch.allclose(model(support, query).support, model(support, other).support, atol=1e-3)
    assert not torch.allclose(model(support, query).query, model(other, query).query, atol=1e-3)


def test_a_correlation_by_hand_of_maps_of_two_sizes():
    first, second = torch.tensor([[[[1.0, 2.0]], [[0.0, -1.0]]]]), torch.tensor([[[[3.0], [5.0]], [[4.0], [6.0]]]])
    # Pixels (1, 0) and (2, -1) with pixels (3, 4) and (5, 6).
    assert correlation(first, second).tolist() == [[[[[3.0], [5.0]], [[2.0], [4.0]]]]]


def test_losses_by_hand_by_a_loop_and_of_zeros():
    support, query = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[4.0, 3.0], [1.0, 0.0]])
    same = torch.tensor([True, False])
    assert pair_loss(support, query, same).item() == pytest.approx((0.04**2 + 0) / 2, rel=1e-5)
    assert pair_loss(support, query, ~same).item() == pytest.approx((0.96**2 + 1) / 2, rel=1e-5)
    support, query, same = normal(5, 3), normal(5, 3, seed=1), torch.arange(5) % 2 == 0
    terms = [(cosine(s, q) - float(y)) ** 2 for s, q, y in zip(support, query, same, strict=True)]
    torch.testing.assert_close(pair_loss(support, query, same), torch.stack(terms).mean())
    zeros = torch.zeros(2, 3, requires_grad=True)
    loss = pair_loss(zeros, zeros, torch.tensor([True, False]))
    loss.backward()
    assert loss.item() == 0.5
    assert zeros.grad.isfinite().all()


@pytest.mark.parametrize("batch_size", [1, 4, 5, 256])
def test_scores_are_means_over_shots_of_each_pairs_cosine(batch_size):
    support, query, labels = normal(5, 3), normal(4, 3, seed=1), torch.tensor([2, 0, 1, 0, 0])
    given = episode_scores(Crossed(), support, labels, query, batch_size)
    for i in range(4):
        for c in range(3):
            of_class = [support[j] for j in range(5) if labels[j] == c]
            cosines = [cosine(s + query[i], query[i] - 0.5 * s) for s in of_class]
            assert given[i, c].item() == pytest.approx(float(sum(cosines)) / len(cosines), rel=1e-9)
    assert given.abs().max() <= 1


def test_scores_are_those_of_evaluation_mode_and_leave_the_mode_and_statistics():
    model = shaken(small()).train()
    model.cross.eval()
    before = copy.deepcopy(model.state_dict())
    support, query = normal(3, 8, 2, 3), normal(2, 8, 2, 3, seed=1)
    scores = episode_scores(model, support, torch.arange(3), query)
    assert model.training
    assert not model.cross.training
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert torch.equal(scores, episode_scores(model.eval(), support, torch.arange(3), query))
    scores.sum().backward()
    assert model.support.weight.grad.any()


def test_copies_precisions_and_maps_of_other_shapes():
    torch.manual_seed(0)
    model = small().eval()
    expected = model(*MAPS)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(*MAPS).query, expected.query)
    doubled = copy.deepcopy(model).double()(*(maps.double() for maps in MAPS))
    torch.testing.assert_close(doubled.support.float(), expected.support, rtol=1e-4, atol=1e-4)
    halved = copy.deepcopy(model).bfloat16()(*(maps.bfloat16() for maps in MAPS))
    assert halved.query.dtype == torch.bfloat16
    assert halved.query.isfinite().all()
    for wrong in ((MAPS[0], MAPS[1][:2]), (MAPS[0][:, :4],) * 2, (MAPS[0].transpose(2, 3),) * 2, (MAPS[0][:0],) * 2):
        with pytest.raises(ValueError, match="support and query must have one shape"):
            model(*wrong)


@pytest.mark.parametrize("shapes", [((2, 8, 1, 1), (2, 8, 2, 1)), ((2, 4, 2, 2),) * 2, ((8, 2, 2),) * 2])
def test_attention_refuses_maps_of_two_shapes_or_other_channels(shapes):
    with pytest.raises(ValueError, match="support and query must have one shape"):
        JointCrossAttention(8, heads=2, ffn=6)(*(normal(*shape).float() for shape in shapes))


def test_dropout_is_that_of_the_cross_attention_alone():
    rates = {name: module.p for name, module in small(dropout=0.3).named_modules() if isinstance(module, nn.Dropout)}
    assert {rate for name, rate in rates.items() if name.startswith("cross.")} == {0.3}
    assert {rate for name, rate in rates.items() if not name.startswith("cross.")} == {0.0}


def test_episodes_of_the_study_have_disjoint_images_of_so_many_classes():
    labels = torch.arange(7).repeat(6)
    for episode in episodes(labels, 20, ways=5, shots=2, queries=3, generator=torch.Generator().manual_seed(0)):
        assert len({*episode.support.tolist(), *episode.query.tolist()}) == 5 * 5
        names = labels[episode.support].view(5, 2)
        assert len(names[:, 0].unique()) == 5
        assert torch.equal(names[:, 0], names[:, 1])
        assert torch.equal(labels[episode.query], names[:, 0][episode.expected])
        assert torch.equal(labels[episode.support], names[:, 0][episode.labels])
    few = episodes(labels[labels < 3], 1, ways=5, shots=1, queries=1, generator=torch.Generator().manual_seed(0))[0]
    assert few.expected.tolist() == [0, 1, 2]


def test_pairs_of_the_study_are_half_of_one_class_and_of_two_images():
    labels = torch.arange(4).repeat(3)
    batches = pairs(labels, 8, torch.Generator().manual_seed(0))
    for _ in range(20):
        batch = next(batches)
        assert torch.equal(labels[batch.first] == labels[batch.second], batch.same)
        assert batch.same.sum() == 4
        assert (batch.first != batch.second).all()


def test_characters_of_a_class_are_more_alike_than_others_and_disturbances_are_of_three_kinds():
    drawn = drawn_characters(6, 8, 16, torch.Generator().manual_seed(0))
    assert drawn.images.shape == (48, 1, 16, 16)
    assert drawn.images.mean().abs() < 1e-5
    assert drawn.images.std().item() == pytest.approx(1, abs=1e-4)
    distances = torch.cdist(drawn.images.flatten(1), drawn.images.flatten(1))
    same = drawn.labels[:, None] == drawn.labels
    assert distances[same].sum() / (same.sum() - 48) < 0.9 * distances[~same].mean()
    images = drawn.images[:1].expand(300, -1, -1, -1)
    changed = disturbed(images, torch.Generator().manual_seed(1))
    rough = (changed[..., 1:] - changed[..., :-1]).square().mean(dim=(1, 2, 3))
    usual = (images[..., 1:] - images[..., :-1]).square().mean(dim=(1, 2, 3))
    assert 75 < (rough > usual).sum() < 126
    assert (rough < usual).sum() == 300 - (rough > usual).sum()
    assert torch.equal(images, drawn.images[:1].expand(300, -1, -1, -1))
