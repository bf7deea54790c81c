"""With non-negative features in contrastive learning, dimensions belong more to single classes (Wang et al. 2024).

A network of two convolutions and a linear layer, each with batch normalization, and a projector of two layers learn
from 1,000 characters at half their size, without labels, to find the other view of each, by AdamW. Views are shifted,
of another contrast and brightness, inverted at random, and noisy: without that their brightness gives them away. All is
measured on what the projector gives for 4,000 test images, normalised. The headline is class consistency: of the images
for which a dimension is not 0, the share of the most frequent class, on average over dimensions.

What it can show: whether dimensions of non-negative features mean more. A class consistency not higher would refute the
claim. Features of contrastive learning are never 0, so that theirs is the share of the most frequent class whatever
they have learned. The control that matters sets their negative entries to 0 once they are trained: as consistent
dimensions there would show that it need not be done in training. Beside it stand linear classifiers on all dimensions,
and on the eight that are largest on average, fitted to 500 labels.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeClassifier
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.data import LabelledImages, Splits, random_crop
from paperweight.loops import fit_views, tune
from paperweight.nets import evaluating, replace_modules
from paperweight.representation.non_negative_contrastive import (
    Activation,
    NonNegativeHead,
    class_consistency,
    feature_sparsity,
    ncl_loss,
)
from paperweight.studies import Arm, Embedding, Metric, Outcome, Recipe, Setting, Study, classification
from paperweight.studies.representation._views import learn_from_views

_TEMPERATURES = (0.02, 0.06, 0.2, 0.6)
_KEPT = 8


def _last(model: nn.Module) -> str | None:
    """Give the name of a network's last linear layer."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else None


def _with_head(model: nn.Module) -> nn.Module:
    last = _last(model)

    def build(linear: nn.Module) -> nn.Module:
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"the last layer must be linear, got {type(linear).__name__}")
        return NonNegativeHead(linear)

    return replace_modules(model, lambda name, _: name == last, build, wanted="a linear layer (nn.Linear)")


def _fits(model: nn.Module, data: Splits) -> str:
    needed = "the network's logits must be what its last linear layer (nn.Linear) gives from features (N, d)"
    if (last := _last(model)) is None:
        return needed
    calls: list[tuple[int, Tensor]] = []

    def note(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((given[0].ndim if given else 0, output))

    hook = model.get_submodule(last).register_forward_hook(note)
    try:
        with evaluating(model), torch.no_grad():
            logits = model(data.train.images[:2])
    finally:
        hook.remove()
    return "" if len(calls) == 1 and calls[0][0] == 2 and torch.equal(calls[0][1], logits) else needed


RECIPE = Recipe(
    words="features and weights of the last linear layer held at 0 or above, with the gradient of GELU",
    line="model.head = NonNegativeHead(model.head)",
    surgery=_with_head,
    fits=_fits,
)

EMBEDDING = Embedding(
    words="two views of an image find each other by features that are never below 0, with the gradient of GELU",
    line="loss = ncl_loss(projector(encoder(first)), projector(encoder(second)), temperature=0.2)",
    learn=lambda task: learn_from_views(task, lambda first, second: ncl_loss(first, second, 0.2)),
)


class _Plan(NamedTuple):
    """The activation in training, and the one that is measured with."""

    trained: Activation
    measured: Activation


STUDY = Study(
    paper="non_negative_contrastive",
    question="Do dimensions of features that contrastive learning holds at 0 or above belong more to single classes?",
    claim="Features trained to be non-negative have a higher class consistency than those of contrastive learning.",
    arms={
        "contrast": Arm("features of any sign (SimCLR)", _Plan("none", "none")),
        "rep_relu": Arm("trained through ReLU with the gradient of GELU", _Plan("rep_relu", "relu")),
        "relu": Arm("trained through plain ReLU", _Plan("relu", "relu")),
        "relu_after": Arm(
            "control: features of any sign, of which ReLU is taken after training", _Plan("none", "relu")
        ),
    },
    metrics={
        "consistency": Metric.higher("class consistency", 0.02),
        "accuracy": Metric.higher("test accuracy of a linear classifier", 0.01),
        "kept": Metric.higher("the same on the 8 largest dimensions", 0.01),
    },
    headline="consistency",
    tuned="the temperature, 4 tries an arm and seed, a factor of about 3 apart: by validation accuracy, all dimensions",
    limits=(
        "Small images, the same 4,000 to test on for every seed; 64 dimensions, 1,000 images without labels and 120 "
        "updates at the desk budget, all at one learning rate: nothing follows for large images or long training. "
        "Class consistency, as the authors measure it, is as low as can be for features that are never 0, and rises "
        "with sparsity alone. The recipe for classifiers is not weighed here."
    ),
    seeds=9,
)


class _Encoder(nn.Sequential):
    """A small convolutional network with batch normalization, and a projector."""

    def __init__(self, channels: int, pixels: int) -> None:
        super().__init__(
            *(nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(16 * pixels, 64), nn.BatchNorm1d(64), nn.ReLU()),
            *(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)),
        )


