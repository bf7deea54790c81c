"""Composite backbones against the backbone alone, and a run of two backbones written out."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture.cbnet import (
    CompositeBackbone,
    CompositeConnection,
    composite_loss,
    connected_stages,
)
from paperweight.nets import ResNet, count_parameters
from paperweight.studies.architecture._shape_scenes import draw_scenes, mean_iou
from paperweight.testing import FunctionSubject, LayerSubject

CHANNELS = (2, 3, 4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stages() -> nn.Sequential:
    """Build three smooth stages with batch statistics; the second and third halve the map."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = zip((1, *CHANNELS), CHANNELS, (1, 2, 2), strict=False)
        parts = [(nn.Conv2d(i, o, 3, stride=s, padding=1), nn.BatchNorm2d(o), nn.Tanh()) for i, o, s in sizes]
        return nn.Sequential(*(nn.Sequential(*part) for part in parts))


class Alone(nn.Module):
    """One backbone, which gives the maps of its stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = stages()

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def shaken(**given) -> CompositeBackbone:
    """Build one whose connections are not 0 and whose backbones differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = CompositeBackbone(stages(), CHANNELS, **given).double()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype))
    return model


def parameters_of(count: int) -> int:
    backbone = (9 * 2 + 2 + 4) + (18 * 3 + 3 + 6) + (27 * 4 + 4 + 8)
    connections = (3 * 2 + 4) + (4 * 2 + 4) + (4 * 3 + 6)
    return count * backbone + (count - 1) * connections


NOT_SIZES = (0, -1, 1.5, True)
NAMES = ("DHLC", "", None, "all")

CONTRACT = {
    "CompositeBackbone": LayerSubject(
        make=lambda stages=stages, channels=CHANNELS, count=2, composition="dense": CompositeBackbone(
            stages(), channels, count, composition
        ),
        inputs=(normal(3, 1, 8, 6).float(),),
        shape=2 * ((3, 2, 8, 6), (3, 3, 4, 3), (3, 4, 2, 2)),
        parameter_count=parameters_of(2),
        bad={
            "stages": (nn.Sequential, lambda: stages()[:1], lambda: [*stages()]),
            "channels": ((), (2, 3), (2, 3, 4, 5), (2, 3, 0), (2, 3.5, 4)),
            "count": NOT_SIZES,
            "composition": NAMES,
        },
        null=lambda: CompositeBackbone(stages(), CHANNELS, count=1),
        baseline=Alone,
    ),
    "CompositeConnection": LayerSubject(
        make=lambda in_channels=3, out_channels=2: Sized(in_channels, out_channels),
        inputs=(normal(3, 3, 2, 3).float(),),
        shape=(3, 2, 4, 5),
        parameter_count=3 * 2 + 4,
        bad={"in_channels": NOT_SIZES, "out_channels": NOT_SIZES},
    ),
    "composite_loss": FunctionSubject(
        make=composite_loss,
        arguments={"lead": torch.tensor(1.0), "assistants": [torch.tensor(2.0), torch.tensor(4.0)]},
        bad={"weights": ((0.5,), (), (0.5, -1.0), (0.5, math.nan), (math.inf, 1.0))},
    ),
    "connected_stages": FunctionSubject(
        make=connected_stages,
        arguments={"stage": 2, "stages": 4},
        bad={"stage": (*NOT_SIZES, 1, 5), "stages": (*NOT_SIZES, 1), "composition": NAMES},
    ),
}


