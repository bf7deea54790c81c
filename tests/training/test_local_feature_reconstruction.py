"""Local feature reconstruction against losses by hand, a loop over its parts, and back-propagation."""

import copy
import math
import pickle
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.loops import local_gradients, peak_saved_bytes
from paperweight.nets import LeNet, ViT, halved
from paperweight.studies.training.local_feature_reconstruction import RECIPE
from paperweight.testing import FunctionSubject, LayerSubject
from paperweight.training.local_feature_reconstruction import (
    LocalFeatureReconstruction,
    LocalOutputs,
    depth_weights,
    local_reconstruction_loss,
    reconstruction_error,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vit(depth: int = 4, dim: int = 4, patch: int = 4) -> ViT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ViT((1, 8, 8), 3, patch=patch, dim=dim, depth=depth, heads=2)


class Rows(nn.Module):
    """Takes each row of an image as a token."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).unflatten(2, (x.shape[2], -1)).transpose(1, 2).flatten(2)


def chain(dropout: float = 0.0) -> nn.Sequential:
    """Build a transformer of torch's own blocks, with a stem that has batch statistics and dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make = partial(nn.TransformerEncoderLayer, 4, 2, 8, dropout=dropout, batch_first=True)
        stem = nn.BatchNorm2d(1), Rows(), nn.Linear(8, 4), nn.Dropout(dropout)
        return nn.Sequential(*stem, make(), nn.LayerNorm(4), make(), nn.Flatten(), nn.Linear(32, 3))


def local(**given) -> LocalFeatureReconstruction:
    return LocalFeatureReconstruction(vit(), **{"classes": 3, "generator": seeded(), **given})


BLOCK = 8 + (4 * 12 + 12) + (4 * 4 + 4) + 8 + (4 * 16 + 16) + (16 * 4 + 4)
NETWORK = (16 * 4 + 4) + 4 * 4 + 2 * BLOCK + 8 + (4 * 3 + 3)
AUXILIARY = 8 + (4 * 128 + 128) + (128 * 3 + 3) + 2 * (4 * 4 + 4)
OUTPUTS = LocalOutputs(normal(4, 3), (normal(4, 3, seed=1), normal(4, 3, seed=2)), (normal(1)[0], normal(2)[1]))
WEIGHTS = ((-1.0, 0.0), (0.0, math.nan), (math.inf, 1.0))

CONTRACT = {
    "LocalFeatureReconstruction": LayerSubject(
        make=lambda classes=3, parts=None, image=None: LocalFeatureReconstruction(
            vit(depth=2), classes, parts, image=image, generator=seeded()
        ),
        inputs=(normal(4, 1, 8, 8).float(),),
        shape=None,
        parameter_count=NETWORK + AUXILIARY,
        bad={"classes": (1, 0, 2.5, True), "parts": (0, 3, 1.5, True), "image": (0, -1, 1.5, True, 15, 4)},
        null=lambda: LocalFeatureReconstruction(vit(depth=2), classes=3, parts=1),
        baseline=lambda: vit(depth=2),
        expected_failures={
            "check_gradients": "no gradient goes from a part to those before it, which differences do not know"
        },
    ),
    "depth_weights": FunctionSubject(
        make=depth_weights,
        arguments={"ends": (1.0, 0.5), "parts": 4},
        bad={"ends": WEIGHTS, "parts": (0, 2.5, True)},
    ),
    "reconstruction_error": FunctionSubject(
        make=reconstruction_error,
        arguments={"decoded": normal(2, 3, 4), "target": normal(2, 3, 4, seed=1)},
        bad={"decoded": (normal(2, 3, 1), normal(1, 3, 4), normal(2, 3)), "target": (normal(3, 4),)},
    ),
    "local_reconstruction_loss": FunctionSubject(
        make=local_reconstruction_loss,
        arguments={"outputs": OUTPUTS, "labels": torch.arange(4) % 3},
        bad={"reconstruction": WEIGHTS, "classification": WEIGHTS},
    ),
}


def test_weights_by_hand():
    assert depth_weights((5.0, 1.0), parts=5) == pytest.approx([5, 5 - 4 / 3, 5 - 8 / 3, 1])
    assert depth_weights((5.0, 1.0), parts=3) == [5.0, 1.0]
    assert depth_weights((5.0, 1.0), parts=2) == [5.0]
    assert depth_weights((5.0, 1.0), parts=1) == []


def test_a_loss_by_hand():
    # Three parts: 0.5 and 2 weigh the cross-entropies of the heads, 3 and 0.25 the errors.
    outputs = LocalOutputs(
        torch.zeros(2, 4), (torch.zeros(2, 2), torch.zeros(2, 8)), (torch.tensor(7.0), torch.tensor(8.0))
    )
    found = local_reconstruction_loss(outputs, torch.tensor([0, 1]), (3.0, 0.25), (0.5, 2.0))
    assert found.item() == pytest.approx(math.log(4) + 0.5 * math.log(2) + 2 * math.log(8) + 21 + 2)
    without = LocalOutputs(outputs.logits, outputs.scores, ())
    assert local_reconstruction_loss(without, torch.tensor([0, 1])).item() == pytest.approx(math.log(4 * 2 * 8))


def test_an_error_is_a_mean_and_sends_no_gradient_to_its_target():
    decoded, target = normal(2, 3, 4).requires_grad_(), normal(2, 3, 4, seed=1).requires_grad_()
    error = reconstruction_error(decoded, target)
    assert error.item() == pytest.approx(sum((decoded - target).flatten().square().tolist()) / 24)
    error.backward()
    torch.testing.assert_close(decoded.grad, (decoded - target).detach() / 12)
    assert target.grad is None


def test_a_part_that_changes_nothing_and_a_decoder_that_changes_nothing_reconstruct_without_error():
    model = LocalFeatureReconstruction(vit(), 3, decoder=lambda inputs, outputs: nn.Identity())
    with torch.no_grad():
        for block in model.model.blocks:
            for last in (block.attention[1].project_out, block.perceptron[3]):
                last.weight.zero_()
                last.bias.zero_()
    assert [error.item() for error in model(normal(4, 1, 8, 8).float()).errors] == [0.0, 0.0, 0.0]


def test_scores_and_errors_written_out():
    model = local(parts=2).double()
    x, net = normal(5, 1, 8, 8), model.model
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).reshape(5, 4, 16)
    given = patches @ net.embed.weight.flatten(1).T + net.embed.bias + net.position
    tokens = net.blocks[1](net.blocks[0](given))
    norm, _, first, _, second = model.heads[0]
    scores = F.gelu(norm(tokens).mean(1) @ first.weight.T + first.bias) @ second.weight.T + second.bias
    inner, _, outer = model.decoders[0]
    decoded = F.gelu(tokens @ inner.weight.T + inner.bias) @ outer.weight.T + outer.bias
    found = model(x)
    torch.testing.assert_close(found.scores[0], scores)
    torch.testing.assert_close(found.errors[0], (decoded - given).square().mean())
    torch.testing.assert_close(found.logits, net(x))


