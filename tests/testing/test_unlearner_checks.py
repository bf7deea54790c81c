"""The unlearner checks catch faulty unlearners, each by the check that is meant to, and guarded data count reads."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

from paperweight.testing import CheckFailure, CheckReport, GuardedDataset, UnlearnerSubject, check_unlearner, unlearner


class FineTuning:
    """A sound unlearner: forget with random labels and retain with true ones; faulty ones replace its parts."""

    def __init__(self, lr=0.1, steps=3):
        if not lr >= 0:
            raise ValueError(f"lr must be at least 0, got {lr}")
        self.lr, self.steps = lr, steps

    def __call__(self, model, forget, retain, generator=None):
        result = self.copy(model)
        if self.is_empty(forget):
            return result
        modes = {part: part.training for part in result.modules()}
        result.eval()
        inputs, labels = self.batch(forget, retain, generator)
        optimizer = torch.optim.SGD(result.parameters(), lr=self.lr)
        for _ in range(self.steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(result(inputs), labels).backward()
            optimizer.step()
        optimizer.zero_grad()
        for part, training in modes.items():
            part.training = training
        return result

    def copy(self, model):
        return copy.deepcopy(model)

    def is_empty(self, forget):
        return len(forget) == 0

    def batch(self, forget, retain, generator):
        samples = [forget[index] for index in range(len(forget))] + [retain[index] for index in range(len(retain))]
        inputs = torch.stack([sample[0] for sample in samples])
        labels = torch.tensor([sample[1] for sample in samples])
        labels[: len(forget)] = self.draw(len(forget), generator)
        return inputs, labels

    def draw(self, count, generator):
        device = "cpu" if generator is None else generator.device
        return torch.randint(3, (count,), generator=generator, device=device).cpu()


class GivesState(FineTuning):
    def __call__(self, model, forget, retain, generator=None):
        return super().__call__(model, forget, retain, generator).state_dict()


class GivesFeatures(FineTuning):
    def __call__(self, model, forget, retain, generator=None):
        return super().__call__(model, forget, retain, generator)[:-1]


class Diverges(FineTuning):
    def __init__(self):
        super().__init__(lr=1e38)


class DoesNothing(FineTuning):
    def __init__(self):
        super().__init__(lr=0.0)


class TrainsOnWithoutForgetSet(FineTuning):
    def is_empty(self, forget):
        return False


class InPlace(FineTuning):
    def copy(self, model):
        return model


class SharesFrozenPart(FineTuning):
    def copy(self, model):
        result = copy.deepcopy(model)
        result[1].running_mean = model[1].running_mean
        return result


class ClearsGradients(FineTuning):
    def copy(self, model):
        model.zero_grad()
        return copy.deepcopy(model)


class SharesGivenAlone(FineTuning):
    """With nothing to forget it gives the source itself."""

    def __call__(self, model, forget, retain, generator=None):
        return model if len(forget) == 0 else super().__call__(model, forget, retain, generator)


class LooksBehindTheView(FineTuning):
    def batch(self, forget, retain, generator):
        if isinstance(forget, Subset):
            forget.dataset[len(forget.dataset) - 1]
        return super().batch(forget, retain, generator)


class HidesTheRefusal(FineTuning):
    def batch(self, forget, retain, generator):
        try:
            if isinstance(forget, Subset):
                forget.dataset[-1]
        except CheckFailure:
            pass
        return super().batch(forget, retain, generator)


class NeverLooks(FineTuning):
    def batch(self, forget, retain, generator):
        return super().batch(forget, [], generator)


class ChangesData(FineTuning):
    def batch(self, forget, retain, generator):
        forget[0][0].add_(1)
        return super().batch(forget, retain, generator)


class DrawsGlobally(FineTuning):
    def draw(self, count, generator):
        return torch.randint(3, (count,))


class IgnoresGenerator(FineTuning):
    def draw(self, count, generator):
        return torch.zeros(count, dtype=torch.int64)


class SeedsGlobally(FineTuning):
    def draw(self, count, generator):
        torch.manual_seed(0)
        return super().draw(count, generator)


class Downcasts(FineTuning):
    def __call__(self, model, forget, retain, generator=None):
        return super().__call__(model, forget, retain, generator).float()


FAULTY = {
    GivesState: "check_meets_protocol",
    GivesFeatures: "check_meets_protocol",
    Diverges: "check_meets_protocol",
    DoesNothing: "check_changes_the_model",
    TrainsOnWithoutForgetSet: "check_empty_forget_set",
    InPlace: "check_source_unmodified",
    SharesFrozenPart: "check_source_unmodified",
    ClearsGradients: "check_source_unmodified",
    SharesGivenAlone: "check_source_unmodified",
    LooksBehindTheView: "check_reads_only_declared_data",
    HidesTheRefusal: "check_reads_only_declared_data",
    NeverLooks: "check_reads_only_declared_data",
    ChangesData: "check_data_unmodified",
    DrawsGlobally: "check_repeatable",
    IgnoresGenerator: "check_repeatable",
    SeedsGlobally: "check_global_random_state",
    Downcasts: "check_dtype_and_device_preserved",
}


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def unchanged():
    return lambda model, forget, retain, generator=None: copy.deepcopy(model)


def test_a_sound_unlearner_passes_every_check():
    report = check_unlearner(FineTuning, random=True, null=partial(FineTuning, lr=0.0), baseline=unchanged)
    assert report.passed, str(report)
    assert {result.name for result in report.results} == {*FAULTY.values(), "check_null"}
    assert {check.__name__ for check in unlearner.UNLEARNER_LAWS} == {*FAULTY.values(), "check_null"}


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = check_unlearner(faulty, random=True)
    caught = {result.name: result for result in report.failures}
    assert FAULTY[faulty] in caught, str(report)
    assert not caught[FAULTY[faulty]].reason.startswith("it raised"), str(report)


def test_null_law_catches_a_small_step():
    report = check_unlearner(FineTuning, random=True, null=partial(FineTuning, lr=1e-6), baseline=unchanged)
    assert failed(report) == {"check_null"}


def ascend(model, forget, retain, lr=0.05):
    """A sound unlearner that never looks at what to retain."""
    result = copy.deepcopy(model).eval()
    if len(forget):
        images, labels = default_collate([forget[index] for index in range(len(forget))])
        gradients = torch.autograd.grad(nn.functional.cross_entropy(result(images), labels), [*result.parameters()])
        with torch.no_grad():
            for parameter, gradient in zip(result.parameters(), gradients, strict=True):
                parameter += lr * gradient
    return result


def test_what_is_not_declared_as_read_may_not_be_read():
    assert check_unlearner(partial(partial, ascend), reads=("forget",)).passed
    assert failed(check_unlearner(partial(partial, ascend))) == {"check_reads_only_declared_data"}
    assert failed(check_unlearner(FineTuning, random=True, reads=("forget",))) == {"check_reads_only_declared_data"}


class Conditional(nn.Module):
    """A linear denoiser with one embedding a concept."""

    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(5, 4), nn.Linear(6, 2)

    def forward(self, x, concepts):
        return self.out(torch.cat([x, self.embedding(concepts)], dim=1))


def erase(model, forget, retain):
    """A sound eraser of concepts, in closed form: each gets the mean embedding of the concepts that are preserved."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for concept in forget:
            result.embedding.weight[concept] = torch.stack([model.embedding.weight[other] for other in retain]).mean(0)
    return result


