"""SalUn against masks by hand, gradients sample by sample, SGD by hand and random labelling in a plain loop."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.studies.unlearning.salun import Measures, membership_threshold
from paperweight.testing import FunctionSubject, LossSubject, UnlearnerSubject
from paperweight.testing.classifiers import toy_classifier, toy_images
from paperweight.unlearning.salun import SalUn, masked_out_kept, saliency_mask, salun_diffusion_loss

IMAGES, LABELS = toy_images(18, seed=2), torch.arange(18) % 3
PAIRS = [*zip(IMAGES, LABELS.tolist(), strict=True)]
FORGET, RETAIN = PAIRS[:5], PAIRS[5:]


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class RandomLabelling:
    """Random labelling without a mask, in a plain loop over stacked samples."""

    def __init__(self, lr=0.05, epochs=2, batch_size=4):
        self.lr, self.epochs, self.batch_size = lr, epochs, batch_size

    def __call__(self, model, forget, retain, *, generator):
        result = copy.deepcopy(model).eval()
        sgd = torch.optim.SGD(result.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4)
        for _ in range(self.epochs):
            for name, samples in (("forget", forget), ("retain", retain)):
                images = torch.stack([sample[0] for sample in samples])
                labels = torch.tensor([sample[1] for sample in samples])
                for index in torch.randperm(len(samples), generator=generator).split(self.batch_size):
                    targets = labels[index]
                    if name == "forget":
                        drawn = torch.randint(1, 3, (len(index),), generator=generator)
                        targets = torch.tensor([(y + d) % 3 for y, d in zip(targets, drawn, strict=True)])
                    sgd.zero_grad()
                    F.cross_entropy(result(images[index]), targets).backward()
                    sgd.step()
        return result


def slow_loss(prediction, substitute, retained, noise):
    pairs = [(prediction, substitute, 1.0), (retained, noise, 0.7)]
    return sum(
        weight * sum((a - b) ** 2 for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)) / x.numel()
        for x, y, weight in pairs
    )


make = partial(SalUn, lr=0.05, epochs=2, batch_size=4)
CONTRACT = {
    "SalUn": UnlearnerSubject(
        make=make,
        random=True,
        bad={
            "fraction": (-0.1, 1.1, float("nan")),
            "lr": (-0.1, float("inf"), float("nan")),
            "epochs": (0, 1.5),
            "batch_size": (0, 1.5),
            "momentum": (-0.1, 1.0),
            "weight_decay": (-0.1, float("inf")),
        },
        null=partial(make, fraction=1.0),
        baseline=RandomLabelling,
    ),
    "saliency_mask": FunctionSubject(
        make=saliency_mask,
        arguments={"model": toy_classifier(), "batches": [(IMAGES, LABELS)], "loss": cross_entropy},
        bad={"fraction": (-0.1, 1.1, float("nan")), "batches": ([],), "model": (nn.Flatten(),)},
    ),
    "salun_diffusion_loss": LossSubject(
        make=partial(partial, partial(salun_diffusion_loss, beta=0.7)),
        inputs=tuple(normal(4, 2, 3, seed=seed) for seed in range(4)),
        differentiable=(0, 2),
        slow=slow_loss,
        bad={"beta": (-0.1, float("inf"), float("nan"))},
    ),
}


def flat(mask):
    return torch.cat([part.flatten() for part in mask.values()])


def test_mask_by_hand():
    # Loss w1 x1 + w2 x2 + b: over the batches the gradients are (1 - 4, 2 + 3, 2).
    model = nn.Linear(2, 1)
    batches = [torch.tensor([[1.0, 2.0]]), torch.tensor([[-4.0, 3.0]])]
    masks = [
        saliency_mask(model, batches, lambda model, x: model(x).sum(), fraction) for fraction in (0, 1 / 3, 2 / 3, 1)
    ]
    assert [mask["weight"].tolist() for mask in masks] == [[[False] * 2], [[False, True]], [[True] * 2], [[True] * 2]]
    assert [mask["bias"].tolist() for mask in masks] == [[False], [False], [False], [True]]


def test_gradients_of_low_precision_are_added_up_without_loss():
    """In bfloat16 a sum of ones stays at 256: 300 gradients of 1 would count for less than one of 290."""
    model = nn.Linear(2, 1, bias=False).bfloat16()
    batches = [torch.tensor([[1.0, 0.0]]).bfloat16()] * 300 + [torch.tensor([[0.0, 290.0]]).bfloat16()]
    mask = saliency_mask(model, batches, lambda model, x: model(x).sum(), 0.5)
    assert mask["weight"].tolist() == [[True, False]]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_mask_marks_the_exact_number_and_ranks_all_weights_together(fraction):
    model = toy_classifier()
    mask = saliency_mask(model, [(IMAGES[:10], LABELS[:10]), (IMAGES[10:], LABELS[10:])], cross_entropy, fraction)
    gradients = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for image, label in zip(IMAGES, LABELS, strict=True):
        model.zero_grad()
        (-F.cross_entropy(model(image[None]), label[None])).backward()
        for name, parameter in model.named_parameters():
            gradients[name] += parameter.grad
    marked, sizes = flat(mask), flat(gradients).abs()
    assert int(marked.sum()) == round(fraction * len(marked))
    assert {name: part.shape for name, part in mask.items()} == {name: part.shape for name, part in gradients.items()}
    if 0 < fraction < 1:
        assert sizes[marked].min() >= sizes[~marked].max() - 1e-5


def test_equal_gradients_are_marked_from_the_first_and_frozen_weights_are_left_out():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model[0].weight.requires_grad_(False)
    mask = saliency_mask(model, [IMAGES], lambda model, x: 0.0 * model[0].bias.sum(), fraction=0.5)
    assert list(mask) == ["0.bias", "1.weight", "1.bias"]
    assert flat(mask).int().tolist() == [1] * 4 + [0] * 4


@pytest.mark.parametrize("training", [False, True])
def test_unsalient_weights_and_batch_norm_statistics_keep_their_bits(training):
    source = toy_classifier().train(training)
    unlearner = make(fraction=0.3, momentum=0.9, weight_decay=0.1)
    result = unlearner(source, FORGET, RETAIN, generator=generator())
    mask = saliency_mask(source, [(IMAGES[:5], LABELS[:5])], cross_entropy, 0.3)
    before, after = dict(source.named_parameters()), dict(result.named_parameters())
    moved = torch.cat([(before[name] != after[name]).flatten() for name in before])
    assert torch.equal(moved, flat(mask))
    for (name, ours), theirs in zip(result.named_buffers(), source.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    assert [part.training for part in result.modules()] == [part.training for part in source.modules()]
    assert all(parameter.grad is None for parameter in after.values())


def test_fraction_0_changes_nothing_and_an_empty_retain_set_is_allowed():
    source = toy_classifier()
    result = make(fraction=0.0, weight_decay=0.1)(source, FORGET, RETAIN, generator=generator())
    assert all(torch.equal(p, q) for p, q in zip(result.parameters(), source.parameters(), strict=True))
    result = make(fraction=0.5)(source, FORGET, [], generator=generator())
    assert any(not torch.equal(p, q) for p, q in zip(result.parameters(), source.parameters(), strict=True))


def test_given_mask_replaces_the_fraction():
    source = toy_classifier()
    mask = saliency_mask(source, [(IMAGES[:5], LABELS[:5])], cross_entropy, 0.3)
    first = make(fraction=0.3, batch_size=5)(source, FORGET, RETAIN, generator=generator())
    second = make(fraction=0.9, batch_size=5)(source, FORGET, RETAIN, generator=generator(), mask=mask)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    with pytest.raises(ValueError, match="mask must be bool and of the shapes"):
        make()(source, FORGET, RETAIN, generator=generator(), mask={"0.weight": torch.ones(2, dtype=torch.bool)})


def test_it_equals_sgd_with_masked_gradients_momentum_and_decay_by_hand():
    model, images, labels = nn.Linear(16, 3).double(), IMAGES.flatten(1).double(), LABELS
    mask = {"weight": normal(3, 16) > 0, "bias": torch.tensor([True, False, True])}
    ours, theirs = copy.deepcopy(model), {name: p.detach().clone() for name, p in model.named_parameters()}
    sgd = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    momentum = {name: torch.zeros_like(p) for name, p in theirs.items()}
    with masked_out_kept(ours, sgd, mask):
        for _ in range(4):
            sgd.zero_grad()
            F.cross_entropy(ours(images), labels).backward()
            sgd.step()
            logits = images @ theirs["weight"].T + theirs["bias"]
            delta = (logits.softmax(1) - F.one_hot(labels, 3)) / len(labels)
            gradients = {"weight": delta.T @ images, "bias": delta.sum(0)}
            for name, p in theirs.items():
                momentum[name] = 0.9 * momentum[name] + mask[name] * (gradients[name] + 0.01 * p)
                theirs[name] = p - 0.1 * momentum[name]
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.detach(), theirs[name], rtol=1e-10, atol=1e-12)
    assert not sgd._optimizer_step_post_hooks


def test_wrong_labels_are_never_right_and_all_others_come_equally_often():
    class Table(nn.Module):
        """One row of logits a sample, each starting at zero: its gradient tells the label that it was trained on."""

        def __init__(self):
            super().__init__()
            self.rows = nn.Parameter(torch.zeros(3000, 4))

        def forward(self, index):
            return self.rows[index]

    samples = [(index, index % 4) for index in range(3000)]
    unlearner = SalUn(fraction=1.0, lr=1.0, epochs=1, batch_size=3000, momentum=0.0, weight_decay=0.0)
    drawn = unlearner(Table(), samples, [], generator=generator()).rows.argmax(dim=1)
    shift = (drawn - torch.arange(3000)) % 4
    counts = shift.bincount(minlength=4).tolist()
    assert counts[0] == 0
    assert all(abs(count - 1000) < 100 for count in counts[1:])  # 4 standard deviations


def test_diffusion_loss_is_zero_at_its_goal_and_checks_shapes():
    one, two = torch.ones(2, 3), normal(5, 3)
    assert salun_diffusion_loss(one, one, two, two) == 0
    assert salun_diffusion_loss(one, 3 * one, two, two + 9, beta=0.0) == 4
    with pytest.raises(ValueError, match=r"substitute must have the predictions' shape \(2, 3\), got \(1, 3\)"):
        salun_diffusion_loss(one, one[:1], two, two)
    with pytest.raises(ValueError, match="noise must have"):
        salun_diffusion_loss(one, one, two, two[:1])
    substitute = one.clone().requires_grad_()
    assert not salun_diffusion_loss(0 * one, substitute, two, two).requires_grad


@pytest.mark.parametrize("count", [1, 19, 20, 21, 100, 451])
def test_membership_threshold_is_the_highest_that_95_in_100_members_reach(count):
    members = (normal(count) * 4).round()
    reached = {score: int((members >= score).sum()) for score in members.tolist()}
    assert membership_threshold(members) == max(score for score in reached if 100 * reached[score] >= 95 * count)


def test_gaps_are_absolute_differences():
    gaps = Measures(0.9, 1.0, 0.8, 0.2).gaps(Measures(1.0, 1.0, 0.7, 0.5))
    assert gaps == pytest.approx([0.1, 0.0, 0.1, 0.3])
