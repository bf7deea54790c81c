"""The audit of robustness: signs of masking by hand, planted masks, sound models, the command and the page."""

import json
import math
import re
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from paperweight.attacks import ProjectedGradient, margin_loss
from paperweight.audits.robustness import audit_robustness
from paperweight.audits.robustness_asking import astray, flat
from paperweight.audits.robustness_findings import AttackedImages, Reference, RobustnessAudit
from paperweight.audits.robustness_inspection import inspect_robustness
from paperweight.audits.robustness_proofs import Proofs, prove
from paperweight.cli import main
from paperweight.data import LabelledImages, load_images
from paperweight.errors import InputError
from paperweight.loops import fit_classifier
from paperweight.nets import MLP
from paperweight.reports import render_robustness
from paperweight.robustness.diffai import verify

CLASSES = tuple("0123456789")
QUICK = {"limit": 80, "steps": 15, "queries": 80, "training_steps": 150}
BESIDE = {"training_steps": 20}
"""How long the models beside are trained where nothing is asked of them."""
SHORT = {"limit": 30, "steps": 3, "queries": 5, **BESIDE}


def network(shape: tuple[int, int, int] = (1, 8, 8), classes: int = 10) -> MLP:
    return MLP(shape, classes, hidden=(32,))


def broken(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Flatten()


class Quantised(nn.Module):
    """Rounds its input, so that its gradient is zero."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model((4 * images).round() / 4)


class Rippled(nn.Module):
    """Adds a fine ripple, whose gradient points anywhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + 0.02 * torch.sin(300 * images))


