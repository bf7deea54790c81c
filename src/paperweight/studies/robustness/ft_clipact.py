"""Zeroing activations beyond tuned thresholds keeps accuracy under faults in weights (Hoang et al. 2020).

A small convolutional network is trained once a seed, alike in every arm, and then protected. Bits of its weights turn
with a probability from 1e-6 to 3e-4, on twenty fault maps a rate, the same for every arm that has the same weights. The
headline is the area under accuracy by the logarithm of the rate, as a share of the largest possible one.

Controls ask what the thresholds are needed for: activations cut to the largest that was seen, or set to zero beyond it,
need no search; and weights that are beyond the largest trained one of their tensor can be read as zero, which costs a
comparison a weight and looks at no activation. An area not above that of plain ReLU would refute the claim; one not
above that of zeroing beyond the largest activation, that tuning is worth its search.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from paperweight.data import LabelledImages
from paperweight.nets import LeNet, replace_modules
from paperweight.robustness.ft_clipact import (
    accuracy_under_faults,
    activation_maxima,
    area_under_rates,
    clip_activations,
    tuned_thresholds,
)
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, classification

_RATES = (1e-6, 3.2e-6, 1e-5, 3.2e-5, 1e-4, 3.2e-4)
_SHOWN = 1e-4

Protect = Callable[[nn.Module, LabelledImages, Setting], nn.Module]


def _plain(model: nn.Module, images: LabelledImages, setting: Setting) -> nn.Module:
    return model


def _tuned(model: nn.Module, images: LabelledImages, setting: Setting) -> nn.Module:
    maps, rounds = setting.pick(smoke=(1, 1), desk=(8, 4), gpu=(20, 6))
    thresholds = tuned_thresholds(
        model,
        images.images,
        images.labels,
        rates=_RATES,
        maps=maps,
        rounds=rounds,
        generator=setting.generator("method"),
    )
    return clip_activations(model, thresholds)


def _zeroed(model: nn.Module, images: LabelledImages, setting: Setting) -> nn.Module:
    return clip_activations(model, activation_maxima(model, images.images))


def _cut(model: nn.Module, images: LabelledImages, setting: Setting) -> nn.Module:
    maxima = activation_maxima(model, images.images)
    place = ""

    def matches(name: str, part: nn.Module) -> bool:
        nonlocal place
        place = name
        return isinstance(part, nn.ReLU)

    return replace_modules(model, matches, lambda _: nn.Hardtanh(0.0, maxima[place] or 1e-9), wanted="a ReLU")


def _checked(model: nn.Module, images: LabelledImages, setting: Setting) -> nn.Module:
    return _RangeChecked(model)


@final
class _RangeChecked(nn.Module):
    """Reads weights that are larger in size than any trained one of their tensor, or no number, as zero."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.largest: Mapping[str, float] = {
            name: weight.abs().max().item() for name, weight in model.named_parameters()
        }

    def forward(self, images: Tensor) -> Tensor:
        read = {
            name: weight.where(weight.abs() <= self.largest[name], 0) for name, weight in self.model.named_parameters()
        }
        return functional_call(self.model, read, (images,))


STUDY = Study(
    paper="ft_clipact",
    question="Does zeroing activations beyond tuned thresholds keep accuracy when bits of the weights turn?",
    claim="Zeroing activations beyond tuned thresholds raises the accuracy under faults in weights, without training.",
    arms={
        "relu": Arm("no protection", _plain),
        "ft_clipact": Arm("zero beyond a threshold tuned for each layer", _tuned),
        "largest": Arm("control: zero beyond the largest activation seen, nothing tuned", _zeroed),
        "saturating": Arm("control: cut to the largest activation seen", _cut),
        "weight_range": Arm("control: weights beyond the largest trained one of their tensor read as zero", _checked),
    },
    metrics={
        "area": Metric.higher("area under test accuracy by the logarithm of the rate of faults", 0.01, "share"),
        "under_faults": Metric.higher("test accuracy at one fault in 10,000 bits", 0.02),
        "accuracy": Metric.higher("test accuracy without faults", 0.01),
    },
    headline="area",
    tuned="nothing but the thresholds, which are the method: by the area on validation images",
    limits=(
        "One small network of small images, faults that are independent turned bits of 32-bit weights, twenty fault "
        "maps a rate at the desk budget: nothing follows for other formats, for activations that are spoilt, or for "
        "networks whose activations have no bound by nature."
    ),
    seeds=12,
)


def run(arm: Arm[Protect], setting: Setting) -> Outcome:
    """Train, protect, and measure accuracy under the same faults."""
    task = classification(setting, smoke=(100, 40, 50), desk=(800, 300, 597), gpu=(20_000, 2_000, 5_000))
    steps, maps = setting.pick(smoke=(20, 1), desk=(400, 20), gpu=(4_000, 50))
    model = task.network(LeNet)

    def trained() -> dict[str, Tensor]:
        task.fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), steps=steps, batch_size=64)
        return dict(model.state_dict())

    model.load_state_dict(setting.cached("trained", trained))
    protected = arm.make(model.eval(), task.data.validation, setting).eval()
    test = task.data.test
    measure = partial(accuracy_under_faults, protected, test.images, test.labels)
    found = measure(rates=_RATES, maps=maps, generator=setting.generator("evaluation"))
    with torch.no_grad():
        correct = protected(test.images).argmax(dim=1) == test.labels
    means = found.mean(dim=1).tolist()
    return Outcome(
        metrics={
            "area": area_under_rates(_RATES, found),
            "under_faults": means[_RATES.index(_SHOWN)],
            "accuracy": correct.double().mean().item(),
        },
        made={"network": protected},
        arguments={
            "steps": steps,
            "fault_maps": maps,
            "weights": sum(weight.numel() for weight in model.parameters()),
            "training_images": len(task.train),
            "validation_images": len(task.data.validation),
            "test_images": len(test),
            "image_shape": " x ".join(map(str, task.shape)),
        },
        curves={
            "test accuracy, by log10 of the rate of faults": [
                (torch.tensor(rate).log10().item(), mean) for rate, mean in zip(_RATES, means, strict=True)
            ],
        },
        correct=correct,
    )
