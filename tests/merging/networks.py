"""Networks of all constructions that the tracer follows, each with an example input and its groups, by hand."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.nets import MLP, LeNet, ResNet, ResNet18, ViT

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SMALL = IMAGE[:, :, :8, :8].contiguous()
VECTOR = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
SEQUENCE = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2))
TOKENS = torch.randint(11, (2, 5), generator=torch.Generator().manual_seed(3))


def vgg() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1)),
        *(nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(5 * 16, 12), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(12, 3)),
    )


def encoder(norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=norm_first)
    stack = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(6, 8), stack, nn.Linear(8, 3))


class Gated(nn.Module):
    """Two halves of one layer, multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(6, 16)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, dim=-1)
        return self.head(value * torch.sigmoid(gate))


class Averaged(nn.Module):
    """Means of pairs of units, which move as one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x).relu().unflatten(1, (4, 2)).mean(dim=2))


class Stacked(nn.Module):
    """Tokens that two layers make and one reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 8)
        self.c = nn.Linear(8, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(torch.stack([self.a(x).relu(), self.b(x)], dim=1)).relu().sum(1))


class Halves(nn.Module):
    """Two halves of one layer, read by a layer each."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(6, 10)
        self.left = nn.Linear(4, 3)
        self.right = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.both(x).relu().split([4, 6], dim=-1)
        return self.left(left) + self.right(right)


class Dense(nn.Module):
    """Maps that are concatenated and normalized together; functions in place of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(9)
        self.c = nn.Conv2d(9, 6, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        b = F.relu(self.b(F.max_pool2d(F.pad(a, (1, 1, 1, 1)), 3, 1)))
        return self.head(self.c(self.norm(torch.cat([a, b], 1))).mean((2, 3)))


class Padded(nn.Module):
    """Channels of zeros, which are normalized and read."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 5, 3)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.pad(self.a(x), (0, 0, 0, 0, 0, 2)).relu())
        return self.head(F.pad(self.b(x).relu().mean((2, 3)), (1, 1)))


class Excited(nn.Module):
    """Depthwise and transposed convolution, squeeze and excitation, PReLU, normalization in one group."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.depth = nn.Conv2d(8, 8, 3, groups=8)
        self.prelu = nn.PReLU(8)
        self.squeeze = nn.Linear(8, 4)
        self.excite = nn.Linear(4, 8)
        self.up = nn.ConvTranspose2d(8, 5, 2)
        self.norm = nn.GroupNorm(1, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.depth(self.a(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1).flatten(1)))))
        return self.head(self.norm(self.up(x * gate[:, :, None, None])).amax((2, 3)))


class Grouped(nn.Module):
    """Group normalization on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1 = nn.GroupNorm(4, 8)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.norm2 = nn.GroupNorm(4, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x += self.b(F.silu(self.norm1(x)))
        return self.head(F.relu(self.norm2(x)).mean((-1, -2)))


class Text(nn.Module):
    """Embedding, class token, positions as parameter and buffer, attention of torch, scales."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 12)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.position = nn.Parameter(torch.randn(6, 12))
        self.register_buffer("wave", torch.randn(6, 12))
        self.attention = nn.MultiheadAttention(12, 3, batch_first=batch_first)
        self.norm = nn.LayerNorm(12)
        self.perceptron = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.one_scale = nn.Parameter(torch.ones(1))
        self.scale = nn.Parameter(torch.ones(12))
        self.head = nn.Linear(12, 4)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position + self.wave
        y = self.norm(x) if self.batch_first else self.norm(x).transpose(0, 1)
        y = self.attention(y, y, y, need_weights=False)[0]
        y = y if self.batch_first else y.transpose(0, 1)
        x = x + self.scale * y * self.one_scale
        x = x + self.perceptron(F.layer_norm(x, (12,)))
        return self.head(x[:, 0])


class Heads(nn.Module):
    """Attention with three projections; with normalized queries and keys the heads share their units."""

    def __init__(self, normalized: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))
        self.norm_q: nn.Module = nn.RMSNorm(4) if normalized else nn.Identity()
        self.norm_k: nn.Module = nn.RMSNorm(4) if normalized else nn.Identity()
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (project(x).unflatten(-1, (3, 4)).transpose(1, 2) for project in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.norm_q(q), self.norm_k(k), v).transpose(1, 2).flatten(2)
        return self.head((x + self.o(y)).mean(1))