class Saturated(nn.Module):
    """Gives probabilities of one or nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return (1_000 * self.model(images)).softmax(dim=1)


class Noisy(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + 0.02 * torch.randn_like(images))


@pytest.fixture(scope="module")
def parts() -> tuple[LabelledImages, LabelledImages]:
    data = load_images("digits")
    images, labels = torch.tensor(data.train.images) / 255, torch.tensor(data.train.labels)
    return LabelledImages(images[1_300:], labels[1_300:]), LabelledImages(images[:1_300], labels[:1_300])


@pytest.fixture(scope="module")
def model(parts) -> MLP:
    torch.manual_seed(0)
    made, training = network(), parts[1]
    fit_classifier(
        made,
        torch.optim.AdamW(made.parameters(), lr=3e-3),
        training.images,
        training.labels,
        steps=500,
        batch_size=64,
        generator=torch.Generator().manual_seed(0),
    )
    return made


def audited(model: nn.Module, parts, **given) -> RobustnessAudit:
    return audit_robustness(model, *parts, CLASSES, **{"make": network, "radius": 0.1, **QUICK, **given})


@pytest.fixture(scope="module")
def sound(model, parts) -> RobustnessAudit:
    return audited(model, parts)


def by_hand(**given) -> RobustnessAudit:
    """An audit of a hundred images, of which 90 are right, 40 after each attack, and none when all may change."""
    count = torch.arange(100)
    held = count < 40
    attacked = [
        AttackedImages(name=name, words="", box=box, held=held) for name, box in (("pgd", "white"), ("square", "black"))
    ]
    usual = {
        "radius": 0.1,
        "norm": math.inf,
        "classes": ("a", "b"),
        "labels": (count >= 50).long(),
        "clean": count < 90,
        "shifted": {"sketch": count < 30, "blur": count[:50] < 25},
        "references": (Reference(10, 0.8, 0.3), Reference(20, 0.95, 0.5)),
        "attacked": tuple(attacked),
        "by_radius": {0.1: held, 1.0: count < 0},
        "single": count < 60,
        "flat": count < 0,
        "astray": count < 0,
        "proofs": Proofs({0.1: count < 5}, "by hand"),
        "random": False,
        "distance": 1.0,
        "calibration": {"clean": 0.1, "sketch": 0.1, "blur": 0.1, "attacked": 0.5},
        "images": {"test images": torch.zeros(1, 1, 2, 2)},
        "cpu_seconds": 1.0,
    }
    return RobustnessAudit(**{**usual, **given})


def test_numbers_by_hand() -> None:
    audit = by_hand()
    assert audit.accuracy.share == 0.9
    assert audit.by_class["a"].share == 1.0
    assert audit.by_class["b"].share == 0.8
    assert audit.worst_class == "b"
    assert audit.worst_shift == "sketch"
    assert audit.average == pytest.approx((0.3 + 0.5) / 2)
    assert audit.effective.ratio.item() == pytest.approx(0.4 / 0.9)
    x, y = (torch.tensor(each, dtype=torch.float64).logit() for each in ((0.8, 0.95), (0.3, 0.5)))
    at = torch.tensor(0.9, dtype=torch.float64).logit()
    line = (y[0] + (y[1] - y[0]) * (at - x[0]) / (x[1] - x[0])).sigmoid().item()
    assert audit.effective.residual.item() == pytest.approx(0.4 - line)
    assert audit.scatter == pytest.approx(0, abs=1e-9)
    third = by_hand(references=(Reference(10, 0.8, 0.3), Reference(15, 0.9, 0.9), Reference(20, 0.95, 0.5)))
    assert third.scatter > 0.1
    assert [audit.held(box).hits for box in ("white", "black", "any")] == [40, 40, 40]
    assert audit.verdict == "no alarm"


COUNT = torch.arange(100)
WEAK = AttackedImages(name="pgd", words="", box="white", held=COUNT < 40)


@pytest.mark.parametrize("few", [0, 1, 2])
@pytest.mark.parametrize(
    ("words", "planted"),
    [
        (
            "without the model's gradients",
            lambda n: {"attacked": (WEAK, AttackedImages(name="s", words="", box="black", held=(40 - n) > COUNT))},
        ),
        ("may take any value", lambda n: {"by_radius": {0.1: COUNT < 40, 1.0: n > COUNT}}),
        ("zero or not finite", lambda n: {"flat": n > COUNT}),
        ("less than one at random", lambda n: {"astray": n > COUNT}),
        ("after one step", lambda n: {"single": (COUNT < 60) & (n <= COUNT)}),
    ],
)
def test_each_sign_takes_more_than_one_image_in_a_hundred_for_sure(words: str, planted, few: int) -> None:
    assert not by_hand(**planted(few)).alarm
    signs = by_hand(**planted(6)).signs
    assert len(signs) == 1
    assert signs[0].startswith("6 of 100 ")
    assert words in signs[0]


def test_images_that_were_wrong_before_are_no_sign() -> None:
    wrong = COUNT >= 90
    assert not by_hand(flat=wrong, astray=wrong, by_radius={0.1: COUNT < 40, 1.0: wrong}).alarm


def test_without_two_models_that_differ_nothing_is_said_of_effective_robustness() -> None:
    audit = by_hand(references=(Reference(10, 0.8, 0.3), Reference(20, 0.8, 0.5)))
    assert audit.curve is audit.effective is None
    assert "effective robustness" in " ".join(audit.limits())
    assert audit.record()["residual"] is None
    assert audit.scatter == 0


@pytest.mark.parametrize(
    ("accuracies", "told"),
    [((0.8, 0.95), True), ((0.9, 0.91), False), ((0.3, 0.6), False), ((0.97, 0.999), False), ((0.86, 0.89), True)],
)
def test_nothing_is_said_far_from_the_models_beside(accuracies, told: bool) -> None:
    """The audited accuracy is 0.9, whose logit is 2.2."""
    audit = by_hand(references=tuple(Reference(10, each, 0.4 + each / 10) for each in accuracies))
    assert (audit.effective is not None) == told
    assert ("the line through models" in audit.in_words()) == told
    assert ("Nothing is said of effective robustness" in " ".join(audit.limits())) != told


def test_a_plain_model_raises_no_alarm(sound, parts) -> None:
    assert sound.verdict == "no alarm", sound.signs
    assert not sound.random
    assert sound.accuracy.count == len(parts[0])
    assert sound.accuracy.share > 0.85
    assert set(sound.shifted) >= {"sketch", "rendition", "hard", "noise", "blur"}
    assert all(not bool((each.held & ~sound.tried).any()) for each in sound.attacked)
    assert sound.held().hits <= min(sound.held("white").hits, sound.held("black").hits)
    assert sound.held().share < sound.accuracy.share - 0.2
    held = [sound.by_radius[radius].sum().item() for radius in sorted(sound.by_radius)]
    assert held[0] > held[-1] == 0
    assert 0 < sound.distance < math.inf
    assert sound.calibration["attacked"] > sound.calibration["clean"]
    changed = sound.images["attacked"] - sound.images["right before an attack"]
    assert 0 < changed.abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize("mask", [Quantised, Rippled, Saturated])
def test_planted_masks_raise_the_alarm(mask, model, parts, sound) -> None:
    found = audited(mask(model), parts, **BESIDE)
    assert found.alarm
    assert found.held("white").share > sound.held("white").share + 0.1
    assert "It may withstand less" in found.in_words()


class _Other(torch.autograd.Function):
    """Passes on what comes in, and back a gradient that has nothing to do with it."""

    @staticmethod
    def forward(ctx, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))


class Lying(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(_Other.apply(images))


@pytest.mark.parametrize("radius", [0.001, 0.1])
def test_gradients_of_something_else_lead_astray_at_any_radius(radius: float, model, parts) -> None:
    data = LabelledImages(parts[0].images[:200], parts[0].labels[:200])
    draw = torch.Generator().manual_seed(0)
    assert astray(Lying(model), data, radius / 10, draw).double().mean() > 0.7
    assert not astray(model, data, radius / 10, draw).any()
    assert not astray(Quantised(model), data, radius / 10, draw).any()


def test_a_tiny_radius_hides_no_gradients_of_something_else(model, parts) -> None:
    few = {"radius": 0.002, "limit": 40, "steps": 3, "queries": 5, "training_steps": 5}
    assert "a short step does less than one at random" in " ".join(audited(Lying(model), parts, **few).signs)
    assert not audited(model, parts, **few).alarm


def test_a_line_that_falls_says_nothing() -> None:
    assert by_hand(references=(Reference(10, 0.8, 0.5), Reference(20, 0.95, 0.3))).effective is None


def test_a_random_model_is_asked_several_times(model, parts) -> None:
    found, again = (audited(Noisy(model), parts, **{**SHORT, "limit": 20}) for _ in range(2))
    assert {**found.record(), "cpu_seconds": 0} == {**again.record(), "cpu_seconds": 0}
    assert found.random
    assert "random" in " ".join(found.limits())
    assert found.accuracy.share > 0.85


class Detached(nn.Module):
    """Rounds on the way, by what cannot be differentiated."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(torch.from_numpy((4 * images.numpy()).round() / 4))