def test_the_image_is_reconstructed_patch_by_patch_in_every_part():
    model = local(parts=3, image=16, decoder=lambda inputs, outputs: nn.Linear(inputs, outputs)).double()
    x, seen = normal(5, 1, 8, 8), []
    patches = torch.stack([x[:, 0, top : top + 4, left : left + 4].flatten(1) for top in (0, 4) for left in (0, 4)], 1)
    tokens, blocks = model.model.embed(x).flatten(2).transpose(1, 2) + model.model.position, model.model.blocks
    for decoder, part in zip(model.decoders, (blocks[:2], blocks[2:3]), strict=True):
        tokens = part(tokens)
        seen.append((decoder(tokens) - patches).square().mean())
    torch.testing.assert_close(model(x).errors, tuple(seen))
    for wrong in (2, 4, 9, 32, 64):
        with pytest.raises(ValueError, match=rf"image must be .*\(1, 8, 8\).* 4 tokens, got {wrong}"):
            local(image=wrong)(x.float())
    for model, images in ((local(), x), (local(image=16), None)):
        with pytest.raises(ValueError, match="images must be given where parts reconstruct the image, and only there"):
            model.local_objectives(images)


@pytest.mark.parametrize("given", [{}, {"parts": 2}, {"parts": 3}, {"decoder": None}, {"image": 16}])
def test_loss_and_gradients_are_those_of_a_loop_over_parts(given):
    model = local(**given).double()
    other = copy.deepcopy(model)
    x, labels, weights = normal(6, 1, 8, 8), torch.arange(6) % 3, ((2.0, 0.5), (0.3, 0.7))
    loss = local_reconstruction_loss(model(x), labels, *weights)
    loss.backward()
    losses = local_gradients(
        other.local_parts(), other.local_objectives(x if "image" in given else None, *weights), x, labels
    )
    assert losses.sum().item() == pytest.approx(loss.item(), rel=1e-12)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-15)


