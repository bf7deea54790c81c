"""Generated images help contrastive learning with weak views and real images repeated (Wang et al. 2024).

A network of two convolutions and a linear layer, each with batch normalization, and a projector of two layers learn
from 500 characters at half their size, without labels, to find the other view of each, by AdamW in batches of 64. A
mixture of 30 Gaussians, fitted to principal components of the same 500, generates 2,500 more. All arms take as many
updates. Then a linear classifier on the 64 features is fitted to the labels of the 500. The headline is its test
accuracy, against real images alone. These have weak views too: on other seeds, and characters of 14 pixels, strong
ones, whose smallest part is four pixels wide, were worse, and a gain over them would be one of the views.

What it can show: whether generated images, used as the paper says, are worth it. An accuracy that is not higher would
refute the claim here. In one control 2,500 more real images are in the place of the generated ones, as a perfect
generator would draw them: no gain there would show that no generator helps here. Strong views, with generated images
and without, ask whether these need weaker ones. Views of all arms are inverted at random, since characters are, and
not mirrored.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.loops import Probed, fit_views, nt_xent, tune
from paperweight.representation.adaptive_inflation import contrastive_view, inflated_index, real_share
from paperweight.studies import ACCURACY, Arm, Outcome, Setting, Study, classification
from paperweight.studies.representation._two_views import BATCH, RATE, Encoder, encoded, probed

_TEMPERATURES = (0.05, 0.15, 0.5, 1.5)


class _Views(NamedTuple):
    """How much views change: the smallest part that is seen, the jitter, and its probability."""

    min_scale: float
    jitter: float
    jitter_probability: float


_STRONG, _WEAK = _Views(0.08, 0.8, 0.8), _Views(0.2, 0.4, 0.4)


class _Plan(NamedTuple):
    views: _Views
    added: Literal["", "generated", "real"] = ""
    replication: int = 1


STUDY = Study(
    paper="adaptive_inflation",
    question="Do generated images help contrastive learning where views are weak and real images repeated?",
    claim="With generated images, real ones repeated and weak views, features are better than of real images alone.",
    arms={
        "real": Arm("real images, weak views", _Plan(_WEAK)),
        "adaptive": Arm(
            "generated images added, real ones ten times, weak views (AdaInf)", _Plan(_WEAK, "generated", 10)
        ),
        "perfect": Arm("control: more real images in place of the generated ones", _Plan(_WEAK, "real", 10)),
        "strong": Arm("real images, strong views (SimCLR)", _Plan(_STRONG)),
        "strong_once": Arm("generated images added, real ones once, strong views", _Plan(_STRONG, "generated")),
    },
    metrics={"accuracy": ACCURACY},
    headline="accuracy",
    tuned="the temperature, 4 tries an arm and seed, a factor of about 3 apart: by validation accuracy",
    limits=(
        "Small grey images, the same 4,000 to test on for every seed; 64 features, 120 updates. A mixture of Gaussians "
        "generates blurred characters, where the paper has a million images of a diffusion model: what good ones are "
        "worth does not follow. Nothing follows for colours, large images or long training. "
        "Weighed twice: at first on 8 of these seeds at temperatures of 0.1, 0.3 and 0.9, which decided nothing "
        "(-0.012, -0.029 to 0.006)."
    ),
    seeds=24,
)


class _Tried(NamedTuple):
    optimizer: AdamW
    probe: Probed


def _generated(images: Tensor, count: int, seed: int) -> Tensor:
    """Draw images from a mixture of Gaussians that is fitted to principal components of given ones."""
    flat = images.flatten(1).double().cpu().numpy()
    components: Any = PCA(min(24, len(images) // 2), random_state=seed)
    mixture: Any = GaussianMixture(min(30, len(images) // 4), reg_covar=1e-3, random_state=seed)
    mixture.fit(components.fit_transform(flat))
    drawn = torch.from_numpy(components.inverse_transform(mixture.sample(count)[0]))
    return drawn.clamp(0, 1).to(images).reshape(count, *images.shape[1:])


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Learn once with each temperature, and fit a linear classifier to the features of each."""
    task = classification(
        setting,
        smoke=(160, 50, 50),
        desk=(3_000, 500, 4_000),
        gpu=(30_000, 5_000, 10_000),
        default="glyphs",
        normalised=False,
    ).with_images(lambda images: F.avg_pool2d(images, 2))
    steps, known = setting.pick(smoke=(4, 60), desk=(120, 500), gpu=(20_000, 5_000))
    data, plan = task.data, arm.make
    real, others = task.train.images.tensor_split([known])
    kept = setting.cached(
        "generated images", lambda: {"images": _generated(real, len(others), setting.stream("method") % 2**32)}
    )
    added = {"": others[:0], "generated": kept["images"], "real": others}[plan.added]
    images = torch.cat([real, added])[inflated_index(known, len(added), plan.replication).to(real.device)]
    channels, height, width = real.shape[1:]

    def view(batch: Tensor, generator: torch.Generator) -> Tensor:
        seen = contrastive_view(batch, **plan.views._asdict(), flip_probability=0.0, generator=generator)
        inverted = torch.rand(len(batch), 1, 1, 1, generator=generator).to(batch.device) < 0.5
        return torch.where(inverted, 1 - seen, seen)

    def learned(temperature: float) -> _Tried:
        encoder: nn.Module = setting.initialised(lambda: Encoder((channels, height, width)))
        optimizer = AdamW(encoder.parameters(), lr=RATE)
        fit_views(
            encoder,
            optimizer,
            images,
            view=view,
            loss=lambda first, second: nt_xent(first, second, temperature),
            steps=steps,
            batch_size=BATCH,
            generator=setting.generator("batches"),
        )
        features = encoder.get_submodule("0")
        return _Tried(optimizer, probed(lambda part: encoded(features, part), data, known))

    tuned = tune(_TEMPERATURES, learned, lambda tried: tried.probe.validated, better="higher")
    best = tuned.best
    return Outcome(
        metrics={"accuracy": best.probe.accuracy},
        made={"optimizer": best.optimizer},
        tuned={"temperature": tuned},
        arguments={
            "penalty_strength": best.probe.chosen,
            "steps": steps,
            "batch_size": BATCH,
            "real_images": known,
            "images_added": len(added),
            "share_of_real_images": round(real_share(known, len(added), plan.replication), 4),
            "test_images": len(data.test),
        },
        curves={"validation accuracy, by log10 temperature": tuned.curve()},
        images={"added": added[:16]} if plan.added else {},
        correct=best.probe.correct,
    )
