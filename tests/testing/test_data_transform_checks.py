"""The checks of data transforms catch faulty ones, each by the check that is meant to, and pass three sound ones."""

from functools import partial

import numpy as np
import pytest
import torch

from paperweight.testing import CheckReport, DataTransformSubject, always, check_data_transform, data_transform


class Noise:
    """A sound transform: inputs with noise, clamped; faulty ones replace its parts."""

    def __init__(self, sigma=0.1):
        if not sigma >= 0:
            raise ValueError(f"sigma must be at least 0, got {sigma}")
        self.sigma = sigma

    def __call__(self, inputs, labels, generator=None):
        if self.sigma == 0:
            return inputs, labels
        return self.limit(inputs + self.sigma * self.draw(inputs, generator)), labels

    def draw(self, inputs, generator):
        return torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype, device=inputs.device)

    def limit(self, inputs):
        return inputs.clamp(0, 1)


class GivesInputs(Noise):
    def __call__(self, inputs, labels, generator=None):
        return super().__call__(inputs, labels, generator)[0]


class LosesALabel(Noise):
    def __call__(self, inputs, labels, generator=None):
        return super().__call__(inputs, labels[1:], generator)


class KeepsGraph(Noise):
    def __call__(self, inputs, labels, generator=None):
        inputs, labels = super().__call__(inputs, labels, generator)
        return inputs.requires_grad_(), labels


class DropsLast(Noise):
    def __call__(self, inputs, labels, generator=None):
        return super().__call__(inputs[:-1], labels[:-1], generator)


class Flattens(Noise):
    def limit(self, inputs):
        return super().limit(inputs).flatten(1)


class MovesLabels(Noise):
    def __call__(self, inputs, labels, generator=None):
        return super().__call__(inputs, labels.roll(1), generator)


class FloatLabels(Noise):
    def __call__(self, inputs, labels, generator=None):
        return super().__call__(inputs, labels.double(), generator)


class NoLimit(Noise):
    def limit(self, inputs):
        return inputs


class NotFinite(Noise):
    def limit(self, inputs):
        return super().limit(inputs) / (inputs != inputs.max())


class InPlace(Noise):
    def __call__(self, inputs, labels, generator=None):
        return inputs.add_(self.sigma * self.draw(inputs, generator)).clamp_(0, 1), labels


class ShufflesLabelsInPlace(Noise):
    def __call__(self, inputs, labels, generator=None):
        kept = labels.clone()
        labels.zero_()
        return super().__call__(inputs, kept, generator)


class DrawsGlobally(Noise):
    def draw(self, inputs, generator):
        return torch.randn_like(inputs)


class IgnoresGenerator(Noise):
    def draw(self, inputs, generator):
        return super().draw(inputs, torch.Generator().manual_seed(0))


class SeedsNumpy(Noise):
    def draw(self, inputs, generator):
        np.random.seed(0)
        return super().draw(inputs, generator)


class Downcasts(Noise):
    def limit(self, inputs):
        return super().limit(inputs).float()


class DetourAtZero(Noise):
    def __call__(self, inputs, labels, generator=None):
        if self.sigma == 0:
            return inputs * 3 / 3, labels
        return super().__call__(inputs, labels, generator)


FAULTY = {
    GivesInputs: "check_meets_protocol",
    LosesALabel: "check_meets_protocol",
    KeepsGraph: "check_meets_protocol",
    DropsLast: "check_length_and_shape",
    Flattens: "check_length_and_shape",
    MovesLabels: "check_labels",
    FloatLabels: "check_labels",
    NoLimit: "check_range",
    NotFinite: "check_range",
    InPlace: "check_inputs_unmodified",
    ShufflesLabelsInPlace: "check_inputs_unmodified",
    DrawsGlobally: "check_repeatable",
    IgnoresGenerator: "check_repeatable",
    SeedsNumpy: "check_global_random_state",
    Downcasts: "check_dtype_and_device_preserved",
    DetourAtZero: "check_null",
}


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def unchanged():
    return lambda inputs, labels, generator=None: (inputs, labels)


def checked(make: type[Noise]) -> CheckReport:
    null = partial(make, sigma=0.0)
    return check_data_transform(make, range=(0, 1), random=True, null=null, baseline=unchanged)


def test_a_sound_transform_passes_every_check():
    report = checked(Noise)
    assert report.passed, str(report)
    assert {result.name for result in report.results} == {*FAULTY.values()}
    laws = data_transform.DATA_TRANSFORM_LAWS.items()
    assert {check.__name__ for check, applies in laws if applies is always} <= {*FAULTY.values()}


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = checked(faulty)
    caught = {result.name: result for result in report.failures}
    assert FAULTY[faulty] in caught, str(report)
    assert not caught[FAULTY[faulty]].reason.startswith("it raised"), str(report)


def with_mirror_images(inputs, labels):
    return torch.cat([inputs, inputs.flip(-1)]), torch.cat([labels, labels])


def test_a_transform_declares_how_many_samples_and_which_labels_it_gives():
    doubled = {"length": lambda count: 2 * count, "labels": lambda labels: labels.repeat(2)}
    report = check_data_transform(lambda: with_mirror_images, range=(0, 1), **doubled)
    assert report.passed, str(report)
    report = check_data_transform(lambda: with_mirror_images, range=(0, 1))
    assert failed(report) == {"check_length_and_shape", "check_labels"}


def bright_and_small(inputs, labels, threshold=0.5):
    kept = inputs.flatten(1).mean(1) > threshold
    return torch.nn.functional.avg_pool2d(inputs[kept], 2), labels[kept]


def test_a_filter_leaves_length_and_labels_open_and_declares_the_shape():
    report = check_data_transform(
        partial(partial, bright_and_small),
        range=(0, 1),
        length=None,
        labels=None,
        shape=lambda shape: (shape[0], shape[1] // 2, shape[2] // 2),
    )
    assert report.passed, str(report)
    assert "check_labels" not in {result.name for result in report.results}


def test_subject_takes_data_of_its_own_and_binds_bad_values():
    rows = DataTransformSubject(make=Noise, range=(0, 1), random=True, inputs=torch.zeros(3, 5), targets=torch.zeros(3))
    assert rows.use()[0].shape == (3, 5)
    with pytest.raises(ValueError, match="sigma must be at least 0, got -1"):
        rows.use(sigma=-1)
