from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from paperweight.nets import MLP, LeNet, NormalisedMLP, ResNet, ResNet18, ViT, count_multiplications, count_parameters

Maker = Callable[[tuple[int, int, int], int], nn.Module]

MAKERS: dict[str, Maker] = {
    "softmax regression": lambda shape, classes: MLP(shape, classes, hidden=()),
    "MLP": lambda shape, classes: MLP(shape, classes, hidden=(20, 12)),
    "NormalisedMLP": lambda shape, classes: NormalisedMLP(shape, classes, hidden=(20, 12)),
    "LeNet": LeNet,
    "ResNet": lambda shape, classes: ResNet(shape, classes, depth=8, width=4),
    "ResNet18": lambda shape, classes: ResNet18(shape, classes, width=4),
    "ViT": lambda shape, classes: ViT(shape, classes, dim=16, depth=2, heads=2),
}

every_net = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@pytest.fixture(autouse=True)
def _fixed_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def images(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


@every_net
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 12), (28, 28), (32, 20), (16, 64)])
def test_logits_have_one_row_an_image_and_one_column_a_class(make: Maker, channels: int, height: int, width: int):
    shape = (channels, height, width)
    logits = make(shape, 7)(images(2, shape))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@every_net
def test_samples_are_independent_in_eval_mode(make: Maker):
    model = make((1, 8, 8), 3).eval()
    x = images(4, (1, 8, 8))
    changed = x.clone()
    changed[2] += 1
    before, after = model(x), model(changed)
    same = [0, 1, 3]
    assert torch.equal(before[same], after[same])
    assert not torch.allclose(before[2], after[2])


@every_net
def test_gradient_reaches_every_parameter(make: Maker):
    model = make((1, 16, 16), 3)
    nn.functional.cross_entropy(model(images(8, (1, 16, 16))), torch.arange(8) % 3).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@every_net
def test_state_dict_round_trip(make: Maker):
    model, other = make((1, 8, 8), 3), make((1, 8, 8), 3)
    x = images(4, (1, 8, 8))
    model(x)
    assert not torch.equal(model.eval()(x), other.eval()(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x), other(x))


@every_net
def test_the_seed_decides_the_initial_weights(make: Maker):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(nn.utils.parameters_to_vector(make((1, 8, 8), 3).parameters()))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@every_net
def test_learns_to_tell_the_sign_of_an_image(make: Maker):
    x = images(64, (1, 8, 8)) + torch.tensor([-1.0, 1.0]).repeat(32)[:, None, None, None]
    y = torch.arange(64) % 2
    model = make((1, 8, 8), 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    fresh = images(64, (1, 8, 8), seed=1) + torch.tensor([-1.0, 1.0]).repeat(32)[:, None, None, None]
    assert (model.eval()(fresh).argmax(dim=1) == y).float().mean() > 0.95


@every_net
@pytest.mark.parametrize(
    ("shape", "classes", "name"),
    [((8, 8), 2, "shape"), ((0, 8, 8), 2, "shape"), ((1, 8.0, 8), 2, "shape"), ((1, 8, 8), 0, "classes")],
)
def test_bad_common_arguments_are_named(make: Maker, shape: tuple, classes: int, name: str):
    with pytest.raises(ValueError, match=rf"{name} must be .*, got"):
        make(shape, classes)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: MLP((1, 8, 8), 2, hidden=(4, 0)), "hidden"),
        (lambda: LeNet((1, 7, 8), 2), "height"),
        (lambda: LeNet((1, 8, 7), 2), "width"),
        (lambda: ResNet((1, 8, 8), 2, depth=2), "depth"),
        (lambda: ResNet((1, 8, 8), 2, depth=18), "depth"),
        (lambda: ResNet((1, 8, 8), 2, width=0), "width"),
        (lambda: ResNet18((1, 8, 8), 2, width=0), "width"),
        (lambda: ViT((1, 8, 10), 2), "patch"),
        (lambda: ViT((1, 10, 8), 2), "patch"),
        (lambda: ViT((1, 8, 8), 2, dim=10), "dim"),
        (lambda: ViT((1, 8, 8), 2, heads=0), "heads"),
    ],
)
def test_bad_own_arguments_are_named(make: Callable[[], nn.Module], name: str):
    with pytest.raises(ValueError, match=rf"{name} must .*, got"):
        make()


def test_mlp_parameters():
    assert count_parameters(MLP((1, 28, 28), 10, hidden=())) == 784 * 10 + 10
    assert count_parameters(MLP((3, 8, 8), 5, hidden=(7, 6))) == (192 * 7 + 7) + (7 * 6 + 6) + (6 * 5 + 5)


def test_mlp_without_hidden_layers_is_linear():
    model = MLP((1, 8, 8), 3, hidden=())
    x, y = images(4, (1, 8, 8)), images(4, (1, 8, 8), seed=1)
    expected = (model(x) + model(y)) / 2
    torch.testing.assert_close(model((x + y) / 2), expected)


