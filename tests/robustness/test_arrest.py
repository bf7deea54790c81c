"""ARREST: angles in closed form, replay image by image, the loss by hand, and its null setting in training."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.attacks import ProjectedGradient
from paperweight.loops import adversarial_loss, fit_robust
from paperweight.nets import MLP, evaluating
from paperweight.robustness.arrest import NoisyReplay, RepresentationGuidedLoss, angular_distance, representations
from paperweight.testing import AttackSubject, FunctionSubject, LossSubject
from paperweight.testing.classifiers import toy_classifier, toy_images


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def turned(scale):
    """Give the toy classifier with a first layer that has changed."""
    model = toy_classifier(dropout=0.0)
    with torch.no_grad():
        model[0].weight.add_(scale * torch.randn(model[0].weight.shape, generator=seeded(3)))
    return model


IMAGES, LABELS = toy_images(6), torch.arange(6) % 3
POINTS = (IMAGES + 0.1 * torch.rand(IMAGES.shape, generator=seeded(1)) - 0.02).clamp(0, 1)
ATTACK = ProjectedGradient(radius=0.1, steps=2, keep_going=True)
FIRST, SECOND = torch.randn(5, 3, generator=seeded(4)), torch.randn(5, 3, generator=seeded(5))


def by_cosines(first, second):
    dots = sum(a * b for a, b in zip(first, second, strict=True))
    lengths = math.sqrt(sum(a * a for a in first)) * math.sqrt(sum(b * b for b in second))
    return math.acos(max(-1.0, min(1.0, dots / lengths))) / math.pi


def slow_loss(model, images, attacked, labels):
    teacher, total = turned(0.3).to(attacked.dtype), 0.0
    for image, point, label in zip(images, attacked, labels.tolist(), strict=True):
        taught, now = teacher[:5](image[None])[0].tolist(), model[:5](point[None])[0].tolist()
        row = model(point[None])[0].tolist()
        total += math.log(sum(math.exp(z) for z in row)) - row[label] + 2.0 * by_cosines(taught, now)
    return total / len(images)


CONTRACT = {
    "NoisyReplay": AttackSubject(
        make=partial(NoisyReplay, teacher=turned(0.3), attack=ATTACK, threshold=0.05),
        norm=math.inf,
        radius=0.1,
        random=True,
        bad={"threshold": (-0.1, math.nan, True)},
        null=partial(NoisyReplay, teacher=turned(0.3), attack=ProjectedGradient(radius=0.0), threshold=0.05),
        baseline=lambda: lambda model, inputs, labels, *, generator: inputs,
        expected_failures={"check_optimum_on_linear_model": "the linear model is not of the teacher's structure"},
    ),
    "RepresentationGuidedLoss": LossSubject(
        make=partial(RepresentationGuidedLoss, teacher=turned(0.3).double(), lam=2.0),
        inputs=(toy_classifier(dropout=0.0), IMAGES, POINTS, LABELS),
        slow=slow_loss,
        differentiable=(2,),
        bad={"lam": (-0.1, math.nan, math.inf, True)},
        null=partial(RepresentationGuidedLoss, teacher=turned(0.3), lam=0.0),
        baseline=lambda: adversarial_loss,
    ),
    "angular_distance": FunctionSubject(
        make=angular_distance,
        arguments={"first": FIRST, "second": SECOND},
        bad={"first": (FIRST[:3], FIRST[0]), "second": (SECOND[:, :2],)},
    ),
    "representations": FunctionSubject(
        make=representations,
        arguments={"model": toy_classifier(), "inputs": IMAGES},
        bad={"head": ("9", ""), "model": (nn.Flatten(),)},
    ),
}


def test_angles_are_those_of_arc_cosines():
    expected = [by_cosines(*pair) for pair in zip(FIRST.tolist(), SECOND.tolist(), strict=True)]
    assert angular_distance(FIRST, SECOND).tolist() == pytest.approx(expected, abs=1e-6)
    assert angular_distance(FIRST.view(5, 1, 3), SECOND.view(5, 1, 3)).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_vector_of_no_direction_is_at_one_half_in_every_type(dtype):
    zero, one = torch.zeros(1, 3, dtype=dtype), torch.ones(1, 3, dtype=dtype)
    found = [angular_distance(*pair).item() for pair in ((zero, one), (one, zero), (zero, zero))]
    assert found == pytest.approx([0.5] * 3, rel=torch.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e15])
def test_length_does_not_count_and_the_ends_are_precise(scale):
    assert angular_distance(FIRST, scale * FIRST).abs().max() < 1e-7
    assert (angular_distance(FIRST, -scale * FIRST) - 1).abs().max() < 1e-7
    small = torch.tensor([[1.0, 1e-5]])
    assert angular_distance(scale * torch.tensor([[1.0, 0.0]]), small).item() == pytest.approx(1e-5 / math.pi, rel=1e-4)
    assert angular_distance(torch.zeros(1, 3), FIRST[:1]).item() == pytest.approx(0.5)
    assert angular_distance(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0.5


def test_gradients_are_finite_where_vectors_agree_oppose_or_vanish():
    for other in (FIRST, -FIRST, torch.zeros(5, 3)):
        for vectors in (FIRST.clone(), torch.zeros(5, 3)):
            vectors.requires_grad_()
            angular_distance(vectors, other).sum().backward()
            assert vectors.grad.isfinite().all()


def test_the_representation_is_what_the_last_layer_is_given_and_hooks_are_gone():
    model = MLP((1, 4, 4), 3, hidden=(5, 4))
    outputs, found = representations(model, IMAGES)
    assert torch.equal(found, model.body(IMAGES))
    assert torch.equal(outputs, model(IMAGES))
    assert torch.equal(representations(model, IMAGES, "body.3")[1], model.body[:3](IMAGES))
    assert torch.equal(representations(model, IMAGES, "body.2")[1], model.body[:2](IMAGES))
    assert not any(part._forward_pre_hooks for part in model.modules())
    with pytest.raises(ValueError, match="called 2 times"):
        representations(nn.Sequential(layer := nn.Linear(4, 4), layer), torch.zeros(1, 4))


def test_images_are_replayed_with_noise_where_their_representation_has_drifted_and_there_alone():
    images, labels = toy_images(40, seed=2), torch.arange(40) % 3
    model, teacher = toy_classifier().train(), turned(0.3).train()
    model[3].p = 0.9
    with evaluating(model), evaluating(teacher), torch.no_grad():
        pairs = zip(teacher[:5](images).tolist(), model[:5](images).tolist(), strict=True)
        distances = [by_cosines(*pair) for pair in pairs]
    threshold = sorted(distances)[25] + 1e-5
    found = NoisyReplay(teacher, ATTACK, threshold)(model, images, labels, generator=seeded())
    assert model.training
    assert teacher.training
    source = seeded()
    attacked = ATTACK(model, images, labels, generator=source)
    noisy = (images + 0.1 * (2 * torch.rand(images.shape, generator=source) - 1)).clamp(0, 1)
    for number, distance in enumerate(distances):
        torch.testing.assert_close(found[number], (noisy if distance > threshold else attacked)[number])
    assert sum(distance > threshold for distance in distances) == 14
    always = NoisyReplay(teacher, ATTACK, 0.0)(model, images, labels, generator=seeded())
    torch.testing.assert_close(always, noisy)
    same = NoisyReplay(copy.deepcopy(model), ATTACK, 0.001)(model, images, labels, generator=seeded())
    assert torch.equal(same, attacked)


def test_the_teacher_of_natural_images_guides_in_eval_mode_and_gets_no_gradient():
    teacher = turned(0.3).train()
    teacher[3].p = 0.9
    model = toy_classifier(dropout=0.0)
    loss = RepresentationGuidedLoss(teacher, lam=2.0)(model, IMAGES, POINTS, LABELS)
    assert loss.item() == pytest.approx(slow_loss(model, IMAGES, POINTS, LABELS), rel=1e-5)
    loss.backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert teacher.training
    assert int(teacher[1].num_batches_tracked) == int(turned(0.3)[1].num_batches_tracked)


@pytest.mark.parametrize(("lam", "threshold"), [(0.0, math.inf), (1.0, math.inf), (0.0, 0.01)])
def test_at_its_null_setting_it_is_adversarial_fine_tuning_bit_for_bit(lam, threshold):
    states = []
    teacher = turned(0.3)
    plain = ATTACK, adversarial_loss
    for attack, loss in (plain, (NoisyReplay(teacher, ATTACK, threshold), RepresentationGuidedLoss(teacher, lam))):
        model = toy_classifier(dropout=0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        keywords = {"attack": attack, "loss": loss, "steps": 4, "batch_size": 3, "generator": seeded()}
        fit_robust(model, optimizer, IMAGES, LABELS, **keywords)
        states.append(list(model.state_dict().values()))
    assert all(map(torch.equal, *states)) == (lam == 0 and threshold == math.inf)


def test_at_first_where_model_and_teacher_are_one_the_loss_can_be_trained():
    model = toy_classifier(dropout=0.0)
    loss = RepresentationGuidedLoss(copy.deepcopy(model))(model, IMAGES, IMAGES, LABELS)
    assert loss.item() == pytest.approx(F.cross_entropy(model(IMAGES), LABELS).item(), abs=1e-4)
    loss.backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_empty_batches_copies_and_what_does_not_fit():
    model = toy_classifier()
    replay = pickle.loads(pickle.dumps(NoisyReplay(model, ATTACK, 0.3)))
    assert replay(model, IMAGES[:0], LABELS[:0]).shape == (0, 1, 4, 4)
    with pytest.raises(ValueError, match="networks of one structure"):
        replay(MLP((1, 4, 4), 3), IMAGES, LABELS)
    with pytest.raises(ValueError, match="attacked must have the shape"):
        RepresentationGuidedLoss(model)(model, IMAGES, IMAGES[:1], LABELS)