def test_a_model_without_gradients_raises_the_alarm(model, parts) -> None:
    found = audited(Detached(model), parts, limit=60, steps=5, **BESIDE)
    assert found.alarm
    assert found.flat.all()
    assert "60 of 60 images give a gradient that is zero" in " ".join(found.signs)


def test_networks_that_are_always_the_same_or_frozen_are_copied(model, parts) -> None:
    frozen = network().requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for made in (model, frozen):
        found = audited(model, parts, make=lambda made=made: made, **SHORT)
        assert len(found.references) >= 9
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_few_steps_are_no_sign_where_others_reach_more(model, parts) -> None:
    assert not audited(model, parts, steps=1, limit=100, **BESIDE).alarm


def test_what_is_right_after_all_attacks_is_so_after_each_within_the_radius(sound) -> None:
    radii = [right.sum().item() for radius, right in sound.by_radius.items() if radius <= sound.radius]
    assert len(radii) == 3
    assert sound.held("white").hits <= min(*radii, sound.single.sum().item())
    assert sound.held().hits <= sound.held("white").hits


def test_answers_that_say_nothing_are_told(parts) -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 0 * images.flatten(1)[:, :10] + torch.arange(10.0)

    class Lost(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :10] / 0

    with pytest.raises(InputError, match="sees one class"):
        audited(Constant(), parts)
    with pytest.raises(InputError, match="not finite"):
        audited(Lost(), parts)


def test_the_model_is_left_as_it_was_and_a_seed_repeats_all(model, parts) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = audited(model, parts, **SHORT)
    model.train()
    state = torch.get_rng_state()
    again = audited(model, parts, **SHORT)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
    mine, other = again.record(), first.record()
    assert {**mine, "cpu_seconds": 0} == {**other, "cpu_seconds": 0}