def test_no_gradient_goes_from_a_part_to_those_before_it():
    model = local()
    parts = model.local_parts()
    logits, scores, errors = model(normal(6, 1, 8, 8).float())
    for number, values in enumerate([*zip(scores, errors, strict=True), (logits,)]):
        for value in values:
            model.zero_grad()
            value.square().sum().backward(retain_graph=True)
            reached = [any(p.grad is not None and p.grad.any() for p in part.parameters()) for part in parts]
            assert reached == [at == number for at in range(4)]


@pytest.mark.parametrize("build", [vit, lambda: halved(lambda shape, classes: vit())((1, 16, 16), 3), chain])
def test_with_one_part_a_network_trains_as_by_back_propagation_bit_for_bit(build):
    plain = build()
    model = LocalFeatureReconstruction(copy.deepcopy(plain), 3, parts=1)
    side = 16 if isinstance(plain[0] if isinstance(plain, nn.Sequential) else plain, nn.AvgPool2d) else 8
    for trained, scores_of in ((plain, plain), (model, lambda x: model(x).logits)):
        optimizer = torch.optim.AdamW(trained.parameters(), lr=0.01)
        for step in range(3):
            optimizer.zero_grad()
            F.cross_entropy(scores_of(normal(6, 1, side, side, seed=step).float()), torch.arange(6) % 3).backward()
            optimizer.step()
    assert all(map(torch.equal, plain.state_dict().values(), model.model.state_dict().values()))


def test_of_a_chain_the_first_target_is_what_the_stem_gives_in_eval_mode_and_its_statistics_move_once():
    plain = chain(dropout=0.2)
    model = LocalFeatureReconstruction(copy.deepcopy(plain), 3, decoder=lambda inputs, outputs: nn.Identity())
    assert [len(part) for part in model.local_parts()] == [6, 3]
    x = normal(6, 1, 8, 8).float()
    torch.manual_seed(0)
    found = model(x)
    torch.manual_seed(0)
    tokens = plain[:6](x)
    assert plain[0].num_batches_tracked == model.model[0].num_batches_tracked == 1
    assert torch.equal(plain[0].running_mean, model.model[0].running_mean)
    torch.testing.assert_close(found.errors[0], (tokens - plain[:4].eval()(x)).square().mean())
    assert model.model.training


def test_less_is_kept_for_backward_passes_than_in_back_propagation():
    x, labels = normal(16, 1, 8, 8).float(), torch.arange(16) % 3

    def kept(**given) -> int:
        model = LocalFeatureReconstruction(vit(depth=8, dim=16), 3, **given)
        run = partial(local_gradients, model.local_parts(), model.local_objectives(), x, labels)
        return peak_saved_bytes(run, model.parameters())

    assert kept(parts=8) < kept() < kept(parts=2) < kept(parts=1)
    assert kept() < 0.5 * kept(parts=1)


def test_parts_are_four_where_left_out_or_as_many_as_blocks():
    assert len(LocalFeatureReconstruction(vit(depth=6), 3).local_parts()) == 4
    assert len(LocalFeatureReconstruction(vit(depth=3), 3).local_parts()) == 3
    assert len(LocalFeatureReconstruction(vit(depth=1), 3).heads) == 0


