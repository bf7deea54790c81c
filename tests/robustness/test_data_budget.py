"""Robustness on a data budget: the authors' table, slow matching of captions, closed forms of losses, exact budgets."""

import copy
import itertools
import math
import pickle
import random
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import LabelledImages, glyphs
from paperweight.robustness._shifts import Corruption, corrupt, hard_subset, rendition, sketch
from paperweight.robustness.data_budget import (
    CaptionLabeler,
    ContrastiveClassifier,
    DataBudget,
    RobustnessCurve,
    ShiftSuite,
    TrainingSource,
    ZeroShotHead,
    average_robustness,
    clean_caption,
    clip_loss,
    effective_robustness,
    multi_tag_ce,
    robustness_intervals,
    scramble,
    shift_cipher,
    simple_caption,
    singular,
)
from paperweight.testing import ExperimentSubject, FunctionSubject, LayerSubject, LossSubject, MetricSubject

# Rows of metadata/meta-analysis-results.csv of penfever/vlhub: accuracy, the four shifts V2, Sketch, R and A, and the
# average and the ratio as they are printed there, on ImageNet and on its subset of 100 classes.
TABLE = {
    "tv_resnet50": (0.579, (0.449, 0.11, 0.217, 0.0), 0.194, 0.335),
    "resnet50": (0.761, (0.632, 0.241, 0.362, 0.0), 0.309, 0.406),
    "swsl_resnet50": (0.827, (0.721, 0.34, 0.463, 0.298), 0.456, 0.551),
    "resnet50 of 100": (0.9564, (0.889, 0.43674, 0.41151, 0.27982), 0.504, 0.527),
    "ssl_resnet50 of 100": (0.9594, (0.918, 0.52095, 0.47859, 0.36039), 0.569, 0.593),
    "swsl_resnet50 of 100": (0.9648, (0.923, 0.80169, 0.75229, 0.48906), 0.742, 0.769),
    "CLIP-RN50 of 100": (0.8998, (0.868, 0.71237, 0.76435, 0.48157), 0.707, 0.786),
    "CLIP-RN50-in1k of 100": (0.837, (0.76, 0.34, 0.337, 0.161), 0.4, 0.478),
    "CLIP-RN50-cc12m of 100": (0.605, (0.587, 0.50108, 0.57136, 0.18363), 0.461, 0.762),
    "CLIP-RN50-laion15m of 100": (0.7412, (0.693, 0.58253, 0.61148, 0.20487), 0.523, 0.706),
}
CLIP_ON_IMAGENET = (0.59854, (0.5284, 0.355, 0.6072, 0.232))
# Conventional models of the table: resnet18, resnet34, tv_resnet34, densenet121, efficientnet_b0, resnet101.
ACCURACY = (0.698, 0.733, 0.697, 0.766, 0.778, 0.812)
AVERAGE = (0.279, 0.306, 0.262, 0.325, 0.343, 0.41)

CURVE = RobustnessCurve(1.36, -2.29)
TERMS = ("golden retriever, goldie", "cat, house cat, kitten", "binoculars", "hot dog, hotdog, red hot", "dog")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def source(count: int = 40, classes: int = 4, *, level: float = 0.0, captions: bool = True) -> TrainingSource:
    labels = torch.arange(count) % classes
    words = ("a red cat", "some fast dog", "our old horse", "one small bird")
    images = (torch.arange(count) / count + level)[:, None, None, None].expand(count, 1, 2, 2).clone()
    return TrainingSource(images, labels, tuple(words[label] for label in labels.tolist()) if captions else None)


def built(**given) -> list[Tensor]:
    arguments = {"sources": {"one": source(), "two": source(20, level=2.0)}, "budget": 12, "classes": 4} | given
    drawn = DataBudget(**arguments).build(seeded())
    return [drawn.images, drawn.labels, drawn.origins]


def slow_clip(images: Tensor, texts: Tensor, scale: float = 7.0, weights=(0.5, 0.5)) -> Tensor:
    cosines = [[x @ y / (x.norm() * y.norm()) for y in texts] for x in images]
    rows, total = range(len(cosines)), 0.0
    for i in rows:
        total += weights[0] * (torch.stack([scale * cosines[i][j] for j in rows]).logsumexp(0) - scale * cosines[i][i])
        total += weights[1] * (torch.stack([scale * cosines[j][i] for j in rows]).logsumexp(0) - scale * cosines[i][i])
    return total / len(cosines)


def slow_tags(logits: Tensor, tags: Tensor) -> Tensor:
    rows = [
        sum(F.cross_entropy(row[None], tag[None]) for tag in named if tag >= 0) / int((named >= 0).sum())
        for row, named in zip(logits, tags, strict=True)
    ]
    return sum(rows) / len(rows)


def towers(**given) -> ContrastiveClassifier:
    return ContrastiveClassifier(**{"image_tower": nn.Linear(3, 2), "text_tower": nn.Linear(4, 2)} | given)


def coded(function):
    """Make a function of texts give numbers, which can be compared."""
    return lambda **given: [ord(sign) for sign in function(**given)]


TAGS = torch.tensor([[0, 2, -1], [1, -1, -1], [2, 1, 0], [0, -1, -1]])
RIGHT = torch.rand(3, 50, generator=seeded()) < 0.8
SCALE_IS_NO_SAMPLE = "the scale is one number for all samples"