def test_what_is_proved_is_right_after_every_attack(sound, model, parts) -> None:
    assert sound.proved.shape == sound.flat.shape
    near = audited(model, parts, radius=0.004, **BESIDE)
    assert 0 < near.proved.sum() < len(near.proved)
    assert not (near.proved & ~near._held("any")).any()
    assert near.record()["proved"]["hits"] == near.proved.sum()
    assert f"of {near.proved.sum()} it is proved" in near.in_words()
    for radius, proved in near.proofs.by_radius.items():
        assert not (proved & ~near.by_radius[radius]).any()
    counts = [proved.sum() for _, proved in sorted(near.proofs.by_radius.items())]
    assert len(counts) == 5
    assert counts == sorted(counts, reverse=True)
    assert near.record()["proved_by_radius"]["0.016"]["hits"] == counts[-1]


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (Quantised, "bounds cannot pass through Tensor.round"),
        (Saturated, "bounds cannot pass through Tensor.softmax"),
        (Noisy, "the model is random"),
    ],
)
def test_where_bounds_cannot_pass_nothing_is_proved_and_why_is_told(mask, reason: str, model, parts) -> None:
    found = audited(mask(model), parts, limit=20, steps=2, queries=5, training_steps=10)
    assert found.proved is None
    assert found.record()["proved"] is None
    assert found.record()["proved_by_radius"] == {}
    assert f"not proved: {reason}." in found.in_words()


def train(model: nn.Module, training: LabelledImages, lr: float) -> None:
    fit_classifier(
        model,
        torch.optim.Adam(model.parameters(), lr=lr),
        training.images,
        training.labels,
        steps=200,
        batch_size=64,
        generator=torch.Generator().manual_seed(0),
    )


def test_of_a_linear_model_all_that_is_true_is_proved(parts) -> None:
    """Its margin falls by most where each pixel goes as far as it can against the difference of two classes."""
    torch.manual_seed(0)
    linear, (data, training) = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), parts
    train(linear, training, lr=1e-2)
    data = LabelledImages(data.images[:100], data.labels[:100])
    found = prove(linear, data, [0.01, 0.03, 0.1, 0.2]).by_radius
    weight, flat_images = linear[1].weight.detach(), data.images.flatten(1)
    logits = linear(data.images).detach()
    for radius, proved in found.items():
        true = torch.ones(100, dtype=torch.bool)
        for row, label in enumerate(data.labels):
            toward = weight - weight[label]  # (10, 64)
            up, down = (1 - flat_images[row]).clamp(max=radius), flat_images[row].clamp(max=radius)
            gain = torch.where(toward > 0, toward * up, -toward * down).sum(dim=1)
            margins = logits[row] - logits[row, label] + gain
            margins[label] = -1
            true[row] = bool((margins < -1e-5).all())
        assert torch.equal(proved, true)
    assert 100 > found[0.01].sum() > found[0.03].sum() > 0


