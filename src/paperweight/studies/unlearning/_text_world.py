"""What the studies of concept erasure share: a small text-to-image model, the world it knows, and a judge of images.

Model and judge are trained once a seed, for all arms and all studies. The judge is trained on real images of the world,
drawn from a stream of its own; of the digits the model sees other images than the judge is tested on.

As in large systems the text encoder is taught first, here to tell from a caption what its image shows; it then goes on
learning together with the denoiser, with one caption in ten left out.
"""

import copy
from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from paperweight.data import CaptionedImages, LabelledImages, Vocabulary, captioned_digits, captioned_shapes
from paperweight.generators.judge import Judge
from paperweight.generators.text_model import TextSpec, TextToImage
from paperweight.loops import fit_classifier
from paperweight.loops.text_to_image import fit_text_to_image
from paperweight.studies import Setting

__all__ = ["TextWorld", "WorldName", "another_judge", "captions_of", "text_world"]

WorldName = Literal["shapes", "digits"]

_STEPS = {"shapes": 1_400, "digits": 1_600}
_JUDGE_STEPS = 1_200
_PATCH = 4
_TEMPLATES = ("{}", "the {}", "a photo of the {}", "a drawing of the {}")


@final
@dataclass(frozen=True, eq=False)
class TextWorld:
    """A trained world.

    Attributes:
        model: The text-to-image model, in eval mode and without gradients.
        judge: What tells the concepts of an image, in eval mode and without gradients.
        train: What the model was trained on.
        test: Images that neither was trained on.
        accuracy: By family the share of the test images that the judge tells correctly.
    """

    model: TextToImage
    judge: Judge
    train: CaptionedImages
    test: CaptionedImages
    accuracy: dict[str, float]

    @property
    def vocabulary(self) -> Vocabulary:
        """The words of the captions."""
        return self.train.vocabulary


@final
class _Parts(nn.Module):
    """Both networks as one module."""

    def __init__(self, model: TextToImage, judge: Judge) -> None:
        super().__init__()
        self.model = model
        self.judge = judge


def text_world(setting: Setting, name: WorldName = "shapes") -> TextWorld:
    """Return a world with its trained model and judge, the same for every arm and study of a seed.

    Args:
        setting: Gives seed and budget; streams and cache are those of the world, not of the study.
        name: ``shapes``, 12 x 12 in colour, or ``digits``, 8 x 8 in grey.
    """
    shared = setting.shared(f"text world of {name}")
    count = shared.pick(smoke=100, desk=8_000, gpu=40_000)
    train, judged, test = _sets(shared, name, count)
    shape = (train.images.shape[1], train.images.shape[2], train.images.shape[3])
    classes = {family: len(groups) for family, groups in train.vocabulary.concepts.items()}
    spec = TextSpec(
        shape=shape,
        words=train.vocabulary.words,
        arguments=shared.pick(smoke=_network(16, 1), desk=_network(64, 3), gpu=_network(128, 6)),
        prediction="x0",
    )

    def new() -> _Parts:
        return shared.initialised(lambda: _Parts(spec.build(), Judge(shape, classes)))

    def train_both() -> dict[str, Tensor]:
        parts = new()
        parts.model, _ = fit_text_to_image(
            parts.model,
            train,
            steps=shared.pick(smoke=20, desk=_STEPS[name], gpu=12_000),
            text_steps=shared.pick(smoke=10, desk=300, gpu=2_000),
            generator=shared.generator("batches"),
        )
        steps = shared.pick(smoke=30, desk=_JUDGE_STEPS, gpu=4_000)
        shared.seed_global_streams()
        _fit_judge(parts.judge, judged, steps, shared.generator("evaluation"))
        return parts.state_dict()

    parts = new()
    parts.load_state_dict(shared.cached("model and judge", train_both))
    parts.eval().requires_grad_(False)
    found = parts.judge.concepts(test.images.to(setting.device))
    accuracy = {family: (found[family].cpu() == test.labels[family]).double().mean().item() for family in classes}
    return TextWorld(parts.model, parts.judge, train, test, accuracy)


def another_judge(setting: Setting) -> Judge:
    """Return the judge of another seed, trained on other images; what is built for it is in no arm's costs."""
    another = copy.copy(setting)
    another.seed = setting.seed - 1 if setting.seed else 1
    return text_world(another).judge


def _network(width: int, blocks: int) -> dict[str, int]:
    return {"patch": _PATCH, "width": width, "blocks": blocks}


def _sets(setting: Setting, name: WorldName, count: int) -> tuple[CaptionedImages, CaptionedImages, CaptionedImages]:
    """Draw what the model learns from, what the judge learns from, and test images, from two streams."""
    data, evaluation = setting.generator("data"), setting.generator("evaluation")
    tested = setting.pick(smoke=100, desk=1_000, gpu=1_000)
    if name == "shapes":
        sets = (captioned_shapes(count, generator=data), captioned_shapes(count, generator=evaluation))
        return (*sets, captioned_shapes(tested, generator=evaluation))
    splits = setting.images(default="digits", train=1_200, validation=350, test=247)
    known = LabelledImages(
        *(torch.cat(pair) for pair in zip(_pair(splits.train), _pair(splits.validation), strict=True))
    )
    sets = (captioned_digits(count, known, generator=data), captioned_digits(count, known, generator=evaluation))
    return (*sets, captioned_digits(tested, splits.test, generator=evaluation))


def _pair(images: LabelledImages) -> tuple[Tensor, Tensor]:
    return images.images, images.labels


def _fit_judge(judge: Judge, world: CaptionedImages, steps: int, generator: torch.Generator) -> None:
    labels = torch.stack([world.labels[family] for family in judge.classes], dim=1)
    device = judge.head.weight.device

    def loss(logits: Tensor, wanted: Tensor) -> Tensor:
        parts = logits.split(list(judge.classes.values()), dim=1)
        return sum((F.cross_entropy(part, wanted[:, k]) for k, part in enumerate(parts)), logits.new_zeros(()))

    optimizer = torch.optim.AdamW(judge.parameters(), lr=4e-3, fused=True)
    schedule = OneCycleLR(optimizer, 4e-3, total_steps=steps)
    fit_classifier(
        judge,
        optimizer,
        world.images.to(device),
        labels.to(device),
        steps=steps,
        batch_size=64,
        generator=generator,
        loss=loss,
        schedule=schedule,
    )


def captions_of(vocabulary: Vocabulary, word: str, count: int) -> list[str]:
    """Give captions around a word, in templates that take turns; a word that is no noun stands before a general one.

    Args:
        vocabulary: The words.
        word: The name of a concept, or a placeholder, which is taken for a noun.
        count: Number of captions.

    Example:
        >>> from paperweight.data.worlds import SHAPE_WORDS
        >>> captions_of(SHAPE_WORDS, "disc", 2), captions_of(SHAPE_WORDS, "red", 2)
        (['disc', 'the disc'], ['red shape', 'the red shape'])
    """
    nouns = next(iter(vocabulary.concepts))
    adjective = word in vocabulary.words and vocabulary.concept_of(word)[0] != nouns
    text = f"{word} {vocabulary.nouns[0]}" if adjective else word
    return [_TEMPLATES[row % len(_TEMPLATES)].format(text) for row in range(count)]