CONTRACT = {
    "average_robustness": MetricSubject(
        make=lambda **given: (
            lambda *inputs: average_robustness(**{**dict(zip(("shifted",), inputs, strict=True)), **given})
        ),
        inputs=(torch.tensor([[0.2, 0.4], [0.1, 0.3], [0.0, 1.0]]),),
        known=((([0.2, 0.4, 0.0],), 0.2), ((torch.tensor([[1.0], [0.5]]),), torch.tensor([1.0, 0.5]))),
        range=(0, 1),
        symmetries={"the order of the shifts": lambda shifted: (shifted.flip(-1),)},
        bad={"shifted": ([0.5, 1.1], [-0.1], [math.nan], [], torch.tensor(0.5), torch.tensor([True]))},
    ),
    "effective_robustness": MetricSubject(
        make=lambda **given: (
            lambda *inputs: effective_robustness(
                **{**dict(zip(("accuracy", "shifted", "reference"), inputs, strict=True)), **given}
            )
        ),
        inputs=(torch.tensor([0.6, 0.7, 0.8]), torch.tensor([[0.5, 0.2], [0.6, 0.4], [0.7, 0.1]]), CURVE),
        known=(
            ((0.5, [0.5, 0.5], RobustnessCurve(1.0, 0.0)), (0.5, 1.0, 0.0)),
            ((0.8, [0.2, 0.6], RobustnessCurve(0.0, 0.0)), (0.4, 0.5, -0.1)),
        ),
        range=(-1, 10_000),
        symmetries={"the order of the shifts": lambda accuracy, shifted, curve: (accuracy, shifted.flip(-1), curve)},
        bad={"accuracy": (0.0, -0.1, 1.1, math.nan), "shifted": ([[0.1, 0.2]], [[-0.1]] * 3)},
    ),
    "RobustnessCurve": FunctionSubject(
        make=lambda **given: RobustnessCurve(**given).predict([0.1, 0.5]),
        arguments={"slope": 1.0, "intercept": 0.0},
        bad={"slope": (math.nan, math.inf, True), "intercept": (math.nan, -math.inf)},
    ),
    "robustness_intervals": ExperimentSubject(
        make=robustness_intervals,
        arguments={"correct": RIGHT, "shifted": [RIGHT[:, :20], RIGHT[:, 10:]], "reference": CURVE, "draws": 50},
        fields=("average", "ratio", "residual"),
        known=(
            (
                {"correct": RIGHT | True, "shifted": [RIGHT | True, RIGHT & False]},
                {"average": (0.5, 0.5), "ratio": (0.5, 0.5)},
            ),
        ),
        bad={
            "correct": (RIGHT.float(), RIGHT[0], RIGHT & False, RIGHT[:, :0]),
            "shifted": ([], [RIGHT[:2]], [RIGHT.float()]),
            "level": (0.0, 1.0, math.nan),
            "draws": (1, 2.5, True),
        },
    ),
    "CaptionLabeler": FunctionSubject(
        make=lambda **given: CaptionLabeler(**given).label(["a photo of a dog", "cats and dogs", "a boat"]),
        arguments={"class_terms": TERMS},
        bad={
            "class_terms": ("dog", [], ["dog", ""], ["7"], [3], [" , "]),
            "strategy": ("all", ""),
            "ngram": (0, 1.5, True),
            "min_chars": (-1, 0.5, True),
        },
    ),
    "clean_caption": FunctionSubject(make=coded(clean_caption), arguments={"text": "A cat."}, bad={"text": (None, 3)}),
    "singular": FunctionSubject(make=coded(singular), arguments={"word": "cats"}, bad={"word": (None, 3)}),
    "shift_cipher": FunctionSubject(
        make=coded(shift_cipher), arguments={"text": "A cat.", "k": 3}, bad={"text": (None,), "k": (1.5, True)}
    ),
    "scramble": FunctionSubject(
        make=coded(lambda text: scramble(text, seeded())), arguments={"text": "a cat on a mat"}, bad={"text": (None,)}
    ),
    "simple_caption": FunctionSubject(
        make=coded(simple_caption), arguments={"name": "cat"}, bad={"name": ("", " ", 3)}
    ),
    "TrainingSource": FunctionSubject(
        make=lambda **given: TrainingSource(**given).images,
        arguments={"images": torch.rand(3, 1, 2, 2, generator=seeded()), "labels": torch.arange(3)},
        bad={
            "images": (torch.zeros(0, 1, 2, 2), torch.tensor(1.0)),
            "labels": (torch.arange(2), torch.zeros(3)),
            "captions": (("a",), "abc"),
        },
    ),
    "DataBudget": FunctionSubject(
        make=built,
        arguments={},
        bad={
            "sources": ({}, {"one": source(), "two": TrainingSource(torch.zeros(2, 3), torch.tensor([0, 1]))}),
            "budget": (0, -1, 2.5, True),
            "classes": (1, 2.0, True),
            "shares": ({"one": 1.0}, {"one": 0.7, "two": 0.7}, {"one": math.nan, "two": 1.0}, {"one": 2, "two": -1}),
            "balance": ("", "equal"),
            "label_source": ("", "caption"),
            "labeler": (CaptionLabeler(TERMS),),
            "label_noise": (-0.1, 1.1, math.nan),
        },
    ),
    "clip_loss": LossSubject(
        make=lambda **given: partial(clip_loss, **({"scale": 7.0} | given)),
        inputs=(normal(5, 3), normal(5, 3, seed=1)),
        slow=slow_clip,
        differentiable=(0, 1),
        bad={"scale": (0.0, -1.0, math.nan, math.inf, torch.ones(2)), "weights": ((-0.1, 1.0), (1.0,), (math.nan, 1))},
    ),
    "multi_tag_ce": LossSubject(
        make=partial(partial, multi_tag_ce),
        inputs=(normal(4, 3), TAGS),
        slow=slow_tags,
        bad={
            "reduction": ("", "batchmean"),
        },
    ),
    "ContrastiveClassifier": LayerSubject(
        make=towers,
        inputs=(normal(3, 3).float(), normal(3, 4).float()),
        shape=((3, 2), (3, 2), ()),
        parameter_count=8 + 10 + 1,
        bad={"image_tower": (None, 3), "text_tower": (None, 3)},
        expected_failures={"check_samples_are_independent": SCALE_IS_NO_SAMPLE},
    ),
    "ZeroShotHead": LayerSubject(
        make=lambda **given: ZeroShotHead(**({"class_features": normal(4, 2, 3).float()} | given)),
        inputs=(normal(5, 3).float(),),
        shape=(5, 4),
        parameter_count=0,
        bad={
            "class_features": (
                torch.zeros(4, 3),
                torch.zeros(0, 1, 3),
                torch.zeros(4, 2, 3).long(),
                normal(1, 1, 3) * math.nan,
            ),
            "scale": (0.0, -1.0, math.nan, math.inf),
        },
    ),
    "ShiftSuite": FunctionSubject(
        make=lambda images=None, **given: [
            part.images
            for parts in (ShiftSuite(**given).natural, ShiftSuite(**given).corrupted)
            for part in parts(
                torch.full((2, 1, 4, 4), 0.5) if images is None else images, torch.tensor([0, 1]), seeded()
            ).values()
        ],
        arguments={},
        bad={
            "severity": (0, 6, 2.5, True),
            "images": (
                torch.full((2, 1, 4, 4), 1.5),
                torch.zeros(2, 4, 4),
                torch.zeros(2, 1, 4, 4).long(),
                torch.full((2, 1, 4, 4), math.nan),
            ),
        },
    ),
}


