"""The audit for backdoors: probabilities by hand and by simulation, planted and clean models, the command, the page."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import save_file
from scipy import stats
from tests.backdoor.test_umd import CYCLE, SOME_TO_SOME, Planted, class_images
from torch import Tensor, nn

from paperweight.audits.backdoor import audit_backdoor
from paperweight.audits.backdoor_findings import BackdoorAudit, Finding, Removal, Traces, Twin, chance
from paperweight.audits.backdoor_inspection import inspect_backdoor
from paperweight.audits.backdoor_pairs import PairFinding, pair_findings
from paperweight.cli import main
from paperweight.data import LabelledImages, load_images
from paperweight.errors import InputError
from paperweight.loops import fit_classifier
from paperweight.nets import MLP
from paperweight.poisoning import (
    Additive,
    Patch,
    ReversedPatterns,
    ReversedTriggers,
    all_to_one,
    attack_success,
    poison,
)
from paperweight.reports import render_backdoor

CLASSES = tuple("0123456789")
QUICK = {"twins": 6, "limit": 60, "steps": 60, "training_steps": 150}
HERE = "tests.audits.test_backdoor"


def network(shape: tuple[int, int, int] = (1, 8, 8), classes: int = 10) -> MLP:
    return MLP(shape, classes, hidden=(64,))


def traces(patch: Tensor, pattern: Tensor) -> Traces:
    """Give traces with these sizes: masks of that value everywhere, patterns of a single entry."""
    masks = patch.view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return Traces(
        ReversedTriggers(masks, torch.ones_like(masks), torch.ones(len(patch))),
        ReversedPatterns(pattern.view(-1, 1, 1, 1), torch.ones(len(pattern))),
    )


def drawn(draw: torch.Generator, classes: int = 10, factor: float = 1.0) -> Traces:
    """Give traces of a clean model, whose classes differ by nature, or one whose class 3 is smaller by a factor."""
    natural = torch.linspace(-1, 1, classes, dtype=torch.float64)
    sizes = [(natural + 0.3 * torch.randn(classes, generator=draw, dtype=torch.float64) - 3).exp() for _ in range(2)]
    sizes[0][min(3, classes - 1)] /= factor
    return traces(*sizes)


def test_the_probability_by_hand() -> None:
    clean = [traces(torch.tensor(row), torch.ones(3)) for row in ([0.1, 0.2, 0.4], [0.1, 0.3, 0.8], [0.2, 0.2, 0.1])]
    found = chance(traces(torch.tensor([0.2, 0.2, 0.01]), torch.ones(3)), clean)
    # By how much the logarithm of the smallest lies below the median of its model.
    odd = [math.log(2), math.log(3), math.log(2)]
    mean = sum(odd) / 3
    variance = sum((each - mean) ** 2 for each in odd) / 2 * (1 + 1 / 3)
    distance = (math.log(20) - mean) / math.sqrt(variance)
    assert found.target == 2
    assert found.form == "patch"
    assert found.p == pytest.approx(stats.t.sf(distance, 2) * 2, rel=1e-4)


def test_the_smaller_form_and_class_count() -> None:
    draw = torch.Generator().manual_seed(0)
    clean = [drawn(draw) for _ in range(8)]
    one = drawn(draw)
    one.pattern.patterns[7] /= 1e5
    found = chance(one, clean)
    assert (found.target, found.form) == (7, "pattern")
    assert found.p < 1e-4


def test_sizes_of_a_model_as_a_whole_do_not_count() -> None:
    draw = torch.Generator().manual_seed(1)
    clean = [drawn(draw) for _ in range(8)]
    one = drawn(draw)
    smaller = traces(one.sizes("patch") / 7, one.sizes("pattern") / 5)
    assert chance(smaller, clean).p == pytest.approx(chance(one, clean).p)


def test_of_clean_models_like_the_twins_as_many_are_below_a_level_as_it_says() -> None:
    draw = torch.Generator().manual_seed(2)
    called = found = 0
    for _ in range(200):
        clean = [drawn(draw) for _ in range(12)]
        called += chance(drawn(draw), clean).p < 0.05
        odd = chance(drawn(draw, factor=60), clean)
        found += odd.p < 0.001 and odd.target == 3
    assert 0 < called <= stats.binom.ppf(0.999, 200, 0.05)
    assert found > 150


def planted(target: int = 3, form: str = "patch", **given) -> Twin:
    removal = Removal(0.9, 0.89, 1.0, 0.1)
    usual = {"form": form, "target": target, "found": Finding(target, "patch", 1e-4), "success": 1.0}
    return Twin(**{**usual, "removal": removal, **given})


def by_hand(**given) -> BackdoorAudit:
    """An audit of three classes, whose last has a tiny patch."""
    draw = torch.Generator().manual_seed(3)
    clean = tuple(drawn(draw, 3) for _ in range(6))
    own = traces(torch.tensor([0.1, 0.1, 1e-5]), torch.tensor([0.5, 0.5, 0.5]))
    usual = {
        "classes": ("a", "b", "c"),
        "right": torch.arange(100) < 90,
        "traces": own,
        "found": chance(own, clean),
        "removal": Removal(0.9, 0.88, 1.0, 0.2),
        "clean_twins": clean,
        "clean_accuracies": (0.9,) * 6,
        "pairs": (),
        "planted": (planted(2), planted(1), planted(0), planted(0, found=Finding(0, "patch", 0.5))),
        "images": {"clean images": torch.zeros(1, 1, 2, 2)},
        "cpu_seconds": 1.0,
    }
    return BackdoorAudit(**{**usual, **given})


def test_numbers_by_hand() -> None:
    audit = by_hand()
    assert audit.alarm
    assert audit.verdict == "backdoor found"
    assert audit.suspect == "c"
    assert audit.detected == type(audit.detected)(3, 4)
    assert audit.false_alarms.count == 6
    assert next(row.name for row in audit.rows()) == "c"
    assert audit.rows()[0].patch == pytest.approx(1e-5)
    assert "100% of images of other classes turn to c by a patch that covers 0.001% of the image" in audit.in_words()
    assert "Of 4 twins with a planted backdoor 3 are found" in audit.in_words()
    assert "leaves it 20% of the images; accuracy goes from 90.0% to 88.0%" in audit.in_words()
    assert json.loads(json.dumps(audit.record(), allow_nan=False))["suspect"] == "c"


def test_without_an_alarm_no_backdoor_is_told_of() -> None:
    audit = by_hand(found=Finding(1, "pattern", 0.4))
    assert audit.verdict == "none found"
    assert "No class has a trigger that is smaller than chance explains (p 0.40; the oddest is b" in audit.in_words()


def test_what_limits_an_audit_is_told() -> None:
    assert len(by_hand(planted=(planted(),) * 5).limits()) == 4
    assert "says little" in by_hand(planted=(planted(found=Finding(0, "patch", 0.5)),) * 4).limits()[-1]
    assert "less alike" in by_hand(clean_accuracies=(0.7,) * 6).limits()[4]


def pair_finding(score: float, *pairs: tuple[int, int]) -> PairFinding:
    return PairFinding(form="pattern", score=score, threshold=3.0, pairs=pairs)


def test_pairs_that_share_a_trigger_are_an_alarm_too() -> None:
    quiet = Finding(1, "pattern", 0.4)
    audit = by_hand(found=quiet, pairs=(pair_finding(2.9, (0, 1)), pair_finding(3.1, (1, 2), (2, 0))))
    assert audit.verdict == "backdoor found"
    assert "Pairs of classes share a small trigger: b to c, c to a." in audit.in_words()
    assert [each["alarm"] for each in audit.record()["pairs"]] == [False, True]
    assert not by_hand(found=quiet, pairs=(pair_finding(2.9, (0, 1)),)).alarm
    assert "No pairs of classes share a small one." in by_hand(pairs=(pair_finding(2.9, (0, 1)),)).in_words()
    assert "Pairs of classes were not looked at." in by_hand().in_words()


def test_of_two_classes_there_is_no_index() -> None:
    two = traces(torch.tensor([0.1, 0.2]), torch.tensor([0.5, 0.5]))
    assert by_hand(classes=("a", "b"), traces=two, found=Finding(0, "patch", 0.5)).index.tolist() == [0, 0]


@pytest.fixture(scope="module")
def parts() -> tuple[LabelledImages, LabelledImages]:
    data = load_images("digits")
    images, labels = torch.tensor(data.train.images) / 255, torch.tensor(data.train.labels)
    return LabelledImages(images[1_300:], labels[1_300:]), LabelledImages(images[:1_300], labels[:1_300])


TRIGGERS = {
    "patch": Patch(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), -2, 0),
    "pattern": Additive(0.12 * (2.0 * (torch.arange(64).view(1, 8, 8) * 7 % 3 == 0) - 1)),
}


def trained(training: LabelledImages, seed: int = 0, steps: int = 300) -> MLP:
    torch.manual_seed(seed)
    made = network()
    fit_classifier(
        made,
        torch.optim.AdamW(made.parameters(), lr=2e-3),
        training.images,
        training.labels,
        steps=steps,
        batch_size=64,
        generator=torch.Generator().manual_seed(seed),
    )
    return made


@pytest.fixture(scope="module")
def backdoored(parts) -> dict[str, MLP]:
    models: dict[str, MLP] = {}
    for name, trigger in TRIGGERS.items():
        draw = torch.Generator().manual_seed(0)
        bad = poison(
            parts[1].images, parts[1].labels, trigger=trigger, targets=all_to_one(6, 10), rate=0.1, generator=draw
        )
        models[name] = trained(LabelledImages(bad.images, bad.labels))
    return models


@pytest.fixture(scope="module")
def clean(parts) -> MLP:
    return trained(parts[1])


def audited(model: nn.Module, parts, **given) -> BackdoorAudit:
    return audit_backdoor(model, *parts, CLASSES, **{"make": network, **QUICK, **given})


@pytest.fixture(scope="module")
def of_clean(clean, parts) -> BackdoorAudit:
    return audited(clean, parts)


@pytest.fixture(scope="module")
def of_backdoored(backdoored, parts) -> dict[str, BackdoorAudit]:
    return {name: audited(model, parts) for name, model in backdoored.items()}


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_planted_backdoor_is_found_and_removed(name: str, backdoored, of_backdoored, parts) -> None:
    targets = all_to_one(6, 10)
    test = (parts[0].images, parts[0].labels)
    assert attack_success(backdoored[name], *test, trigger=TRIGGERS[name], targets=targets) > 0.9
    audit = of_backdoored[name]
    assert audit.verdict == "backdoor found"
    assert audit.suspect == "6"
    assert audit.removal.success > 0.8
    assert audit.removal.success_after < 0.3
    assert audit.removal.accuracy_after > audit.removal.accuracy - 0.05


@pytest.mark.parametrize(("targets", "alarm"), [(CYCLE, True), (SOME_TO_SOME, True), ({}, False)])
def test_a_trigger_that_turns_classes_to_others_is_found(targets: dict[int, int], alarm: bool) -> None:
    """Planted by hand: the last pixel sends what shows a source to its target."""
    images, labels = class_images()
    found = pair_findings(Planted(targets), LabelledImages(images, labels), 6)
    assert [each.form for each in found] == ["patch", "pattern"]
    assert found[1].alarm == alarm
    if alarm:
        assert set(found[1].pairs) == set(targets.items())


def test_pairs_are_not_looked_at_in_few_images_or_two_classes(clean, parts) -> None:
    few = LabelledImages(parts[0].images[:60], parts[0].labels[:60])
    assert pair_findings(clean, few, 10) == ()
    assert pair_findings(clean, parts[0], 21) == ()
    two = parts[0].labels < 2
    assert pair_findings(clean, LabelledImages(parts[0].images[two], parts[0].labels[two]), 2) == ()


def test_in_a_clean_model_none_is_found(of_clean) -> None:
    assert len(of_clean.pairs) == 2
    assert of_clean.verdict == "none found"
    assert of_clean.accuracy.share > 0.85
    assert of_clean.detected.count == of_clean.false_alarms.count == 6
    assert of_clean.detected.hits >= 4


def test_what_is_planted_in_twins_works_and_is_told(of_clean) -> None:
    assert [twin.form for twin in of_clean.planted] == ["patch", "blend", "pattern"] * 2
    assert all(twin.success > 0.8 for twin in of_clean.planted)
    for twin in of_clean.planted:
        assert twin.removal.success == twin.success
        assert abs(twin.removal.accuracy - twin.removal.accuracy_after) < 0.1
    shown = set(of_clean.images)
    assert {"clean images", "planted in a twin: patch", "planted in a twin: blend"} <= shown
    assert all(0 <= float(images.min()) <= float(images.max()) <= 1 for images in of_clean.images.values())


SHORT = {"steps": 10, "training_steps": 20}


@pytest.fixture(scope="module")
def of_clean_in_short(clean, parts) -> tuple[BackdoorAudit, list[tuple[str, int, int]]]:
    said: list[tuple[str, int, int]] = []
    return audited(clean, parts, **SHORT, progress=lambda *told: said.append(told)), said


def test_the_model_is_left_as_it_was_and_a_seed_repeats_all(clean, parts, of_clean_in_short) -> None:
    before = {name: value.clone() for name, value in clean.state_dict().items()}
    clean.train()
    state = torch.get_rng_state()
    again = audited(clean, parts, **SHORT)
    assert torch.equal(state, torch.get_rng_state())
    assert clean.training
    assert all(torch.equal(value, before[name]) for name, value in clean.state_dict().items())
    assert {**again.record(), "cpu_seconds": 0} == {**of_clean_in_short[0].record(), "cpu_seconds": 0}


def test_networks_that_are_always_the_same_or_frozen_are_copied(clean, parts) -> None:
    frozen = network().requires_grad_(False)
    audit = audited(clean, parts, make=lambda: frozen, **SHORT)
    assert len(audit.clean_twins) == 6
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_progress_counts_the_twins(of_clean_in_short) -> None:
    said = of_clean_in_short[1]
    assert [done for _, done, _ in said] == list(range(16))
    assert {total for _, _, total in said} == {15}
    assert said[-1][0] == "done"


class Noisy(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + 0.02 * torch.randn_like(images))


class Detached(Noisy):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.detach()).detach()


def test_models_that_cannot_be_looked_at_are_told(clean, parts) -> None:
    with pytest.raises(InputError, match="random"):
        audited(Noisy(clean), parts)
    with pytest.raises(InputError, match="differentiated"):
        audited(Detached(clean), parts)
    with pytest.raises(InputError, match="% of the clean images are right"):
        audited(network(), parts)
    one = parts[0].labels < 9
    with pytest.raises(InputError, match="have 9 of 10 classes"):
        audited(clean, (LabelledImages(parts[0].images[one], parts[0].labels[one]), parts[1]))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"twins": 5}, "twins"),
        ({"limit": 19}, "limit"),
        ({"steps": 9}, "steps"),
        ({"training_steps": 0}, "training_steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_bad_numbers_are_told(given, named: str, clean, parts) -> None:
    with pytest.raises(InputError, match=named):
        audited(clean, parts, **given)


@pytest.fixture(scope="module")
def weights(backdoored, tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "mlp.safetensors"
    save_file(backdoored["patch"].state_dict(), path)
    return path


def test_mistakes_are_told_in_a_line(weights, tmp_path) -> None:
    def message(**given) -> str:
        with pytest.raises(InputError) as caught:
            inspect_backdoor(
                given.pop("checkpoint", weights), **{"data": "digits", "network": f"{HERE}:network"} | given
            )
        return str(caught.value)

    assert "missing.safetensors" in message(checkpoint=tmp_path / "missing.safetensors")
    assert "does not belong to paperweight.nets:LeNet" in message(network="paperweight.nets:LeNet")
    assert "std must be above 0" in message(std=(0.0,))


def test_the_command_writes_a_page_and_gives_its_status(weights, tmp_path, capsys) -> None:
    words = ["--data", "digits", "--network", f"{HERE}:network", "--twins", "6", "--steps", "50", "--limit", "60"]
    words += ["--training-steps", "100", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(["audit", "backdoor", str(weights), *words, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1
    assert told["suspect"] == "6"
    page = tmp_path / "backdoor-mlp.html"
    text = page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["words"] == told["words"]
    assert not re.findall(r"(?:src|href)=[\"'](?!https://|data:|#)", text)
    assert "<script" not in text
    assert text.count("<svg") == 2
    assert "mathdefault" not in text  # ticks of a logarithmic axis as plain numbers
    assert told["command"] in text.replace("&#39;", "'")


def test_names_of_classes_are_escaped(weights) -> None:
    found = inspect_backdoor(weights, data="digits", network=f"{HERE}:network", twins=6, **SHORT)
    audit = by_hand(classes=("<b>a</b>", "<script>", "c"))
    object.__setattr__(found, "audit", audit)
    text = render_backdoor(found, "paperweight <audit>")
    assert "<script>" not in text
    assert "<b>a</b>" not in text
    assert "paperweight &lt;audit&gt;" in text
