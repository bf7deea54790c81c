"""Noise on hidden features withstands attacks by queries better than noise on the input (Nguyen et al. 2024).

A small perceptron learns easy glyphs of 10 pixels, once for all arms. Each arm adds noise at another place, as much as
lets the accuracy on validation images fall by 0.01. The Square attack, which sees scores alone and does not stop at a
chance success, looks for changes; the headline is how often the network answers rightly there, over fresh noise.

What it can show: whether hidden features are a better place for equal loss of accuracy, and whether an attacker who
pays for it undoes the noise. An accuracy not above that with noise on the input would refute the claim here; noise on
the logits, which hides no feature, is the control for whether the place matters at all, and no noise for whether any
does. Of two more attacks by as many queries one estimates gradients from scores (NES), the other sees decisions alone
(RayS), and finds changes of any size, of which those within the radius count. Two are those of an attacker who knows:
Square on the mean of 5 answers a point, which costs 5 times the queries, and gradient ascent on the mean of 8, which
noise is not meant to withstand. Where these leave little more than without noise, what Square leaves is a cost for the
attacker, and no robustness.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from paperweight.attacks import MeanLogits, NESAttack, ProjectedGradient, RaySAttack, SquareAttack, margin_loss
from paperweight.errors import InputError
from paperweight.loops import evaluate_classifier, warmed_cosine
from paperweight.nets import MLP
from paperweight.robustness.randomized_feature_defense import (
    RandomizedFeatureDefense,
    gradient_ratios,
    largest_noise,
)
from paperweight.studies import Arm, Metric, Outcome, Setting, Study
from paperweight.studies.robustness._adversarial_training import small_images

_RADIUS = 0.05
_ANSWERS = 10
_DROP = 0.01

Places = Callable[[nn.Module], list[str]]


def _weighted(model: nn.Module) -> list[str]:
    """Give the names of layers with weights: of features, and at the end of logits."""
    found = [name for name, part in model.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    if len(found) < 2:
        raise InputError("the network must hold two linear or convolutional layers at least, for features in between")
    return found


STUDY = Study(
    paper="randomized_feature_defense",
    question="Is noise on hidden features a better defense against attacks by queries than noise on the input?",
    claim="At equal loss of accuracy noise on hidden features leaves more accuracy under Square than on the input.",
    arms={
        "input": Arm("noise on the input, another published defense", lambda model: ["0"]),
        "features": Arm("noise on the features of every hidden layer", lambda model: _weighted(model)[:-1]),
        "first": Arm("variant: on those of the first hidden layer", lambda model: _weighted(model)[:1]),
        "last": Arm("variant: on those of the last hidden layer", lambda model: _weighted(model)[-2:-1]),
        "logits": Arm("control: noise on the logits", lambda model: _weighted(model)[-1:]),
        "none": Arm("control: no noise", lambda model: []),
    },
    metrics={
        "square": Metric.higher("accuracy of answers under Square", 0.02),
        "nes": Metric.higher("under gradients estimated from scores (NES)", 0.02),
        "rays": Metric.higher("under a search by decisions (RayS)", 0.02),
        "square_averaged": Metric.higher("under Square on the mean of 5 answers a point", 0.02),
        "white_box": Metric.higher("under gradient ascent on the mean of 8 answers", 0.02),
        "accuracy": Metric.higher("accuracy of answers without attack", 0.01),
    },
    headline="square",
    tuned=(
        "the size of the noise, in every arm the largest at which validation accuracy falls by at most 0.01, by the "
        "same bisection of 16 tries"
    ),
    limits=(
        "Small images, one small perceptron without residual blocks, norm infinity at one radius, a few hundred "
        "queries: nothing follows for deep networks or patient attackers. Weighed before with 10 of these pairs, "
        "without NES and RayS: +0.000, of an interval from -0.022 to 0.021."
    ),
    seeds=16,
)


def run(arm: Arm[Places], setting: Setting) -> Outcome:
    """Train, find the noise, attack, and ask again with fresh noise."""
    task = small_images(setting, smoke=(100, 50, 20), desk=(2_000, 2_000, 800), gpu=(20_000, 5_000, 2_000))
    steps, queries = setting.pick(smoke=(20, 5), desk=(500, 300), gpu=(5_000, 1_000))
    network = task.network(partial(MLP, hidden=(64, 64)))

    def trained() -> dict[str, Tensor]:
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        task.fit(network, optimizer, steps=steps, batch_size=64, schedule=warmed_cosine(optimizer, steps))
        return dict(network.state_dict())

    network.load_state_dict(setting.cached("trained", trained))
    model = nn.Sequential(nn.Identity(), network).requires_grad_(False).eval()
    layers = dict.fromkeys(arm.make(model), 1.0)
    validation, test = task.data.validation, task.data.test
    nu, ratios, source = 0.0, dict[str, float](), setting.generator("method")
    if layers:
        nu = largest_noise(model, layers, validation.images, validation.labels, generator=source, max_drop=_DROP)
        ratios = gradient_ratios(model, layers, validation.images, validation.labels)
    defended = RandomizedFeatureDefense(model, layers, nu, generator=source) if layers else model
    square = SquareAttack(radius=_RADIUS, queries=queries, keep_going=True)
    nes = NESAttack(radius=_RADIUS, queries=queries, pairs=setting.pick(smoke=1, desk=10, gpu=25), keep_going=True)
    rays = RaySAttack(queries=queries)
    ascent = ProjectedGradient(radius=_RADIUS, loss=margin_loss, samples=8, keep_going=True, steps=20)

    def right(images: Tensor) -> Tensor:
        """Give for each image the share of right answers."""
        with torch.no_grad():
            return (
                torch.stack([defended(images).argmax(dim=1) == test.labels for _ in range(_ANSWERS)]).double().mean(0)
            )

    found = {
        name: attack(victim, test.images, test.labels, generator=setting.generator("evaluation"))
        for name, attack, victim in (
            ("square", square, defended),
            ("nes", nes, defended),
            ("rays", rays, defended),
            ("square_averaged", square, MeanLogits([defended] * 5)),
            ("white_box", ascent, defended),
        )
    }
    near = (found["rays"] - test.images).abs().flatten(1).amax(dim=1) <= _RADIUS
    found["rays"] = torch.where(near[:, None, None, None], found["rays"], test.images)
    shares = {name: right(images) for name, images in found.items()}
    return Outcome(
        metrics={
            **{name: share.mean().item() for name, share in shares.items()},
            "accuracy": right(test.images).mean().item(),
        },
        made={"attack": square, "nes": nes, "rays": rays, "ascent": ascent},
        arguments={
            "nu": nu,
            "layers": ", ".join(layers),
            "ratio_of_gradients": ", ".join(f"{ratio:.2f}" for ratio in ratios.values()),
            "accuracy_without_noise": evaluate_classifier(model, test.images, test.labels).accuracy,
            "steps": steps,
            "training_images": len(task.train),
            "validation_images": len(validation),
            "test_images": len(test),
            "image_shape": " x ".join(map(str, task.shape)),
        },
        images={"given": test.images[:16], "under Square": found["square"][:16]},
        correct=shares["square"] > 0.5,
    )
