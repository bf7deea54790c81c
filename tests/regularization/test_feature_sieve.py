"""The feature sieve against the three updates written out, hand-computed erasing, and the least value of its loss."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import LabelledImages, Splits
from paperweight.nets import MLP, LeNet, ResNet
from paperweight.regularization.feature_sieve import FeatureSieve, forget_loss
from paperweight.studies.regularization._early import MeanHead, early_place, has_two_layers
from paperweight.studies.regularization._tints import tinted
from paperweight.testing import LossSubject, PlainTraining, TrainingProcedureSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(0.5 * normal(*parameter.shape, seed=100 * seed + number))
    return module


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=torch.float64)


def network() -> nn.Sequential:
    return filled(nn.Sequential(linear(3, 4), nn.Tanh(), linear(4, 4), nn.Tanh(), linear(4, 3)), seed=1)


INPUTS, LABELS = normal(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])


def made(model: nn.Module, data: tuple[Tensor, ...] = (), **given) -> FeatureSieve:
    head = filled(MeanHead(torch.zeros(2, 4, 4, 4), 3), seed=2).to(next(model.parameters()))
    arguments = {"place": "2", "head": head, "forget_every": 5, "forget_lr": 0.1, **given}
    head_optimizer = torch.optim.SGD(arguments["head"].parameters(), lr=0.1, momentum=0.9)
    return FeatureSieve(model, torch.optim.SGD(model.parameters(), lr=0.1), head_optimizer=head_optimizer, **arguments)


def slow(row: list[float]) -> float:
    """The cross-entropy of one sample, log Z minus the mean logit."""
    return math.log(sum(map(math.exp, row))) - sum(row) / len(row)


CONTRACT = {
    "FeatureSieve": TrainingProcedureSubject(
        make=made,
        evaluations=8 * (8 + 2),
        bad={
            "place": ("", "nowhere"),
            "forget_every": (0, -1, 2.0, True),
            "forget_lr": (-0.1, math.nan, math.inf),
            "head": (nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Flatten(0)),),
        },
        null=partial(made, forget_every=None),
        baseline=lambda model, data: PlainTraining(model, lr=0.1),
    ),
    "forget_loss": LossSubject(
        make=lambda logits=None: lambda given: forget_loss(given if logits is None else logits),
        inputs=(normal(5, 4).float(),),
        slow=lambda logits: sum(map(slow, logits.tolist())) / len(logits),
        bad={"logits": (torch.zeros(3), torch.zeros(0, 3), torch.zeros(3, 0), torch.zeros(2, 3, 4))},
    ),
}


def trained(training: FeatureSieve, steps: int) -> FeatureSieve:
    for _ in range(steps):
        training.step(INPUTS, LABELS)
    return training


def small(forget_every: int | None = 1, forget_lr: float = 0.3, lr: float = 0.1, head_lr: float = 0.2) -> FeatureSieve:
    model, head = network(), filled(linear(4, 3), seed=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=0.01)
    head_optimizer = torch.optim.SGD(head.parameters(), lr=head_lr, momentum=0.9)
    return FeatureSieve(model, optimizer, "1", head, head_optimizer, forget_every, forget_lr)


def test_forget_loss_is_least_log_k_where_the_logits_are_equal_and_is_the_cross_entropy_of_uniform_targets():
    assert forget_loss(torch.full((3, 5), 2.5, dtype=torch.float64)).item() == pytest.approx(math.log(5), abs=1e-15)
    logits = normal(7, 5)
    assert forget_loss(logits) > math.log(5) + 0.1
    torch.testing.assert_close(
        forget_loss(logits), F.cross_entropy(logits, torch.full((7, 5), 0.2, dtype=torch.float64))
    )
    # One sample with p = 3/4, 1/4: -(log 3/4 + log 1/4) / 2
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    assert forget_loss(torch.tensor([[math.log(3.0), 0.0]])).item() == pytest.approx(expected, abs=1e-6)


def test_steps_are_the_three_updates_written_out_on_a_network_in_two_parts():
    training = trained(small(forget_every=3), 7)
    model, head = network(), filled(linear(4, 3), seed=2)
    early, late = model[:2], model[2:]
    main = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    identify = torch.optim.SGD(head.parameters(), lr=0.2, momentum=0.9)
    erase = torch.optim.SGD(early.parameters(), lr=0.3)
    for step in range(7):
        identify.zero_grad()
        F.cross_entropy(head(early(INPUTS)), LABELS).backward()
        identify.step()
        if step in (0, 3, 6):
            erase.zero_grad()
            F.cross_entropy(head(early(INPUTS)), torch.full((6, 3), 1 / 3, dtype=torch.float64)).backward()
            erase.step()
        main.zero_grad()
        F.cross_entropy(late(early(INPUTS)), LABELS).backward()
        main.step()
    for found, expected in zip(training.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    for found, expected in zip(training.head.parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_erasing_moves_early_parameters_alone_by_their_gradient():
    training = small(lr=0.0, head_lr=0.0)
    model, head = copy.deepcopy(training.model), copy.deepcopy(training.head)
    forget_loss(head(model[:2](INPUTS))).backward()
    loss = training.step(INPUTS, LABELS)
    for number, (found, before) in enumerate(zip(training.model.parameters(), model.parameters(), strict=True)):
        expected = before if number > 1 else before - 0.3 * before.grad
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)
        assert (number > 1) == torch.equal(found, before)
    assert all(map(torch.equal, training.head.parameters(), head.parameters()))
    torch.testing.assert_close(loss, F.cross_entropy(training.model(INPUTS), LABELS).detach())


def test_erasing_alone_leaves_the_head_without_an_opinion():
    training = small(lr=0.0, head_lr=0.0, forget_lr=0.1)
    before = forget_loss(training.head(training.model[:2](INPUTS))).item()
    trained(training, 300)
    after = forget_loss(training.head(training.model[:2](INPUTS))).item()
    assert math.log(3) < after < math.log(3) + 0.2 * (before - math.log(3))


def test_the_head_learns_from_features_that_it_does_not_change_and_frozen_parameters_stay():
    training = small(forget_every=None)
    alone = network()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    before = F.cross_entropy(training.head(training.model[:2](INPUTS)), LABELS).item()
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(alone(INPUTS), LABELS).backward()
        optimizer.step()
    trained(training, 5)
    assert all(map(torch.equal, training.model.parameters(), alone.parameters()))
    assert F.cross_entropy(training.head(training.model[:2](INPUTS)), LABELS).item() < before

    training = small()
    training.model[0].bias.requires_grad_(False)
    frozen = training.model[0].bias.clone()
    trained(training, 3)
    assert torch.equal(training.model[0].bias, frozen)


def test_averages_of_batch_normalization_are_updated_once_and_once_more_where_something_is_erased():
    model = filled(nn.Sequential(linear(3, 4), nn.BatchNorm1d(4).double(), linear(4, 3)))
    head = linear(4, 3)
    head_optimizer = torch.optim.SGD(filled(head).parameters(), lr=0.1)
    training = FeatureSieve(
        model, torch.optim.SGD(model.parameters(), lr=0.1), "1", head, head_optimizer, forget_every=2
    )
    counts = []
    for _ in range(4):
        training.step(INPUTS, LABELS)
        counts.append(int(model[1].num_batches_tracked))
    assert counts == [2, 3, 5, 6]


def test_model_and_head_train_in_train_mode():
    training = small()
    training.model.eval()
    training.head.eval()
    training.step(INPUTS, LABELS)
    assert training.model.training
    assert training.head.training


def test_places_and_heads_that_do_not_serve_are_refused():
    training = small()
    shared = nn.Sequential(linear(3, 3), act := nn.Tanh(), linear(3, 3), act)
    optimizer = torch.optim.SGD(shared.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="place must be called once in a pass of the model, '1' is 2 times"):
        FeatureSieve(shared, optimizer, "1", training.head, training.head_optimizer).step(INPUTS, LABELS)
    with pytest.raises(ValueError, match="head must have no parameter of the model"):
        FeatureSieve(training.model, optimizer, "1", training.model[2], training.head_optimizer)
    with pytest.raises(ValueError, match=r"head must give logits \(6, classes\), got shape \(6, 4, 1\)"):
        FeatureSieve(training.model, optimizer, "1", nn.Unflatten(1, (4, 1)), training.head_optimizer).step(
            INPUTS, LABELS
        )
    assert not any(module._forward_hooks for module in (*shared.modules(), *training.model.modules()))


class TestRecipe:
    """What the study's recipe does with networks that it does not know."""

    images = normal(6, 1, 8, 8).float()

    def splits(self) -> Splits:
        part = LabelledImages(self.images, torch.tensor([0, 1, 2, 0, 1, 2]))
        return Splits(train=part, validation=part, test=part, classes=("a", "b", "c"), shape=(1, 8, 8))

    @pytest.mark.parametrize(
        ("build", "place", "channels"), [(LeNet, "body.2", 6), (MLP, "body.2", 256), (ResNet, "body.2", 16)]
    )
    def test_the_head_reads_what_the_second_layer_with_weights_gets(self, build, place, channels):
        model = build((1, 8, 8), 3)
        name, features = early_place(model, self.images)
        head = MeanHead(features, 3)
        assert (name, head.linear.in_features) == (place, channels)
        assert torch.equal(head(features), torch.zeros(6, 3))
        nn.init.eye_(head.linear.weight)
        means = features.reshape(6, channels, -1).mean(dim=2)
        torch.testing.assert_close(head(features), means[:, :3])
        assert has_two_layers(model, self.splits()) == ""
        assert not any(module._forward_hooks for module in model.modules())

    def test_tokens_are_averaged_and_a_network_of_one_layer_is_refused_in_words(self):
        tokens = normal(2, 5, 3)
        head = MeanHead(tokens, 3)
        nn.init.eye_(head.linear.weight)
        torch.testing.assert_close(head(tokens), tokens.mean(dim=1))
        reason = has_two_layers(MLP((1, 8, 8), 3, hidden=()), self.splits())
        assert reason.startswith("the network must call two layers with weights")