# --- effective robustness -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_average_and_ratio_are_those_of_the_authors_table(name: str):
    accuracy, shifted, average, ratio = TABLE[name]
    found = effective_robustness(accuracy, shifted, CURVE)
    assert found.average.item() == pytest.approx(average, abs=1e-3)
    assert found.ratio.item() == pytest.approx(ratio, abs=2e-3)
    assert found.ratio.item() == pytest.approx(sum(shifted) / 4 / accuracy, abs=1e-12)


def test_a_row_of_the_table_that_is_the_mean_of_three_shifts_is_computed_of_four():
    accuracy, shifted = CLIP_ON_IMAGENET
    found = effective_robustness(accuracy, shifted, CURVE)
    assert [round(number.item(), 3) for number in found[:2]] == [0.431, 0.720]
    assert effective_robustness(accuracy, shifted[:3], CURVE).ratio.item() == pytest.approx(0.83, abs=2e-3)


def test_the_curve_is_the_line_of_least_squares_of_logits():
    curve = RobustnessCurve.fit(ACCURACY, AVERAGE)
    x, y = (np.log(p / (1 - p)) for p in (np.array(ACCURACY), np.array(AVERAGE)))
    slope, intercept = np.polyfit(x, y, 1)
    assert (curve.slope, curve.intercept) == (pytest.approx(slope, abs=1e-9), pytest.approx(intercept, abs=1e-9))
    predicted = 1 / (1 + np.exp(-(slope * x + intercept)))
    np.testing.assert_allclose(curve.predict(ACCURACY).numpy(), predicted, atol=1e-12)
    np.testing.assert_allclose(curve.residual(ACCURACY, AVERAGE).numpy(), np.array(AVERAGE) - predicted, atol=1e-12)


def test_models_on_a_curve_have_residual_0_and_give_the_curve_back():
    accuracy = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    average = CURVE.predict(accuracy)
    fitted = RobustnessCurve.fit(accuracy, average)
    assert (fitted.slope, fitted.intercept) == (pytest.approx(1.36, abs=1e-9), pytest.approx(-2.29, abs=1e-9))
    assert effective_robustness(accuracy, average[:, None], CURVE).residual.abs().max() < 1e-12
    assert (effective_robustness(accuracy, average[:, None] + 0.01, CURVE).residual - 0.01).abs().max() < 1e-12


def test_the_ratio_keeps_under_a_common_factor_and_the_residual_tells_models_apart_that_it_does_not():
    strong, weak = (effective_robustness(0.8 * factor, [0.4 * factor, 0.6 * factor], CURVE) for factor in (1, 0.1))
    assert strong.ratio.item() == pytest.approx(weak.ratio.item(), abs=1e-12) == pytest.approx(0.625)
    assert strong.residual - weak.residual > 0.05


def test_accuracies_of_0_and_1_have_finite_residuals():
    curve = RobustnessCurve.fit([0.0, 1.0], [0.0, 1.0])
    assert (curve.slope, curve.intercept) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-9))
    assert curve.residual([0.0, 1.0], [0.0, 1.0]).abs().max() < 1e-3


def test_a_curve_takes_two_models_of_different_accuracy():
    for accuracy, average in (
        ([0.5], [0.2]),
        ([0.5, 0.5], [0.2, 0.3]),
        ([[0.5, 0.6]], [[0.2, 0.3]]),
        ([0.5, 0.6], [0.2]),
    ):
        with pytest.raises(ValueError, match="accuracy"):
            RobustnessCurve.fit(accuracy, average)


def test_intervals_of_one_seed_are_those_of_the_binomial_distribution():
    right = torch.rand(1, 900, generator=seeded()) < 0.7
    found = robustness_intervals(right, [right], RobustnessCurve(1.0, 0.0), draws=4_000, generator=seeded(1))
    share = right.double().mean().item()
    half = 1.96 * math.sqrt(share * (1 - share) / 900)
    assert found.average == (pytest.approx(share - half, abs=0.1 * half), pytest.approx(share + half, abs=0.1 * half))
    # Base and shift are drawn apart, so that their difference has twice the variance.
    wide = math.sqrt(2) * half
    assert found.residual == (pytest.approx(-wide, abs=0.1 * wide), pytest.approx(wide, abs=0.1 * wide))