class Recurrent(nn.Module):
    """A layer that is called twice, and one with its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.b = nn.Linear(8, 8)
        self.c = nn.Linear(8, 8, bias=False)
        self.c.weight = self.b.weight
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.b(F.relu(self.a(x))))))
        return self.head(F.relu(self.c(x)))


class Series(nn.Module):
    """A convolution in one dimension whose map is flattened with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 3)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8 * 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.norm(self.conv(x))), 2)
        return self.head(x.permute(0, 2, 1).reshape(x.shape[0], -1))


class NormAct(nn.BatchNorm2d):
    """A normalization that activates, too: a subclass with modules of its own, written with functions."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop = nn.Identity()
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return self.act(self.drop(x))


class ChannelNorm(nn.LayerNorm):
    """A normalization over the channels of maps."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias).permute(0, 3, 1, 2)


class SameConv(nn.Conv2d):
    """A convolution that pads by the size of what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        pad = (self.kernel_size[0] - 1) // 2 if x.shape[-1] > 1 else 0
        return F.conv2d(F.pad(x, [pad] * 4), self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


class Bottleneck(nn.Module):
    """Convolutions in groups, subclasses of known layers, attention over channels, a gate of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 12, 3)
        self.norm0 = ChannelNorm(12)
        self.reduce = SameConv(12, 8, 1, bias=False)
        self.norm1 = NormAct(8)
        self.grouped = SameConv(8, 12, 3, groups=4)
        self.norm2 = NormAct(12)
        self.expand = SameConv(12, 12, 1)
        self.gamma = nn.Parameter(torch.randn(12))
        self.local = nn.Conv1d(1, 1, 3, padding=1)
        self.wide = nn.Conv2d(12, 24, 3, groups=12)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm0(self.stem(x))
        y = self.expand(self.norm2(self.grouped(self.norm1(self.reduce(x)))))
        x = x + self.gamma.view(1, -1, 1, 1) * y
        x = x * torch.sigmoid(x.mean(1, keepdim=True))
        return self.head(F.relu(self.wide(x)).mean((2, 3)))


class Windows(nn.Module):
    """Attention within windows, with a bias a head from a table, by products of matrices or in one function."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.qkv = nn.Linear(12, 36, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(12))
        self.register_buffer("k_bias", torch.zeros(12), persistent=False)
        self.table = nn.Parameter(torch.randn(9, 3))
        self.register_buffer("index", torch.arange(5)[:, None] - torch.arange(5) + 4, persistent=False)
        self.scale = nn.Parameter(torch.randn(3, 1, 1))
        self.project = nn.Linear(12, 12)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 3)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        qkv = F.linear(self.norm(x), self.qkv.weight, torch.cat((self.q_bias, self.k_bias, self.v_bias)))
        q, k, v = qkv.reshape(len(x), 5, 3, 3, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(5, 5, -1).permute(2, 0, 1).contiguous().unsqueeze(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            y = (scores * self.scale.exp() + bias).softmax(dim=-1) @ v
        return self.head((x + self.project(y.transpose(1, 2).reshape(len(x), 5, 12))).mean(1))


class Manual(nn.Module):
    """A normalization written out, branches on values, rotated queries and keys, a matrix that is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(6, 12))
        self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))
        self.a = nn.Linear(12, 9)
        self.head = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.embed
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt()
        if x.abs().max() > 1e4:
            raise ValueError("too large")
        q, k, v = (project(x).unflatten(-1, (3, 4)).transpose(1, 2) for project in (self.q, self.k, self.v))
        angle = torch.arange(5)[:, None] * torch.tensor([1.0, 0.1])
        turn = torch.cat([angle.cos(), angle.cos()], -1), torch.cat([angle.sin(), angle.sin()], -1)
        q, k = (y * turn[0] + torch.cat([-y[..., 2:], y[..., :2]], -1) * turn[1] for y in (q, k))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(self.a(x).clamp(min=0).mean(1))


Case = tuple[Callable[[], nn.Module], Tensor, list[tuple[str, int, tuple[int, ...]]]]


def one(name: str, size: int) -> tuple[str, int, tuple[int, ...]]:
    return (name, 1, (size,))