def _view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift images by up to 2 pixels, change their contrast and brightness, invert half of them, and add noise."""
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    shifted = random_crop(padded, 2, generator=generator)[..., 2:-2, 2:-2]
    contrast, brightness, sign = torch.rand(3, len(images), 1, 1, 1, generator=generator).to(images)
    noise = torch.randn(images.shape, generator=generator).to(images)
    return torch.where(sign < 0.5, -1, 1) * (0.5 + contrast) * shifted + brightness - 0.5 + 0.3 * noise


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Learn once with each temperature; measure where a linear classifier of validation images is best."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(1_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    ).with_images(lambda images: F.avg_pool2d(images, 2))
    steps, labelled = setting.pick(smoke=(4, 60), desk=(120, 500), gpu=(8_000, 2_000))
    data, (channels, height, width) = task.data, task.train.images.shape[1:]

    def learned(temperature: float) -> tuple[AdamW, nn.Module]:
        encoder = setting.initialised(lambda: _Encoder(channels, (height // 4) * (width // 4)))
        optimizer = AdamW(encoder.parameters(), lr=0.003)
        fit_views(
            encoder,
            optimizer,
            task.train.images,
            view=_view,
            loss=lambda first, second: ncl_loss(first, second, temperature, arm.make.trained),
            steps=steps,
            batch_size=64,
            generator=setting.generator("batches"),
        )
        return optimizer, encoder

    def features(encoder: nn.Module, part: LabelledImages) -> Tensor:
        with evaluating(encoder), torch.no_grad():
            codes = encoder(part.images)
        return F.normalize(codes.relu() if arm.make.measured == "relu" else codes).cpu()

    def right(encoder: nn.Module, part: LabelledImages, most: int) -> Tensor:
        """Say which images a linear classifier on so many dimensions, the largest on average, puts into their class."""
        known = features(encoder, data.train)[:labelled]
        kept = known.abs().mean(dim=0).argsort(descending=True)[:most]
        classifier: Any = RidgeClassifier(0.1)
        classifier.fit(known[:, kept].numpy(), data.train.labels[:labelled].cpu().numpy())
        return torch.from_numpy(classifier.predict(features(encoder, part)[:, kept].numpy())) == part.labels.cpu()

    def validated(tried: tuple[AdamW, nn.Module]) -> float:
        return right(tried[1], data.validation, 64).double().mean().item()

    tuned = tune(_TEMPERATURES, learned, validated, better="higher")
    optimizer, encoder = tuned.best
    codes, correct = features(encoder, data.test), right(encoder, data.test, 64)
    return Outcome(
        metrics={
            "consistency": class_consistency(codes, data.test.labels.cpu()),
            "accuracy": correct.double().mean().item(),
            "kept": right(encoder, data.test, _KEPT).double().mean().item(),
        },
        made={"optimizer": optimizer},
        tuned={"temperature": tuned},
        arguments={
            "steps": steps,
            "batch_size": 64,
            "images_without_labels": len(data.train),
            "labels": labelled,
            "test_images": len(data.test),
            "feature_sparsity": round(feature_sparsity(codes), 4),
            "dimensions_active": int((codes > 1e-5).any(dim=0).sum()),
        },
        curves={"validation accuracy, by log10 temperature": tuned.curve()},
        correct=correct,
    )