def test_intervals_have_the_variance_of_seeds_too():
    levels = torch.tensor([0.5, 0.6, 0.7, 0.8])
    right = torch.rand(4, 10_000, generator=seeded()) < levels[:, None]
    found = robustness_intervals(right, [right], CURVE, draws=1_000, generator=seeded(1))
    half = 1.96 * levels.std(correction=0).item() / 2
    assert found.average == (pytest.approx(0.65 - half, abs=0.15 * half), pytest.approx(0.65 + half, abs=0.15 * half))
    # The same seeds are drawn on all sets, so that the ratio of a set to itself hardly varies.
    assert 0.96 < found.ratio[0] < 1 < found.ratio[1] < 1.04


def test_a_higher_level_gives_a_wider_interval_and_shifts_count_alike():
    near, far = (robustness_intervals(RIGHT, [RIGHT], CURVE, level=level, generator=seeded()) for level in (0.5, 0.99))
    assert far.ratio[0] < near.ratio[0] < near.ratio[1] < far.ratio[1]
    many = torch.ones(3, 1000, dtype=torch.bool)
    found = robustness_intervals(many, [many, ~many[:, :10]], CURVE, generator=seeded())
    assert found.average == (pytest.approx(0.5), pytest.approx(0.5))


# --- captions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A photo of a Golden Retriever!", "a photo of a golden retriever"),
        ("<b>snow-leopard</b>\n(2019)", "bsnow leopardb"),
        ("www.flickr.com https://x.org/12 href", "x org12"),
        ("5 Main St.", "main street"),
        ("st", "street"),
        ("x" * 30 + " " + "y" * 29, "y" * 29),
        ("un gato de plata", "un gato de plata"),
        ("it's 3; or 4?", "its or"),
        ("", ""),
    ],
)
def test_captions_are_cleaned_once_and_for_all(text: str, cleaned: str):
    assert clean_caption(text) == cleaned
    assert clean_caption(cleaned) == cleaned


def test_nouns_become_singular_and_stay_so():
    pairs = {
        **{"cats": "cat", "horses": "horse", "houses": "house", "boxes": "box", "churches": "church", "buses": "bus"},
        **{"glasses": "glass", "ponies": "pony", "ties": "tie", "movies": "movie", "wolves": "wolf", "gloves": "glove"},
        **{"tomatoes": "tomato", "shoes": "shoe", "women": "woman", "geese": "goose", "octopuses": "octopus"},
        **{"lenses": "lens", "knives": "knife", "binoculars": "binocular", "dishes": "dish", "prizes": "prize"},
    }
    assert {word: singular(word) for word in pairs} == pairs
    for word in (*pairs.values(), "glass", "tennis", "bus", "gas", "this", "is", "series"):
        assert singular(word) == word


@pytest.mark.parametrize("k", [0, 1, 13, 25, 26, -3, 100])
def test_the_cipher_is_turned_back_and_keeps_case_and_other_signs(k: int):
    text = "The Quick brown Fox, 12 jumps; über den Zaun!"
    hidden = shift_cipher(text, k)
    assert shift_cipher(hidden, 26 - k) == text
    assert [a.isupper() for a in hidden] == [b.isupper() for b in text]
    assert [a for a in hidden if not a.isascii() or not a.isalpha()] == [
        b for b in text if not b.isascii() or not b.isalpha()
    ]
    assert (hidden == text) == (k % 26 == 0)


def test_scrambling_keeps_the_words_and_takes_each_order():
    orders = {scramble("one two three", generator) for generator in [seeded()] for _ in range(200)}
    assert orders == {" ".join(order) for order in itertools.permutations(("one", "two", "three"))}
    assert scramble("", seeded()) == ""


def slow_labels(captions, terms, strategy, ngram=3):
    """Compare each run of words of each caption with each variant of each term of each class."""
    found = []
    for caption in captions:
        words, named = [singular(word) for word in clean_caption(caption).split()], []
        if len(caption) >= 5:
            for start in range(len(words)):
                for size in range(1, ngram + 1):
                    if start + size > len(words):
                        continue
                    for index, names in enumerate(terms):
                        for name in names.split(","):
                            base = [singular(word) for word in clean_caption(name).split()]
                            for order in (base, [*reversed(base)]):
                                for variant in (" ".join(order), "".join(order)):
                                    run = " ".join(words[start : start + size])
                                    if run in (variant, variant + "s") and index not in named:
                                        named.append(index)
        if strategy == "multi":
            found.append(named)
        elif strategy == "strict":
            found.append(named[0] if len(named) == 1 else -1)
        else:
            found.append(named[0] if named else -1)
    return found


@pytest.mark.parametrize("strategy", ["single", "strict", "multi"])
def test_labels_are_those_of_a_slow_search(strategy: str):
    draw = random.Random(0)
    words = ["a", "golden", "retriever", "Retrievers", "goldie", "cat", "cats", "house", "houses", "hot", "dogs", "dog"]
    words += ["red", "binoculars", "Binocular", "boat", "the"]
    captions = [" ".join(draw.choices(words, k=draw.randint(1, 7))) for _ in range(400)]
    captions += ["goldenretriever", "a retriever, golden", "house-cats!", "two hotdogs", "cat", "", "dog dog dog"]
    found = CaptionLabeler(TERMS, strategy).label(captions).tolist()
    if strategy == "multi":
        found = [[label for label in row if label >= 0] for row in found]
    assert found == slow_labels(captions, TERMS, strategy)


