"""Features in groups by time of diffusion tell attributes better than features that serve all times (Yue et al. 2024).

A small denoiser learns 3,000 images of coloured shapes, once for each seed, and is frozen. With it every arm trains an
encoder of two layers and a corrector, without labels, on the same images, times and noise. Shapes differ in kind,
colour, size and place: five attributes, the last three in four classes of equal numbers. The headline is the test
accuracy of linear classifiers on the 48 features, averaged over attributes, which 1,000 images with labels are fitted
to.

What it can show: whether six groups of features, each shown from its times on, tell attributes better than features
that are shown at all times (PDAE). An accuracy not higher would refute the claim. The control that matters has the same
groups and the same share of times for each, but times in random order: were it as good, hiding features at random
would be all there is to it. Others take the gradient of earlier groups away, and leave the encoder untrained. Beside it
stands how well each attribute is told by the best of the six groups alone, chosen on validation images; features
without groups are cut the same way.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam

from paperweight.data import shapes
from paperweight.generators import add_noise, linear_schedule, normal
from paperweight.loops import Probed, index_batches, linear_probe, minimise, tune
from paperweight.nets import MLPDenoiser
from paperweight.representation.diti import DiTi, noise_loss
from paperweight.studies import Arm, Metric, Outcome, Setting, Study

_RATES = (0.003, 0.01, 0.03)
_DIMS, _SIDE, _WIDTH = (8,) * 6, 12, 96
_NAMES = ("kind", "colour", "x", "y", "size")
_SHAPE, _SCHEDULE = (3, _SIDE, _SIDE), linear_schedule(1000)


class _Plan(NamedTuple):
    """Sizes of the groups, whether earlier groups get no gradient, whether times are shuffled, and whether to train."""

    dims: Sequence[int] | None = _DIMS
    stops: bool = False
    shuffled: bool = False
    trained: bool = True


STUDY = Study(
    paper="diti",
    question="Do features whose groups are shown from their times of diffusion on tell attributes better?",
    claim="Linear classifiers of attributes are more accurate on features in groups by time than on PDAE's.",
    arms={
        "pdae": Arm("all features at all times (PDAE)", _Plan(dims=None)),
        "diti": Arm("six groups, each shown from its times on", _Plan()),
        "stop_grad": Arm("the same, earlier groups without gradient", _Plan(stops=True)),
        "shuffled": Arm("control: the same groups, times in random order", _Plan(shuffled=True)),
        "untrained": Arm("control: the encoder as it was initialised", _Plan(dims=None, trained=False)),
    },
    metrics={
        "accuracy": Metric.higher("test accuracy of linear classifiers of five attributes", 0.02, "fraction"),
        "alone": Metric.higher("the same on the best of six groups for each attribute", 0.02, "fraction"),
    },
    headline="accuracy",
    tuned="the learning rate, 3 tries an arm and seed, a factor of about 3 apart: by validation accuracy",
    limits=(
        "Images of 12 pixels, networks of linear layers, 48 features in groups of equal size and few updates: the "
        "paper has faces and rooms of 64 and 128 pixels, 512 features in 64 groups whose sizes were chosen for each "
        "data set, and long training. Nothing follows for counterfactual images."
    ),
    seeds=8,
)


class _Corrector(nn.Module):
    """A denoiser that takes features as its condition."""

    def __init__(self) -> None:
        super().__init__()
        self.body = MLPDenoiser(_SHAPE, _WIDTH, 2, sum(_DIMS))

    def forward(self, noisy: Tensor, times: Tensor, features: Tensor) -> Tensor:
        return self.body(noisy, times, features[:, None])


def _encoder() -> nn.Sequential:
    pixels = 3 * _SIDE * _SIDE
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 48))


def _draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw images in [-1, 1] and the classes of their attributes, (N, 5)."""
    images, found = shapes(count, _SIDE, generator=generator)
    quarters = [(found[name].argsort().argsort() * 4 // count) for name in ("x", "y", "radius")]
    return 2 * images - 1, torch.stack([found["shape"], found["colour"], *quarters], dim=1)


def _start(sizes: Sequence[int], steps: int, setting: Setting) -> dict[str, Tensor]:
    """Draw images with their classes, and train a denoiser on the first of them."""
    drawn, labels = _draw(sum(sizes), setting.generator("data"))
    images = drawn[: sizes[0]].to(setting.device)
    model, draws = MLPDenoiser(_SHAPE, _WIDTH, 2).to(images.device), setting.generator("method")

    def loss(index: Tensor) -> Tensor:
        batch = images[index]
        times, noise = torch.randint(len(_SCHEDULE), (len(batch),), generator=draws), normal(batch, draws)
        noisy = add_noise(batch, noise, _SCHEDULE.abar[times])
        return noise_loss(model(noisy, times.to(batch.device)), noise, torch.ones(len(batch)))

    batches = index_batches(len(images), 64, setting.generator("batches"), images.device)
    minimise(loss, Adam(model.parameters(), lr=0.002, fused=True), batches, steps=steps)
    return {"images": drawn, "labels": labels, **{f"denoiser.{k}": v for k, v in model.state_dict().items()}}


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train with each learning rate on the seed's frozen denoiser; measure where linear classifiers are best."""
    sizes = setting.pick(smoke=(80, 60, 60), desk=(3_000, 1_000, 2_000), gpu=(50_000, 10_000, 10_000))
    first, steps, labelled = setting.pick(smoke=(2, 2, 60), desk=(600, 250, 1_000), gpu=(50_000, 50_000, 10_000))
    start = setting.cached("start", lambda: _start(sizes, first, setting))
    parts = list(zip(start["images"].split(sizes), start["labels"].split(sizes), strict=True))
    known, plan = parts[0][0], arm.make
    frozen = MLPDenoiser(_SHAPE, _WIDTH, 2).to(known.device)
    frozen.load_state_dict({k.removeprefix("denoiser."): v for k, v in start.items() if k.startswith("denoiser.")})

    def learned(rate: float) -> tuple[Adam, DiTi]:
        encoder, corrector = setting.initialised(lambda: nn.ModuleList([_encoder(), _Corrector()]))
        model = DiTi(frozen, encoder, corrector, _SCHEDULE, plan.dims).to(known.device)
        if plan.shuffled:
            order = torch.randperm(len(_SCHEDULE), generator=setting.generator("init"))
            model.groups = model.groups[order]
        optimizer = Adam([*encoder.parameters(), *corrector.parameters()], lr=rate, fused=True)
        draws = setting.generator("method")
        if plan.trained:
            batches = index_batches(len(known), 64, setting.generator("batches"), known.device)
            mode = "stop_grad" if plan.stops else "base"
            minimise(lambda index: model.loss(known[index], mode, generator=draws), optimizer, batches, steps=steps)
        return optimizer, model.eval()

    @torch.no_grad()
    def probed(model: DiTi, group: slice) -> list[Probed]:
        """Fit a linear classifier of each attribute to some features."""
        codes = [model.encoder(inputs)[:, group] for inputs, _ in parts]

        def of(attribute: int) -> list[tuple[Tensor, Tensor]]:
            return [(code, wanted[:, attribute]) for code, (_, wanted) in zip(codes, parts, strict=True)]

        def fitted(attribute: int) -> Probed:
            (code, wanted), validation, test = of(attribute)
            return linear_probe((code[:labelled], wanted[:labelled]), validation, test)

        return [fitted(attribute) for attribute in range(len(_NAMES))]

    def mean(of: Sequence[float]) -> float:
        return sum(of) / len(of)

    every = slice(None)
    tuned = tune(
        _RATES,
        learned,
        lambda tried: mean([each.validated for each in probed(tried[1], every)]),
        better="higher",
    )
    optimizer, model = tuned.best
    found = probed(model, every)
    cuts = [probed(model, slice(start, start + _DIMS[0])) for start in range(0, sum(_DIMS), _DIMS[0])]
    best = [max(of, key=lambda each: each.validated) for of in zip(*cuts, strict=True)]
    return Outcome(
        metrics={"accuracy": mean([each.accuracy for each in found]), "alone": mean([each.accuracy for each in best])},
        made={"optimizer": optimizer},
        tuned={"learning rate": tuned} if plan.trained else {},
        arguments={
            "steps": steps,
            "batch_size": 64,
            **{f"accuracy_{name}": round(each.accuracy, 4) for name, each in zip(_NAMES, found, strict=True)},
        },
        curves={"validation accuracy, by log10 learning rate": tuned.curve()},
    )