def test_an_eraser_of_concepts_is_an_unlearner():
    inputs = (torch.ones(5, 2), torch.arange(5))
    concepts = {"forget": [0, 1], "retain": [2, 3, 4]}
    report = check_unlearner(lambda: erase, model=Conditional, inputs=inputs, **concepts)
    assert report.passed, str(report)


def test_subject_binds_bad_values_and_refuses_its_own():
    with pytest.raises(ValueError, match="lr must be at least 0, got -1"):
        UnlearnerSubject(make=FineTuning, random=True).use(lr=-1)
    with pytest.raises(ValueError, match="reads must name forget, retain or both"):
        UnlearnerSubject(make=FineTuning, reads=("test",))
    with pytest.raises(ValueError, match="must hold 2 samples each, got 1, 12"):
        UnlearnerSubject(make=FineTuning, forget=[(torch.zeros(1), 0)])


def test_a_guarded_data_set_counts_each_read():
    guarded = GuardedDataset(TensorDataset(torch.arange(6.0), torch.arange(6)))
    assert guarded[2][1] == 2
    assert guarded[-1][1] == 5
    assert guarded[1:3][1].tolist() == [1, 2]
    assert guarded[torch.tensor([0, 2])][1].tolist() == [0, 2]
    assert guarded[torch.tensor([True, False, False, False, False, True])][1].tolist() == [0, 5]
    assert guarded.reads == {2: 3, 5: 2, 1: 1, 0: 2}
    assert len(list(DataLoader(guarded, batch_size=2))) == 3
    assert sum(guarded.reads.values()) == 8 + 6
    assert len(guarded) == len(list(guarded)) == 6
    with pytest.raises(IndexError):
        guarded[6]


def test_a_guarded_data_set_refuses_what_is_not_allowed():
    guarded = GuardedDataset([10, 11, 12, 13], allowed=range(2))
    assert guarded[-4] == 10
    for index in (2, -1, slice(1, 4)):
        with pytest.raises(CheckFailure, match="which is not declared"):
            guarded[index]
    assert guarded.refused == [2, 3, 2]
    assert guarded.reads == {0: 1, 1: 1}