def test_labels_by_hand():
    single, strict, multi = (CaptionLabeler(TERMS, strategy) for strategy in ("single", "strict", "multi"))
    captions = [
        "A photo of a Golden Retriever!",
        "goldenretrievers at play",
        "binoculars on a table",
        "a kitten beside a dog",
        "dogs, dogs and more dogs",
        "cat",
        "a sailing boat",
    ]
    assert single.label(captions).tolist() == [0, 0, 2, 1, 4, -1, -1]
    assert strict.label(captions).tolist() == [0, 0, 2, -1, 4, -1, -1]
    assert multi.label(captions).tolist() == [[0, -1], [0, -1], [2, -1], [1, 4], [4, -1], [-1, -1], [-1, -1]]
    # The first class is that of the first word where a term begins: "hot dog" begins before "dog" and before "cat".
    assert single.label(["a hot dog for the cat", "the cat has a hot dog"]).tolist() == [3, 1]


def test_a_label_of_two_figures_does_not_hide_one_of_one():
    terms = [f"thing{chr(97 + index)}" for index in range(12)]
    assert CaptionLabeler(terms, "multi").label(["thingk with a thingb"]).tolist() == [[10, 1]]


@pytest.mark.parametrize("count", [24, 25, 26, 40])
def test_a_caption_may_name_any_number_of_classes(count: int):
    terms = [f"thing{chr(97 + index // 26)}{chr(97 + index % 26)}" for index in range(count)]
    assert CaptionLabeler(terms, "multi").label([" ".join(terms)]).tolist() == [list(range(count))]


def test_terms_that_two_classes_share():
    terms = ["crane, bird", "crane, machine"]
    assert CaptionLabeler(terms).label(["a crane"]).tolist() == [0]
    assert CaptionLabeler(terms, "strict").label(["a crane", "crane, a machine"]).tolist() == [-1, -1]
    assert CaptionLabeler(terms, "multi").label(["a crane"]).tolist() == [[0, 1]]


def test_what_the_labeler_is_given():
    assert CaptionLabeler(["Big Cat"], clean=False).label(["my big cats", "my big-cat"]).tolist() == [0, -1]
    assert CaptionLabeler(["big cat"], ngram=1).label(["my big cat", "my bigcat"]).tolist() == [-1, 0]
    assert CaptionLabeler(["child"], lemmatizer=str).label(["the children", "the childs"]).tolist() == [-1, 0]
    assert CaptionLabeler(["children"], lemmatizer=str).label(["the children"]).tolist() == [0]
    assert CaptionLabeler(["cat"], min_chars=3).label(["cat", "ca"]).tolist() == [0, -1]
    assert CaptionLabeler(["cat"], "multi").label([]).shape == (0, 1)
    assert CaptionLabeler(["cat"]).label([]).shape == (0,)
    for captions in ("a cat", ["a cat", None]):
        with pytest.raises(ValueError, match="captions must be"):
            CaptionLabeler(["cat"]).label(captions)


def test_a_report_counts_what_is_labelled_and_what_is_right():
    captions, labels = ["a cat", "a dog", "a cat and a dog", "a boat"], torch.tensor([0, 0, 1, 1])
    single, multi = (CaptionLabeler(["cat", "dog"], strategy) for strategy in ("single", "multi"))
    assert single.report(captions, labels) == (0.75, pytest.approx(1 / 3), 0.25)
    assert multi.report(captions, labels) == (0.75, 0.5, 0.5)
    nothing = single.report(["a boat"], torch.tensor([0]))
    assert (nothing.coverage, nothing.recall) == (0.0, 0.0)
    assert math.isnan(nothing.precision)
    for bad in (labels[:3], labels.float(), labels + 1, labels - 1):
        with pytest.raises(ValueError, match="labels must be"):
            single.report(captions, bad)


# --- budgets --------------------------------------------------------------------------------------------------------


def test_a_budget_is_exact_and_in_the_shares_asked_for():
    sources = {"one": source(), "two": source(20, level=2.0)}
    for budget, shares, sizes in (
        (12, None, [8, 4]),
        (7, {"one": 0.5, "two": 0.5}, [4, 3]),
        (10, {"one": 0.0, "two": 1.0}, [0, 10]),
        (60, None, [40, 20]),
    ):
        drawn = DataBudget(sources, budget, 4, shares=shares).build(seeded())
        assert (len(drawn), torch.bincount(drawn.origins, minlength=2).tolist()) == (budget, sizes)
        assert len(drawn.images.flatten(1)[:, 0].unique()) == budget
        # An image of the second source is brighter than 1; labels and captions are those of the image.
        assert torch.equal(drawn.origins, (drawn.images.flatten(1)[:, 0] > 1).long())
        for image, label, caption, origin in zip(
            drawn.images, drawn.labels, drawn.captions, drawn.origins, strict=True
        ):
            of = [*sources.values()][origin]
            row = int((of.images == image).flatten(1).all(dim=1).nonzero())
            assert (int(label), caption) == (int(of.labels[row]), of.captions[row])


def test_a_smaller_budget_is_part_of_a_larger_one():
    drawn = [DataBudget({"one": source()}, budget, 4).build(seeded(3)).images.flatten(1)[:, 0] for budget in (5, 20)]
    assert set(drawn[0].tolist()) < set(drawn[1].tolist())
    other = DataBudget({"one": source()}, 5, 4).build(seeded(4)).images.flatten(1)[:, 0]
    assert set(other.tolist()) != set(drawn[0].tolist())