def test_modes_copies_pickles_and_states():
    model = local()
    x = normal(4, 1, 8, 8).float()
    other = LocalFeatureReconstruction(vit(), 3, generator=seeded(9))
    assert not torch.equal(other.heads[0][-1].weight, model.heads[0][-1].weight)
    other.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), other, pickle.loads(pickle.dumps(local()))):
        assert torch.equal(twin(x).logits, model(x).logits)
        assert all(map(torch.equal, twin(x).errors, model(x).errors))
        twin.model.position.data.add_(1.0)
        assert not torch.equal(twin(x).errors[0], model(x).errors[0])
    assert model.eval()(x).shape == (4, 3)
    assert model.train()(x[:1]).logits.shape == (1, 3)
    names = [name for name in model.state_dict() if name.startswith("model.")]
    assert [name.removeprefix("model.") for name in names] == list(model.model.state_dict())
    with torch.no_grad():
        assert not model(x).errors[0].requires_grad


def test_the_generator_alone_decides_heads_and_decoders():
    first, second, third = (local(generator=seeded(seed)).state_dict() for seed in (1, 1, 2))
    assert all(map(torch.equal, first.values(), second.values()))
    assert not torch.equal(first["heads.0.2.weight"], third["heads.0.2.weight"])
    assert not torch.equal(first["decoders.0.0.weight"], third["decoders.0.0.weight"])
    model, state = vit(), torch.get_rng_state()
    LocalFeatureReconstruction(model, 3, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
    assert not LocalFeatureReconstruction(model.double(), 3, decoder=None).decoders
    assert LocalFeatureReconstruction(model, 3).decoders[0][0].weight.dtype == torch.float64


def test_frozen_weights_stay():
    model = local()
    model.model.embed.requires_grad_(False)
    local_reconstruction_loss(model(normal(4, 1, 8, 8).float()), torch.arange(4) % 3).backward()
    assert model.model.embed.weight.grad is None
    assert model.model.position.grad is not None


def shared() -> nn.Module:
    model = chain()
    model[6] = model[4]
    return model


def bare() -> nn.Module:
    block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    block.norm1 = block.norm2 = nn.Identity()
    return nn.Sequential(Rows(), nn.Linear(8, 4), block, nn.Flatten(), nn.Linear(32, 3))


class Shifted(nn.Module):
    """Does more than its parts, which have the names of a vision transformer's."""

    def __init__(self) -> None:
        super().__init__()
        plain = vit()
        self.embed, self.blocks, self.norm, self.head, self.position = (
            plain.embed,
            plain.blocks,
            plain.norm,
            plain.head,
            plain.position,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x / 3).flatten(2).transpose(1, 2) + self.position)).mean(1))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: LeNet((1, 8, 8), 3), "must be a chain of transformer blocks, .* got LeNet"),
        (shared, "layers that share no weights"),
        (bare, "LayerNorm in each block, one has none"),
    ],
)
def test_what_cannot_be_cut_is_refused(build, reason):
    with pytest.raises(InputError, match=reason):
        LocalFeatureReconstruction(build(), 3)


def test_a_network_that_does_more_than_call_its_layers_is_refused_at_the_first_batch():
    model = LocalFeatureReconstruction(Shifted(), 3)
    with pytest.raises(InputError, match="call its layers in order and do nothing else, Shifted does"):
        model(normal(4, 1, 8, 8).float())


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (vit(), ""),
        (chain(), ""),
        (halved(lambda shape, classes: vit(patch=2))((1, 16, 16), 3)[1], ""),
        (LeNet((1, 8, 8), 3), "must be a chain of transformer blocks"),
        (Shifted(), "must be called in order"),
        (nn.Sequential(*chain()[:-1]), ""),
    ],
)
def test_the_recipe_says_where_it_does_not_fit(model, reason):
    data = SimpleNamespace(train=SimpleNamespace(images=normal(3, 1, 8, 8).float()))
    assert reason in RECIPE.fits(model, data)
    assert bool(RECIPE.fits(model, data)) is bool(reason)


def test_the_recipe_trains_a_vision_transformer():
    model = RECIPE.surgery(vit())
    loss = RECIPE.loss(6, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    x, labels = normal(6, 1, 8, 8).float(), torch.arange(6) % 3
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(loss(model(x), labels, torch.arange(6)))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    assert len(losses[0].shape) == 0


def test_outputs_of_eval_mode_and_three_ends_are_named():
    with pytest.raises(ValueError, match=r"call model.train\(\)"):
        local_reconstruction_loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="ends must be two weights"):
        depth_weights((1.0, 2.0, 3.0), parts=3)
