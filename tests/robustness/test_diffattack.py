"""DiffAttack against plain loops of torch's own optimizer, attention written out, and inversions that undo DDIM."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.generators import TextSpec, cosine_schedule, denoise
from paperweight.robustness.diffattack import DiffAttack, attention_change, attention_variance, ddim_invert
from paperweight.testing import AttackSubject, FunctionSubject
from paperweight.testing.classifiers import toy_classifier, toy_images

NAMES = ("cat", "dog", "bird")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        arguments = {"width": 8, "blocks": 2, "heads": 2}
        spec = TextSpec(shape=(1, 4, 4), words=(*NAMES, "a"), length=3, dim=8, arguments=arguments, steps=30)
        model = spec.build()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=seeded(parameter.numel()))
    return model


MODEL = small()
LABELS = torch.tensor([0, 1, 2, 1])


def attack(diffusion=MODEL, names=NAMES, steps=3, **given):
    return DiffAttack(diffusion, names, **{"steps": steps, "lr": 0.05, "times": 6, "depth": 3, **given})


def eps_of(captions, dtype=torch.float32):
    condition = MODEL.condition(captions, len(captions))
    return lambda z, t: MODEL.eps(z, t, condition)


def given_back(**given):
    def call(model, inputs, labels):
        with torch.no_grad():
            eps, schedule = eps_of([NAMES[label] for label in labels.tolist()]), MODEL.schedule.subsample(6)
            z = ddim_invert(eps, 2 * inputs - 1, schedule, 3)
            part = type(schedule)(schedule.abar[:3], schedule.times[:3])
            return ((denoise(eps, z, schedule=part) + 1) / 2).clamp(0, 1)

    return call


NUMBERS = (-0.1, math.nan, math.inf, True)
MAPS = [torch.rand(4, 2, 4, 3, generator=seeded(seed)) for seed in range(3)]
WITHIN = [torch.rand(4, 2, 4, 4, generator=seeded(seed)) for seed in range(4)]
WORDS = torch.tensor([[True, False, False]]).expand(4, 3)
CONTRACT = {
    "DiffAttack": AttackSubject(
        make=attack,
        norm=2.0,
        radius=None,
        bad={
            "names": ((), "cat", ("cat", " ")),
            "steps": (-1, 1.5, True),
            "lr": (0.0, *NUMBERS),
            "times": (0, 31, 1.5, True),
            "depth": (0, 7, 1.5, True),
            "attack": NUMBERS,
            "transfer": NUMBERS,
            "structure": NUMBERS,
        },
        null=partial(attack, steps=0),
        baseline=given_back,
        expected_failures={
            "check_optimum_on_linear_model": "it looks for no nearest change, and gives the last images, fooled or not"
        },
    ),
    "attention_change": FunctionSubject(
        make=attention_change,
        arguments={"maps": WITHIN[:2], "before": WITHIN[2:]},
        bad={"maps": ([], WITHIN[:1]), "before": ([], WITHIN[:1])},
    ),
    "attention_variance": FunctionSubject(
        make=attention_variance,
        arguments={"maps": MAPS, "words": WORDS},
        bad={
            "maps": ([],),
            "words": (
                WORDS.int(),
                WORDS[:2],
                WORDS[:, :2],
                ~WORDS & WORDS,
                torch.tensor([[True, False, True]] * 3 + [[True] * 3]),
            ),
        },
    ),
    "ddim_invert": FunctionSubject(
        make=ddim_invert,
        arguments={
            "eps": lambda z, t: 0.3 * z,
            "z": torch.randn(2, 3, generator=seeded()),
            "schedule": cosine_schedule(5),
            "depth": 3,
        },
        bad={"depth": (-1, 6, 1.5, True)},
    ),
}


def test_inversion_by_hand_and_undone_by_ddim():
    schedule, z = cosine_schedule(5), torch.tensor([[0.7]]).double()
    a, b = schedule.abar[:2].tolist()
    # The noise asked for is t + 1: 1 for the step to time 0, 2 for that to time 1.
    found = ddim_invert(lambda z, t: (t + 1.0).view(-1, 1).expand_as(z), z, schedule, 2)
    first = math.sqrt(a) * 0.7 + math.sqrt(1 - a)
    second = math.sqrt(b) * (first - 2 * math.sqrt(1 - a)) / math.sqrt(a) + 2 * math.sqrt(1 - b)
    assert found.item() == pytest.approx(second, rel=1e-6)
    part = type(schedule)(schedule.abar[:2], schedule.times[:2])
    back = denoise(lambda z, t: (t + 1.0).view(-1, 1).expand_as(z), found, schedule=part)
    torch.testing.assert_close(back, z, rtol=1e-6, atol=0)
    assert torch.equal(ddim_invert(lambda z, t: z, z, schedule, 0), z)


def test_variance_of_uniform_attention_is_0_and_else_that_of_a_plain_loop():
    uniform = [torch.full((4, 2, 4, 3), 1 / 3)] * 2
    assert attention_variance(uniform, WORDS).tolist() == [0, 0, 0, 0]
    words = torch.tensor([[True, True, False], [False, True, True], [True, False, True], [True, True, False]])
    found = attention_variance(MAPS, words)
    for row in range(4):
        values = []
        for place in range(4):
            for token in range(3):
                if words[row, token]:
                    values.append(sum(each[row, head, place, token].item() for each in MAPS for head in range(2)) / 6)
        middle = sum(values) / 8
        assert found[row].item() == pytest.approx(sum((value - middle) ** 2 for value in values) / 7, rel=1e-5)


def test_change_is_summed_over_maps_and_averaged_within():
    found = attention_change(WITHIN[:2], WITHIN[2:])
    expected = sum(
        torch.stack([F.mse_loss(now[row], then[row]) for row in range(4)])
        for now, then in zip(WITHIN[:2], WITHIN[2:], strict=True)
    )
    torch.testing.assert_close(found, expected)


def probabilities(part, x: Tensor, context: Tensor) -> Tensor:
    """Attention of two heads of four entries each, written out."""
    maps = []
    for head in range(2):
        rows = slice(4 * head, 4 * head + 4)
        q, k = x @ part.to_q.weight[rows].T, context @ part.to_k.weight[rows].T
        maps.append((q @ k.transpose(1, 2) / 2).softmax(dim=-1))
    return torch.stack(maps, dim=1)


@pytest.mark.parametrize("weights", [(10.0, 50.0, 20.0), (10.0, 0.0, 0.0), (0.0, 300.0, 0.0)])
def test_images_are_those_of_a_loop_over_each_alone_by_torchs_own_optimizer(weights):
    classifier, images, schedule = toy_classifier(), toy_images(4), MODEL.schedule.subsample(6)
    names = dict(zip(("attack", "transfer", "structure"), weights, strict=True))
    found = attack(**names)(classifier, images, LABELS)

    def back(z: Tensor, condition: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        own, cross = [], []

        def look(part, arguments):
            (own if arguments[1].shape[1] == 4 else cross).append(probabilities(part, *arguments))

        parts = [part for block in MODEL.network.blocks for part in (block.attn1, block.attn2)]
        handles = [part.register_forward_pre_hook(look) for part in parts]
        for index in (2, 1, 0):
            noise = MODEL.eps(z, schedule.times[index : index + 1], condition)
            a, before = schedule.abar[index].item(), schedule.previous(index)
            z = math.sqrt(before) * (z - math.sqrt(1 - a) * noise) / math.sqrt(a) + math.sqrt(1 - before) * noise
        for handle in handles:
            handle.remove()
        return ((z + 1) / 2).clamp(0, 1), own, cross

    for row, label in enumerate(LABELS.tolist()):
        condition = MODEL.condition([NAMES[label]], 1).detach()
        with torch.no_grad():
            start = ddim_invert(eps_of([NAMES[label]]), 2 * images[row : row + 1] - 1, schedule, 3)
            _, before, _ = back(start, condition)
        z = start.clone().requires_grad_()
        optimizer = torch.optim.AdamW([z], lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            image, own, cross = back(z, condition)
            change = sum(F.mse_loss(now, then) for now, then in zip(own, before, strict=True))
            spread = torch.stack([each[..., 0].mean(dim=1) for each in cross]).mean(dim=0).var()
            wrong = F.cross_entropy(classifier(image), LABELS[row : row + 1])
            (-weights[0] * wrong + weights[1] * spread + weights[2] * change).backward()
            optimizer.step()
        with torch.no_grad():
            expected = back(z, condition)[0]
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-3, atol=1e-3)


def test_it_fools_and_leaves_everything_as_it_was():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        classifier = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).train()
    diffusion = small().train()
    images = 0.25 + 0.5 * toy_images(12)
    labels = classifier(images).argmax(dim=1)
    changed = attack(diffusion, steps=25, transfer=0.0, structure=0.0)(classifier, images, labels)
    assert (classifier(changed).argmax(dim=1) != labels).double().mean() > 0.5
    assert diffusion.training
    assert classifier.training
    assert all(part.requires_grad and part.grad is None for part in (*diffusion.parameters(), *classifier.parameters()))
    assert not any(part._forward_pre_hooks for part in diffusion.modules())
    assert attack()(classifier, images[:0], labels[:0]).shape == (0, 1, 4, 4)
    assert attack()(classifier, images[:1], labels[:1]).shape == (1, 1, 4, 4)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (2 * toy_images(2), LABELS[:2], r"inputs must be floating, in \[0, 1\], images of .* \(1, 4, 4\), got"),
        (toy_images(2, (1, 4, 5)), LABELS[:2], "inputs must be floating"),
        (toy_images(2)[0], LABELS[:1], "inputs must be floating"),
        (toy_images(2), LABELS[:1], "labels must be int64"),
        (toy_images(2), torch.tensor([0, 3]), "numbers of the 3 names"),
        (toy_images(2), torch.tensor([0.0, 1.0]), "labels must be int64"),
    ],
)
def test_bad_inputs_are_refused(inputs, labels, message):
    with pytest.raises(ValueError, match=message):
        attack()(toy_classifier(), inputs, labels)


def test_names_must_be_of_equally_many_words():
    with pytest.raises(ValueError, match="words must mark equally many tokens"):
        attack(names=("cat", "a dog", "bird"))(toy_classifier(), toy_images(2), LABELS[:2])
    images = attack(names=("a cat", "a dog", "a bird"))(toy_classifier(), toy_images(2), LABELS[:2])
    assert images.shape == (2, 1, 4, 4)