def test_uniform_balance_gives_each_class_as_many():
    rare = TrainingSource(torch.rand(30, 1, 2, 2), torch.tensor([0] * 20 + [1] * 6 + [2] * 4), None)
    for budget in (6, 7, 8, 12):
        drawn = DataBudget({"rare": rare}, budget, 3, balance="uniform").build(seeded())
        counts = torch.bincount(drawn.labels, minlength=3)
        assert counts.sum() == budget
        assert counts.max() - counts.min() <= 1
        assert drawn.captions is None
    two = DataBudget(
        {"one": source(), "two": source(level=2.0)}, 12, 4, balance="uniform", shares={"one": 5 / 12, "two": 7 / 12}
    )
    assert torch.bincount(two.build(seeded()).labels).tolist() == [3, 3, 3, 3]
    with pytest.raises(ValueError, match=r"budget must be at most .* got 5 of 4 of class 2 from 'rare'"):
        DataBudget({"rare": rare}, 15, 3, balance="uniform").build(seeded())


def test_images_without_a_label_are_not_drawn_and_a_label_that_is_no_class_is_refused():
    some = TrainingSource(torch.rand(6, 2), torch.tensor([0, -1, 1, -1, 0, 1]))
    assert DataBudget({"some": some}, 4, 2).build(seeded()).labels.sort().values.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="budget must be at most what sources hold, got 5 of 4 from 'some'"):
        DataBudget({"some": some}, 5, 2).build(seeded())
    for labels in (torch.tensor([0, 2]), torch.tensor([0, -2])):
        with pytest.raises(ValueError, match="sources must have labels from 0 to 1"):
            DataBudget({"some": TrainingSource(torch.rand(2, 2), labels)}, 2, 2)


def test_wrong_labels_are_as_many_as_asked_for():
    plain, noisy = (DataBudget({"one": source()}, 40, 4, label_noise=noise).build(seeded()) for noise in (0.0, 0.25))
    assert torch.equal(plain.images, noisy.images)
    assert (plain.labels != noisy.labels).sum() == 10


def test_matched_labels_are_those_of_the_captions():
    one = source()
    liar = TrainingSource(one.images, (one.labels + 1) % 4, one.captions)
    labeler = CaptionLabeler(["cat", "dog", "horse", "fish"])
    drawn = DataBudget({"one": liar}, 30, 4, label_source="matched", labeler=labeler).build(seeded())
    assert torch.equal(drawn.labels, labeler.label(drawn.captions))
    assert set(drawn.labels.tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match="budget must be at most what sources hold, got 31 of 30"):
        DataBudget({"one": liar}, 31, 4, label_source="matched", labeler=labeler).build(seeded())


def test_captions_take_the_place_of_labels():
    unlabelled = TrainingSource(source().images, None, source().captions)
    drawn = DataBudget({"one": unlabelled}, 9, 4, label_source="captions").build(seeded())
    assert (drawn.labels.unique().tolist(), len(drawn.captions)) == ([-1], 9)
    for given, word in (
        ({"balance": "uniform"}, "balance"),
        ({"label_noise": 0.1}, "label_noise"),
        ({"labeler": CaptionLabeler(["a", "b", "c", "d"])}, "labeler"),
        ({"label_source": "true"}, "sources"),
        ({"sources": {"one": source(captions=False)}}, "sources"),
        ({"label_source": "matched"}, "labeler"),
        ({"label_source": "matched", "labeler": CaptionLabeler(["a", "b", "c"])}, "labeler"),
        ({"label_source": "matched", "labeler": CaptionLabeler(["a", "b", "c", "d"], "multi")}, "labeler"),
    ):
        with pytest.raises(ValueError, match=word):
            DataBudget(
                **{"sources": {"one": unlabelled}, "budget": 9, "classes": 4, "label_source": "captions"} | given
            )


# --- losses and networks --------------------------------------------------------------------------------------------


def test_contrast_of_a_batch_of_one_is_0_and_of_many_is_symmetric():
    x, y = normal(6, 4), normal(6, 4, seed=1)
    assert clip_loss(x[:1], y[:1], 10.0).item() == 0
    torch.testing.assert_close(clip_loss(x, y, 10.0), clip_loss(y, x, 10.0))
    torch.testing.assert_close(clip_loss(x, y, 10.0), clip_loss(3 * x, 0.1 * y, 10.0))
    torch.testing.assert_close(clip_loss(x, y, 10.0, (0.9, 0.2)), clip_loss(y, x, 10.0, (0.2, 0.9)))
    # With orthogonal features that agree it is log(1 + (N - 1) exp(-scale)), and goes to 0.
    eye = torch.eye(6, dtype=torch.float64)
    assert clip_loss(eye, eye, 3.0).item() == pytest.approx(math.log(1 + 5 * math.exp(-3)))
    assert clip_loss(eye, eye, 100.0).item() < 1e-9


def test_a_feature_that_is_not_a_number_shows_in_the_loss():
    x = torch.tensor([[math.nan, 1.0], [1.0, 0.0]])
    assert clip_loss(x, torch.eye(2), 10.0).isnan()


def test_contrast_refuses_what_does_not_fit():
    x = normal(4, 3)
    for first, second, word in (
        (x, x[:3], "text_features"),
        (x, x.float(), "text_features"),
        (x[0], x[0], "image_features"),
        (x[:0], x[:0], "image_features"),
        (x.long(), x.long(), "image_features"),
    ):
        with pytest.raises(ValueError, match=f"{word} must be"):
            clip_loss(first, second, 1.0)