class Sized(nn.Module):
    """A connection to maps of one size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.connection = CompositeConnection(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.connection(x, (4, 5))


def test_connections_by_hand():
    found = {
        name: [connected_stages(stage, 4, name) for stage in (2, 3, 4)] for name in ("same", "higher", "lower", "dense")
    }
    assert found == {
        "same": [[1], [2], [3]],
        "higher": [[2], [3], [4]],
        "lower": [[], [1], [2]],
        "dense": [[2, 3, 4], [3, 4], [4]],
    }


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_dense_composition_has_one_connection_at_the_last_stage_and_one_more_at_each_before(levels):
    for stage in range(2, levels + 1):
        assert len(connected_stages(stage, levels)) == levels - stage + 1


def test_a_loss_by_hand():
    lead, one, two = torch.tensor(1.0), torch.tensor(10.0), torch.tensor(100.0)
    assert composite_loss(lead, []) == 1
    assert composite_loss(lead, [one]) == 1 + 5
    assert composite_loss(lead, [one, two]) == 1 + 5 + 100
    assert composite_loss(lead, [one, two], weights=[0.0, 0.25]) == 26
    with pytest.raises(ValueError, match="weights must be one for each of 3 assistants, got None"):
        composite_loss(lead, [one, one, one])


@pytest.mark.parametrize("composition", ["same", "higher", "lower", "dense"])
@pytest.mark.parametrize("training", [True, False])
def test_at_the_beginning_the_lead_and_all_assistants_are_the_backbone_alone(composition, training):
    x = normal(4, 1, 8, 8).float()
    model = CompositeBackbone(stages(), CHANNELS, 3, composition).train(training)
    expected = Alone().train(training)(x)
    found = model(x)
    assert len(found.assistants) == 2
    for maps in (found.lead, *found.assistants):
        assert all(map(torch.equal, maps, expected))


def brought(connection: nn.Module, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a map to other channels in eval mode, and to twice or four times its size by hand, or to half of it."""
    norm = connection.norm
    mapped = torch.einsum("oi,nihw->nohw", connection.convolution.weight[:, :, 0, 0], x)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    mapped = (mapped - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
    if mapped.shape[2] > size[0]:
        return mapped.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    times = size[0] // mapped.shape[2]
    return mapped.repeat_interleave(times, 2).repeat_interleave(times, 3)


def test_dense_composition_written_out():
    model, x = shaken().eval(), normal(2, 1, 8, 8)
    (first,), second, ((into_two, into_three),) = model.assistants, model.stages, model.connections
    a1 = first[0](x)
    a2 = first[1](a1)
    a3 = first[2](a2)
    b1 = second[0](x)
    b2 = second[1](b1 + brought(into_two[0], a2, (8, 8)) + brought(into_two[1], a3, (8, 8)))
    b3 = second[2](b2 + brought(into_three[0], a3, (4, 4)))
    found = model(x)
    for maps, expected in ((found.assistants[0], (a1, a2, a3)), (found.lead, (b1, b2, b3))):
        for one, other in zip(maps, expected, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("composition", "second", "third"),
    [("same", (0, (8, 8)), (1, (4, 4))), ("higher", (1, (8, 8)), (2, (4, 4))), ("lower", None, (0, (4, 4)))],
)
def test_other_compositions_written_out(composition, second, third):
    model, x = shaken(composition=composition).eval(), normal(2, 1, 8, 8)
    before = model(x).assistants[0]
    stage, (into_two, into_three) = model.stages, model.connections[0]
    expected = [stage[0](x)]
    for number, (into, source) in enumerate(((into_two, second), (into_three, third)), 1):
        given = expected[-1]
        if source is None:
            assert len(into) == 0
        else:
            given = given + brought(into[0], before[source[0]], source[1])
        expected.append(stage[number](given))
    for one, other in zip(model(x).lead, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_each_backbone_is_fed_by_the_one_before_it():
    model, x = shaken(count=3).eval(), normal(2, 1, 8, 8)
    pair = shaken(count=3).eval()
    pair.stages, pair.assistants, pair.connections = pair.assistants[1], pair.assistants[:1], pair.connections[:1]
    assert all(map(torch.equal, pair(x).lead, model(x).assistants[1]))
    before = model(x)
    with torch.no_grad():
        model.assistants[1][2][0].weight.add_(1.0)
    after = model(x)
    assert all(map(torch.equal, before.assistants[0], after.assistants[0]))
    assert not torch.equal(before.lead[-1], after.lead[-1])


def test_maps_of_odd_sizes_are_brought_to_size():
    model = shaken().float()
    assert [tuple(maps.shape) for maps in model(normal(2, 1, 7, 5).float()).lead] == [
        (2, 2, 7, 5),
        (2, 3, 4, 3),
        (2, 4, 2, 2),
    ]
    assert shaken(composition="lower").float()(normal(2, 1, 7, 5).float()).lead[2].shape == (2, 4, 2, 2)


def test_the_backbone_given_and_its_copy_are_trained_apart():
    given = stages()
    given[0][0].weight.requires_grad_(False)
    frozen = given[0][0].weight.clone()
    model = CompositeBackbone(given, CHANNELS)
    assert model.stages is given
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for step in range(3):
        features = model(normal(4, 1, 8, 8, seed=step).float())
        others = [maps[-1].square().mean() for maps in features.assistants]
        optimizer.zero_grad()
        composite_loss(features.lead[-1].square().mean(), others).backward()
        optimizer.step()
    (first,) = model.assistants
    assert torch.equal(first[0][0].weight, frozen)
    assert torch.equal(given[0][0].weight, frozen)
    assert not torch.equal(first[1][0].weight, given[1][0].weight)
    assert all(connection.norm.weight.any() for into in model.connections[0] for connection in into)


def test_copies_pickles_states_and_formats():
    model, x = shaken(), normal(3, 1, 8, 8)
    other = CompositeBackbone(stages().double(), CHANNELS)
    assert {p.dtype for p in other.parameters()} == {torch.float64}
    other.load_state_dict(model.state_dict())
    expected = copy.deepcopy(model)(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), other):
        assert all(map(torch.equal, twin(x).lead, expected.lead))
    with torch.no_grad():
        assert not model(x).lead[-1].requires_grad
    assert count_parameters(CompositeBackbone(stages(), CHANNELS, 3)) == parameters_of(3)


def test_a_residual_network_in_stages():
    body = ResNet((3, 12, 12), 5, width=4).body
    model = CompositeBackbone(nn.Sequential(body[:3], *body[3:6]), (4, 4, 8, 16))
    found = model.eval()(torch.zeros(2, 3, 12, 12))
    assert [maps.shape[2] for maps in found.lead] == [12, 12, 6, 3]
    assert [len(into) for into in model.connections[0]] == [3, 2, 1]


def test_intersections_over_unions_of_a_study_by_hand():
    labels, predicted = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 2, 2])
    assert mean_iou(predicted, labels, 3) == pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3)
    assert mean_iou(labels, labels, 3) == 1


def test_scenes_of_a_study_have_a_class_for_each_pixel():
    scenes = draw_scenes(200, 16, 2, generator=torch.Generator().manual_seed(0))
    assert scenes.images.shape == (200, 3, 16, 16)
    assert scenes.labels.unique().tolist() == [0, 1, 2, 3, 4]
    inside = scenes.labels > 0
    bright = scenes.images.amax(1)
    assert bright[inside].mean() > 0.9
    assert bright[~inside].mean() < 0.4
    assert F.one_hot(scenes.labels, 5).float().mean((0, 1, 2))[1:].min() > 0.02