class Residual(nn.Module):
    """A branch beside what it is added to, which zonotopes follow better than boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.last = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        inner = self.first(images.flatten(1)).relu()
        return self.last((inner - self.branch(inner)).relu())


def test_zonotopes_prove_more_than_boxes_and_attacks_break_nothing_that_is_proved(parts) -> None:
    torch.manual_seed(0)
    residual, (data, training) = Residual(), parts
    train(residual, training, lr=3e-3)
    data = LabelledImages(data.images[:60], data.labels[:60])
    radii = [0.003, 0.01, 0.03, 0.1]
    found = prove(residual, data, radii).by_radius
    boxes = {radius: verify(residual, data.images, data.labels, radius) for radius in radii}
    assert all(not (boxes[radius] & ~found[radius]).any() for radius in radii)
    assert sum(found[radius].sum() for radius in radii) > sum(boxes[radius].sum() for radius in radii) + 20
    for radius in radii:
        attacked = ProjectedGradient(radius, steps=20, loss=margin_loss)(residual, data.images, data.labels)
        assert not (found[radius] & (residual(attacked).argmax(dim=1) != data.labels)).any()


def test_large_images_and_networks_with_max_pooling_have_boxes_alone() -> None:
    data = LabelledImages(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
    found = prove(nn.Sequential(nn.Flatten(), nn.Linear(3_072, 2)), data, [0.1])
    assert found.words == "interval bounds alone, since an image has 3,072 entries"
    assert found.by_radius.keys() == {0.1}
    pooled = nn.Sequential(nn.MaxPool2d(16), nn.Flatten(), nn.Linear(4, 2))
    data = LabelledImages(torch.rand(2, 1, 32, 32), torch.tensor([0, 1]))
    assert prove(pooled, data, [0.1]).words == "interval bounds alone, since the network passes no shared errors on"


def test_norm_2(model, parts) -> None:
    found = audited(model, parts, norm="2", radius=0.5, limit=40, **BESIDE)
    changed = found.images["attacked"] - found.images["right before an attack"]
    assert changed.flatten(1).norm(dim=1).max() <= 0.5 + 1e-5
    assert max(found.by_radius) == 8.0
    assert not found.alarm


def test_gradients_of_a_constant_areflat() -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.zeros(len(images), 3)

    data = LabelledImages(torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(RuntimeError):
        flat(Constant(), data)
    assert not flat(nn.Flatten(), data).any()
    assert flat(nn.Sequential(nn.Flatten(), nn.Threshold(2.0, 0.0)), data).all()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"radius": 0.0}, "radius"),
        ({"radius": 1.0}, "radius"),
        ({"radius": math.nan}, "radius"),
        ({"norm": "1"}, "radius"),
        ({"limit": 19}, "limit"),
        ({"steps": 0}, "steps"),
        ({"queries": 1}, "queries"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"training_steps": 0}, "training_steps"),
    ],
)
def test_bad_numbers_are_told(given, named: str, model, parts) -> None:
    with pytest.raises(InputError, match=named):
        audited(model, parts, **given)


def test_a_model_that_is_always_wrong_is_told(parts) -> None:
    class Wrong(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.one_hot(torch.full((len(images),), 3), 10).float() + 0 * images.sum()

    test = LabelledImages(parts[0].images[parts[0].labels != 3], parts[0].labels[parts[0].labels != 3])
    with pytest.raises(InputError, match="no test image is right"):
        audited(Wrong(), (test, parts[1]))


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "mlp.safetensors"
    save_file(model.state_dict(), path)
    return path


HERE = "tests.audits.test_robustness"


def test_mistakes_are_told_in_a_line(weights, tmp_path) -> None:
    def message(**given) -> str:
        with pytest.raises(InputError) as caught:
            inspect_robustness(
                given.pop("checkpoint", weights), **{"data": "digits", "network": f"{HERE}:network"} | given
            )
        return str(caught.value)

    assert "missing.safetensors" in message(checkpoint=tmp_path / "missing.safetensors")
    assert "does not belong to paperweight.nets:LeNet" in message(network="paperweight.nets:LeNet")
    assert "logits" in message(network=f"{HERE}:broken")
    assert "network" in message(network=f"{HERE}:nothing")
    assert "mean must be" in message(mean=(0.1, 0.2, 0.3))
    assert "std must be above 0" in message(std=(0.0,))
    assert "mean must be" in message(mean=(math.nan,))


@pytest.fixture
def _short_training(monkeypatch) -> None:
    short = partial(audit_robustness, training_steps=150)
    monkeypatch.setattr("paperweight.audits.robustness_inspection.audit_robustness", short)


@pytest.mark.usefixtures("_short_training")
def test_the_command_writes_a_page_and_gives_its_status(weights, tmp_path, capsys) -> None:
    words = ["--data", "digits", "--network", f"{HERE}:network", "--radius", "0.1", "--limit", "30", "--steps", "8"]
    with pytest.raises(SystemExit) as ended:
        main(["audit", "robustness", str(weights), *words, "--queries", "20", "--out", str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == (1 if told["verdict"] == "gradients masked" else 0)
    page = tmp_path / "robustness-mlp.html"
    text = page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["words"] == told["words"]
    assert not re.findall(r"(?:src|href)=[\"'](?!https://|data:|#)", text)
    assert "<script" not in text
    assert text.count("<svg") == (2 if told["residual"] is None else 3)
    assert "a third was drawn" in text
    assert "proved to stay right" in text
    assert set(told["proved_by_radius"]) == set(told["by_radius"]) - {"1"}
    assert set(told["attacks"]) == {"pgd", "margin", "square", "transfer"}


@pytest.mark.usefixtures("_short_training")
def test_names_of_classes_are_escaped(weights) -> None:
    found = inspect_robustness(weights, data="digits", network=f"{HERE}:network", limit=20, steps=5, queries=10)
    audit = by_hand(classes=("<b>a</b>", "<script>"))
    object.__setattr__(found, "audit", audit)
    object.__setattr__(audit, "proofs", Proofs({}, "bounds cannot pass through <b>"))
    text = render_robustness(found, "paperweight <audit>")
    assert "No certificate: bounds cannot pass through &lt;b&gt;." in text
    assert "<script>" not in text
    assert "<b>a</b>" not in text
    assert "paperweight &lt;audit&gt;" in text