CASES: dict[str, Case] = {
    "softmax regression": (lambda: MLP((3, 16, 16), 5, ()), IMAGE, []),
    "MLP": (lambda: MLP((3, 16, 16), 5, (20, 12)), IMAGE, [one("body.1", 20), one("body.3", 12)]),
    "LeNet": (
        lambda: LeNet((3, 16, 16), 5),
        IMAGE,
        [one("body.0", 6), one("body.3", 16), one("body.7", 120), one("body.9", 84)],
    ),
    "VGG": (vgg, IMAGE, [one("0", 4), one("4", 6), one("7", 5), one("12", 12)]),
    "ResNet": (
        lambda: ResNet((3, 16, 16), 5, depth=8, width=4),
        IMAGE,
        [
            *(one("body.0", 4), one("body.3.residual.0", 4), one("body.4.residual.0", 8), one("body.4.residual.3", 4)),
            *(one("body.5.residual.0", 16), one("body.5.residual.3", 8)),
        ],
    ),
    "ResNet18": (
        lambda: ResNet18((3, 16, 16), 5, width=2),
        IMAGE,
        [
            *(one("body.0", 2), one("body.3.residual.0", 2), one("body.4.residual.0", 2)),
            *(one("body.5.shortcut.0", 4), one("body.5.residual.0", 4), one("body.6.residual.0", 4)),
            *(one("body.7.shortcut.0", 8), one("body.7.residual.0", 8), one("body.8.residual.0", 8)),
            *(one("body.9.shortcut.0", 16), one("body.9.residual.0", 16), one("body.10.residual.0", 16)),
        ],
    ),
    "ViT": (
        lambda: ViT((3, 16, 16), 5, dim=12, depth=2, heads=3),
        IMAGE,
        [
            *(one("embed", 12), ("blocks.0.attention.1.project_in", 3, (4, 4)), one("blocks.0.perceptron.1", 48)),
            *(("blocks.1.attention.1.project_in", 3, (4, 4)), one("blocks.1.perceptron.1", 48)),
        ],
    ),
    "Encoder, norm first": (lambda: encoder(True), SEQUENCE, []),
    "Encoder, norm last": (lambda: encoder(False), SEQUENCE, []),
    "Gated": (Gated, VECTOR, [one("both", 8)]),
    "Averaged": (Averaged, VECTOR, [one("a", 4)]),
    "Stacked": (Stacked, VECTOR, [one("a", 8), one("c", 5)]),
    "Halves": (Halves, VECTOR, [one("both", 4), one("both#2", 6)]),
    "Dense": (Dense, SMALL, [one("a", 4), one("b", 5), one("c", 6)]),
    "Padded": (Padded, SMALL, [one("a", 4), one("b", 5)]),
    "Excited": (Excited, SMALL, [one("a", 8), one("squeeze", 4), one("up", 5)]),
    "Grouped": (Grouped, SMALL, [("a", 4, (2,))]),
    "Text": (lambda: Text(True), TOKENS, [one("embed", 12), ("attention", 3, (4, 4)), one("perceptron.0", 20)]),
    "Text, batch second": (
        lambda: Text(False),
        TOKENS,
        [one("embed", 12), ("attention", 3, (4, 4)), one("perceptron.0", 20)],
    ),
    "Heads": (lambda: Heads(False), SEQUENCE, [one("embed", 12), ("q", 3, (4, 4))]),
    "Heads, normalized": (
        lambda: Heads(True),
        SEQUENCE,
        [one("embed", 12), one("q", 4), one("v", 4), one("v#2", 4), one("v#3", 4)],
    ),
    "Bottleneck": (
        Bottleneck,
        SMALL,
        [("stem", 12, (1, 2)), ("reduce", 4, (1, 1, 3))],
    ),
    "Windows": (lambda: Windows(True), SEQUENCE, [one("embed", 12), ("q_bias", 3, (4, 4, 1))]),
    "Windows, written out": (lambda: Windows(False), SEQUENCE, [one("embed", 12), ("q_bias", 3, (4, 4, 1))]),
    "Manual": (Manual, SEQUENCE, [one("embed", 12), one("a", 9)]),
    "Recurrent": (Recurrent, VECTOR, [one("a", 8)]),
    "Series": (Series, torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(4)), [one("conv", 8)]),
}
for name in ("Encoder, norm first", "Encoder, norm last"):
    CASES[name][2].extend(
        [one("0", 8)]
        + [
            group
            for layer in (0, 1)
            for group in ((f"1.layers.{layer}.self_attn", 2, (4, 4)), one(f"1.layers.{layer}.linear1", 12))
        ]
    )


def made(name: str, seed: int = 0, shaken: bool = True) -> nn.Module:
    """Make a network; shaken, all its parameters and statistics are far from where they start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CASES[name][0]()
        if shaken:
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value.mul_(torch.empty_like(value).uniform_(0.7, 1.5)).add_(
                        torch.empty_like(value).uniform_(0, 0.2)
                    )
    return model.eval()


def example(name: str, count: int = 8, seed: int = 5) -> Tensor:
    """Draw inputs of the shape of a network's example."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *CASES[name][1].shape[1:])
    if CASES[name][1].is_floating_point():
        return torch.randn(shape, generator=generator)
    return torch.randint(11, shape, generator=generator)