def test_one_tag_is_cross_entropy_and_several_are_soft_targets():
    logits, labels = normal(5, 4), torch.tensor([0, 3, 1, 1, 2])
    torch.testing.assert_close(multi_tag_ce(logits, labels[:, None]), F.cross_entropy(logits, labels))
    logits = normal(4, 3)
    soft = torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [1 / 3] * 3, [1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(multi_tag_ce(logits, TAGS), F.cross_entropy(logits, soft))
    torch.testing.assert_close(multi_tag_ce(logits, TAGS), multi_tag_ce(logits.repeat(3, 1), TAGS.repeat(3, 1)))
    wide = F.pad(TAGS, (2, 3), value=-1)
    torch.testing.assert_close(multi_tag_ce(logits, wide), multi_tag_ce(logits, TAGS))


def test_tags_that_do_not_fit_are_refused():
    logits = normal(2, 3)
    for tags in ([[0], [-1]], [[0], [3]], [[0], [-2]], [[0]], [0, 1]):
        with pytest.raises(ValueError, match="tags must"):
            multi_tag_ce(logits, torch.tensor(tags))
    with pytest.raises(ValueError, match="tags must be int64"):
        multi_tag_ce(logits, torch.zeros(2, 1))
    for wrong in (logits[0], logits.long(), logits[:0]):
        with pytest.raises(ValueError, match="logits must be"):
            multi_tag_ce(wrong, torch.zeros(2, 1, dtype=torch.int64))


def model() -> ContrastiveClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = nn.Sequential(nn.Embedding(6, 8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 4))
        return ContrastiveClassifier(nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), text)


def test_images_and_captions_are_embedded_on_the_sphere_with_the_scale_of_clip():
    found = model()(torch.rand(5, 1, 3, 3), torch.zeros(5, 2, dtype=torch.int64))
    for features in (found.images, found.texts):
        torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    assert found.scale.item() == pytest.approx(1 / 0.07, rel=1e-6)
    with pytest.raises(ValueError, match="must both give"):
        model()(torch.rand(5, 1, 3, 3), torch.zeros(4, 2, dtype=torch.int64))


def test_the_scale_is_bounded_and_still_comes_back():
    bounded = model()
    with torch.no_grad():
        bounded.log_scale.fill_(9.0)
    scale = bounded(torch.rand(2, 1, 3, 3), torch.zeros(2, 2, dtype=torch.int64)).scale
    assert scale.item() == pytest.approx(100.0, rel=1e-5)
    scale.backward()
    assert bounded.log_scale.grad.item() == pytest.approx(100.0, rel=1e-5)
    assert bounded.log_scale.item() == 9.0


def test_contrast_learns_to_classify_without_labels():
    learner = model()
    labels = torch.arange(40) % 3
    images = (F.one_hot(labels, 9).float() + 0.1 * normal(40, 9).float()).view(-1, 1, 3, 3)
    words = torch.stack([labels, labels + 3], dim=1)
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad(set_to_none=True)
        clip_loss(*learner(images, words)).backward()
        optimizer.step()
    prompts = torch.stack([torch.arange(3), torch.arange(3) + 3], dim=1)[:, None]
    assert (learner.zero_shot(prompts)(images).argmax(dim=1) == labels).all()


def test_zero_shot_leaves_the_model_alone_and_uses_its_image_tower():
    learner = model().train()
    learner.text_tower[3].eval()
    modes = {name: part.training for name, part in learner.named_modules()}
    prompts = torch.randint(6, (3, 5, 2), generator=seeded())
    first, second = learner.zero_shot(prompts), learner.zero_shot(prompts)
    images = torch.rand(4, 1, 3, 3, generator=seeded())
    assert torch.equal(first(images), second(images))
    assert {name: part.training for name, part in learner.named_modules()} == modes
    assert first[0] is learner.image_tower
    assert not first[1].class_features.requires_grad
    torch.testing.assert_close(first[1].class_features, learner.eval().text_tower(prompts.flatten(0, 1)).view(3, 5, 4))
    for bad in (prompts[:0], prompts[0, 0]):
        with pytest.raises(ValueError, match="class_prompts must be"):
            learner.zero_shot(bad)


def test_the_head_is_a_cosine_with_the_mean_direction_in_any_order_of_the_prompts():
    features, images = normal(4, 6, 3), normal(5, 3, seed=1)
    head = ZeroShotHead(features)
    torch.testing.assert_close(head(images), ZeroShotHead(features[:, torch.randperm(6, generator=seeded())])(images))
    for image, row in zip(images, head(images), strict=True):
        for prompts, logit in zip(features, row, strict=True):
            mean = sum(prompt / prompt.norm() for prompt in prompts)
            assert logit.item() == pytest.approx(100 * F.cosine_similarity(image, mean, dim=0).item())
    with pytest.raises(ValueError, match="features must be of shape"):
        head(normal(5, 4))


def test_models_and_heads_are_copied_and_kept():
    learner, images = model().eval(), torch.rand(3, 1, 3, 3, generator=seeded())
    classifier = learner.zero_shot(torch.randint(6, (3, 2, 2), generator=seeded()))
    for other in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert torch.equal(other(images), classifier(images))
    assert classifier.double()(images.double()).dtype == torch.float64
    labeler = pickle.loads(pickle.dumps(CaptionLabeler(TERMS)))
    assert labeler.label(["a dog there"]).tolist() == [4]


# --- shifts ---------------------------------------------------------------------------------------------------------

DRAWN = glyphs(60, side=16, generator=seeded())
COLOURED = glyphs(20, side=16, colour=True, generator=seeded())


def test_a_sketch_is_dark_at_edges_and_the_same_for_a_negative():
    step = torch.zeros(1, 1, 6, 6)
    step[..., 3:] = 0.8
    expected = torch.ones(6, 6)
    expected[:, 2:4] = 0.0
    torch.testing.assert_close(sketch(step)[0, 0], expected)
    torch.testing.assert_close(sketch(step.mT)[0, 0], expected.T)
    torch.testing.assert_close(sketch(DRAWN.images), sketch(1 - DRAWN.images), rtol=0, atol=1e-4)
    assert torch.equal(sketch(torch.full((2, 3, 5, 5), 0.3)), torch.ones(2, 3, 5, 5))
    # A slope twice as steep is twice as dark.
    ramp = torch.tensor([0.0, 0.0, 0.2, 0.2, 0.2, 0.6, 0.6]).expand(1, 1, 5, 7)
    torch.testing.assert_close(sketch(ramp)[0, 0, 2], torch.tensor([1, 0.5, 0.5, 1, 0, 0, 1.0]))