def test_tints_are_right_as_often_as_said_in_training_and_by_chance_in_the_test():
    labels = torch.arange(4_000) % 4
    part = LabelledImages(torch.ones(4_000, 1, 1, 1), labels)
    data = Splits(train=part, validation=part, test=part, classes=("a", "b", "c", "d"), shape=(1, 1, 1))
    made_ = tinted(data, 0.6, torch.Generator().manual_seed(0))
    assert (made_.shown == labels).double().mean().item() == pytest.approx(0.25, abs=0.03)
    for images in (made_.data.train.images, made_.validation_as_trained.images, made_.test_as_trained.images):
        for label in range(4):
            colours, counts = images[labels == label].unique(dim=0, return_counts=True)
            assert len(colours) == 4
            assert counts.max().item() / counts.sum().item() == pytest.approx(0.7, abs=0.06)


def test_grey_images_have_channels_that_are_alike():
    part = LabelledImages(torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2)
    data = Splits(train=part, validation=part, test=part, classes=("a", "b"), shape=(3, 2, 2))
    images = tinted(data, 0.6, torch.Generator().manual_seed(0), grey=True).data.test.images
    assert torch.equal(images, images[:, :1].expand(-1, 3, -1, -1))
    expected = part.images.mean(dim=1)
    torch.testing.assert_close(images[:, 0], (expected - expected.mean()) / expected.std(correction=0))


def test_the_head_sees_what_the_place_gives_before_an_activation_changes_it_in_place():
    seen: list[Tensor] = []

    class Watching(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(input.detach().clone())
            return super().forward(input)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    head = Watching(8, 2)
    sgd, head_sgd = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model, head))
    FeatureSieve(model, sgd, "0", head, head_sgd, forget_every=1).step(torch.randn(16, 4), torch.arange(16) % 2)
    assert all(features.min() < 0 for features in seen)