def test_lenet_has_the_parameters_of_lenet_5_at_28_by_28():
    convolutions = (1 * 25 * 6 + 6) + (6 * 25 * 16 + 16)
    linear = (16 * 5 * 5 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
    assert convolutions + linear == 61_706
    assert count_parameters(LeNet((1, 28, 28), 10)) == 61_706


@pytest.mark.parametrize(
    ("height", "width", "pixels"),
    [(8, 8, 2 * 2), (15, 15, 3 * 3), (16, 16, 2 * 2), (32, 32, 6 * 6), (8, 28, 2 * 5)],
)
def test_lenet_ends_in_the_documented_map(height: int, width: int, pixels: int):
    rest = (25 * 6 + 6) + (6 * 25 * 16 + 16) + 120 + (120 * 84 + 84) + (84 * 10 + 10)
    assert count_parameters(LeNet((1, height, width), 10)) == rest + 16 * pixels * 120


def test_resnet_20_has_the_papers_parameters():
    stem = 3 * 16 * 9 + 2 * 16
    stage_1 = 6 * (16 * 16 * 9 + 2 * 16)
    stage_2 = (16 * 32 * 9 + 2 * 32) + 5 * (32 * 32 * 9 + 2 * 32)
    stage_3 = (32 * 64 * 9 + 2 * 64) + 5 * (64 * 64 * 9 + 2 * 64)
    head = 64 * 10 + 10
    assert stem + stage_1 + stage_2 + stage_3 + head == 269_722
    assert count_parameters(ResNet((3, 32, 32), 10, depth=20)) == 269_722


def test_resnet_depth_counts_the_layers_with_weights():
    for depth in (8, 14, 20, 56):
        model = ResNet((3, 32, 32), 10, depth=depth, width=1)
        assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == depth


def test_resnet_18_has_the_usual_parameters():
    def block(inputs: int, outputs: int) -> int:
        projection = inputs * outputs + 2 * outputs if inputs != outputs else 0
        return inputs * outputs * 9 + outputs * outputs * 9 + 4 * outputs + projection

    stem, head = 3 * 64 * 9 + 2 * 64, 512 * 10 + 10
    stages = [(64, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    assert stem + sum(block(*pair) for pair in stages) + head == 11_173_962
    assert count_parameters(ResNet18((3, 32, 32), 10)) == 11_173_962


def test_resnet_is_its_shortcuts_where_the_residuals_are_zero():
    model = ResNet((1, 8, 8), 6, depth=8, width=2).eval()
    stem = model.body[:3]
    for name, parameter in model.named_parameters():
        if "residual" in name:
            nn.init.zeros_(parameter)
    x = images(3, (1, 8, 8))
    kept = stem(x)[:, :, ::4, ::4].mean(dim=(2, 3))
    features = torch.cat([kept, torch.zeros(3, 6)], dim=1)
    torch.testing.assert_close(model(x), model.head(features))


def test_vit_parameters():
    dim, patches = 16, (32 // 8) * (16 // 8)
    embed = 3 * 8 * 8 * dim + dim
    block = 2 * 2 * dim + (3 * dim * dim + 3 * dim) + (dim * dim + dim) + (8 * dim * dim + 5 * dim)
    expected = embed + patches * dim + 2 * block + 2 * dim + (dim * 5 + 5)
    assert count_parameters(ViT((3, 32, 16), 5, patch=8, dim=dim, depth=2, heads=4)) == expected


def test_vit_block_equals_pytorchs_encoder_layer():
    dim, heads = 16, 4
    block = ViT((1, 8, 8), 2, dim=dim, depth=1, heads=heads).blocks[0]
    layer = nn.TransformerEncoderLayer(
        dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    state = {
        "self_attn.in_proj_weight": block.attention[1].project_in.weight,
        "self_attn.in_proj_bias": block.attention[1].project_in.bias,
        "self_attn.out_proj.weight": block.attention[1].project_out.weight,
        "self_attn.out_proj.bias": block.attention[1].project_out.bias,
        "linear1.weight": block.perceptron[1].weight,
        "linear1.bias": block.perceptron[1].bias,
        "linear2.weight": block.perceptron[3].weight,
        "linear2.bias": block.perceptron[3].bias,
        "norm1.weight": torch.rand(dim),
        "norm1.bias": torch.rand(dim),
        "norm2.weight": torch.rand(dim),
        "norm2.bias": torch.rand(dim),
    }
    layer.load_state_dict(state)
    with torch.no_grad():
        for norm, source in ((block.attention[0], "norm1"), (block.perceptron[0], "norm2")):
            norm.weight.copy_(state[f"{source}.weight"])
            norm.bias.copy_(state[f"{source}.bias"])
    tokens = torch.randn(2, 5, dim, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(tokens), layer(tokens))


def test_vit_without_positions_ignores_the_order_of_patches():
    model = ViT((1, 8, 8), 3, dim=16, depth=2, heads=2)
    x = images(2, (1, 8, 8))
    swapped = torch.cat([x[..., 4:], x[..., :4]], dim=-1)
    assert not torch.allclose(model(x), model(swapped))
    nn.init.zeros_(model.position)
    torch.testing.assert_close(model(x), model(swapped))


def test_shared_parameters_count_once_frozen_ones_too_and_buffers_not():
    layer = nn.Linear(3, 3).requires_grad_(False)
    assert count_parameters(nn.Sequential(layer, nn.BatchNorm1d(3), layer)) == 12 + 6


def test_multiplications_are_those_by_weights_other_than_zero_at_each_place():
    network = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 5)).train()
    assert count_multiplications(network, images(1, (2, 9, 9))) == 16 * 3 * (2 * 9) + 48 * 5
    assert network.training
    with torch.no_grad():
        network[0].weight[1, 0] = 0
        network[3].weight[:, :10] = 0
    assert count_multiplications(network, images(1, (2, 9, 9))) == 16 * (3 * 18 - 9) + 38 * 5
    assert count_multiplications(network, images(2, (2, 9, 9))) == 2 * (16 * (3 * 18 - 9) + 38 * 5)


def test_a_convolution_by_groups_multiplies_by_its_own_inputs_only():
    assert count_multiplications(nn.Conv2d(4, 4, 3, groups=4), images(1, (4, 5, 5))) == 9 * 4 * 9