def test_renditions_are_of_four_styles():
    image = torch.zeros(1, 1, 7, 7)
    image[..., 3, 3] = 1.0
    shown = rendition(image.expand(400, 1, 7, 7), seeded())
    inverted = (shown == 1 - image).flatten(1).all(dim=1)
    thicker = (shown == F.max_pool2d(image, 3, 1, 1)).flatten(1).all(dim=1)
    thinner = (shown == 0).flatten(1).all(dim=1)
    tones = ~(inverted | thicker | thinner)
    for style in (inverted, thicker, thinner, tones):
        assert 70 < style.sum() < 130
    low, high = shown[tones, 0, 0, 0], shown[tones, 0, 3, 3]
    assert (high - low).min() >= 0.3
    assert (low.min() < 0.05, low.max() > 0.3, high.min() < 0.7, high.max() > 0.95) == (True,) * 4


@pytest.mark.parametrize("kind", Corruption.__args__)
@pytest.mark.parametrize("data", [DRAWN, COLOURED], ids=["grey", "colour"])
def test_corruptions_stay_images_and_grow_with_severity(kind: Corruption, data: LabelledImages):
    given = data.images.clone()
    changes = []
    for severity in range(1, 6):
        changed = corrupt(given, kind, severity, seeded())
        assert changed.shape == given.shape
        assert ((changed >= 0) & (changed <= 1)).all()
        changes.append((changed - given).square().mean().item())
    assert torch.equal(given, data.images)
    assert all(later > earlier > 0 for earlier, later in itertools.pairwise(changes))


def test_the_strength_of_corruptions_by_hand():
    grey = torch.full((50, 1, 20, 20), 0.5)
    noise = corrupt(grey, "noise", 2, seeded()) - grey
    assert noise.std().item() == pytest.approx(0.08, rel=0.03)
    assert corrupt(grey, "brightness", 2, seeded()).unique().item() == pytest.approx(0.7)
    assert (corrupt(grey, "occlusion", 3, seeded()) == 0).flatten(1).sum(dim=1).max() == 49
    wave = torch.tensor([0.2, 0.8]).repeat(10).expand(1, 1, 20, 20)
    torch.testing.assert_close(corrupt(wave, "contrast", 3, seeded()), 0.5 + 0.4 * (wave - 0.5))
    checks = torch.tensor([0.0, 1.0]).repeat(8).expand(1, 1, 16, 16)
    assert (corrupt(checks, "resolution", 3, seeded())[..., 2:-2] - 0.5).abs().max() < 0.1
    blurred = torch.zeros(1, 1, 20, 20).index_fill(3, torch.tensor([10]), 1.0)
    spread = corrupt(blurred, "blur", 3, seeded())[0, 0, 10]
    assert (spread * (torch.arange(20.0) - 10) ** 2).sum().sqrt().item() == pytest.approx(0.3 + 0.03 * 20, rel=0.05)
    for given, word in ((("fog", 3), "corruption"), (("noise", 0), "severity"), (("noise", True), "severity")):
        with pytest.raises(ValueError, match=f"{word} must be"):
            corrupt(grey, *given, seeded())


def test_the_hard_subset_is_what_the_reference_gets_wrong_and_the_reference_stays():
    reference = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(256, 10)).train()
    state = copy.deepcopy(reference.state_dict())
    chosen = hard_subset(reference, DRAWN.images, DRAWN.labels)
    wrong = reference.eval()(DRAWN.images).argmax(dim=1) != DRAWN.labels
    assert chosen.tolist() == wrong.nonzero().flatten().tolist()
    assert all(torch.equal(state[name], value) for name, value in reference.state_dict().items())
    right = nn.Sequential(nn.Flatten(), nn.Identity())
    with pytest.raises(ValueError, match="reference must get an image wrong"):
        hard_subset(right, torch.eye(4).view(4, 1, 2, 2), torch.arange(4))
    with pytest.raises(ValueError, match="labels must be"):
        hard_subset(right, torch.eye(4).view(4, 1, 2, 2), torch.arange(3))


def test_a_suite_has_the_four_shifts_of_the_paper_and_all_corruptions():
    reference = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    suite = ShiftSuite(reference, new_sample=COLOURED, severity=1)
    natural = suite.natural(DRAWN.images, DRAWN.labels, seeded())
    assert list(natural) == ["new_sample", "sketch", "rendition", "hard"]
    assert natural["new_sample"] is COLOURED
    torch.testing.assert_close(natural["sketch"].images, sketch(DRAWN.images))
    torch.testing.assert_close(natural["rendition"].images, rendition(DRAWN.images, seeded()))
    hard = hard_subset(reference, DRAWN.images, DRAWN.labels)
    assert torch.equal(natural["hard"].images, DRAWN.images[hard])
    assert torch.equal(natural["hard"].labels, DRAWN.labels[hard])
    corrupted = suite.corrupted(DRAWN.images, DRAWN.labels, seeded())
    assert list(corrupted) == list(Corruption.__args__)
    torch.testing.assert_close(corrupted["brightness"].images, (DRAWN.images + 0.1).clamp(max=1))
    assert all(torch.equal(part.labels, DRAWN.labels) for part in corrupted.values())
