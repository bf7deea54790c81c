"""The compressor checks catch faulty compressors, each by the check that is meant to, and pass three sound ones."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from paperweight.testing import CheckReport, CompressorSubject, check_compressor, compressor
from paperweight.testing.classifiers import toy_classifier
from paperweight.testing.compressor import nonzero_parameters, parameters, stored_bytes


class Pruning:
    """A sound compressor: the weights that are smallest in magnitude become 0; faulty ones replace its parts."""

    def __init__(self, sparsity=0.75):
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparsity must be within 0 and below 1, got {sparsity}")
        self.sparsity = sparsity

    def __call__(self, model):
        result = self.copy(model)
        weights = [parameter for parameter in result.parameters() if parameter.ndim > 1]
        count = round(self.sparsity * sum(weight.numel() for weight in weights))
        if count:
            sizes = torch.cat([self.score(weight).flatten() for weight in weights])
            bound = sizes.sort().values[count - 1]
            with torch.no_grad():
                for weight in weights:
                    self.mask(weight, self.score(weight) > bound)
        return self.finish(result)

    def copy(self, model):
        return copy.deepcopy(model)

    def score(self, weight):
        return weight.detach().abs()

    def mask(self, weight, kept):
        weight.mul_(kept)

    def finish(self, result):
        return result

    def size(self, model):
        return sum(int((parameter != 0).sum()) for parameter in model.parameters())


class GivesMasks(Pruning):
    def finish(self, result):
        return [parameter != 0 for parameter in result.parameters()]


class CutsOutputs(Pruning):
    def finish(self, result):
        return result[:-1]


class DividesByZero(Pruning):
    def mask(self, weight, kept):
        weight.div_(kept)


class ForgetsBiases(Pruning):
    def size(self, model):
        return sum(int((parameter != 0).sum()) for parameter in model.parameters() if parameter.ndim > 1)


class TellsThePlan(Pruning):
    """It tells the size of a model from the sparsity, whatever the model is."""

    def size(self, model):
        return nonzero_parameters(Pruning(self.sparsity)(toy_classifier()))


class PrunesLess(Pruning):
    def __init__(self, sparsity=0.5):
        super().__init__(sparsity)


class LeavesHook(Pruning):
    def finish(self, result):
        result[0].register_forward_pre_hook(lambda *_: None)
        return result


class LeavesTensorHook(Pruning):
    def finish(self, result):
        result[0].weight.register_hook(lambda gradient: gradient)
        return result


class LeavesMask(Pruning):
    def finish(self, result):
        result[0].register_buffer("mask", torch.ones_like(result[0].weight), persistent=False)
        return result


class LeavesTorchPruning(Pruning):
    def finish(self, result):
        return prune.identity(result[0], "weight") and result


class LeavesParametrization(Pruning):
    def finish(self, result):
        parametrize.register_parametrization(result[0], "weight", nn.Identity())
        return result


class LeavesAttribute(Pruning):
    def finish(self, result):
        result[0].scores = [1.0]
        return result


class InPlace(Pruning):
    def copy(self, model):
        return model


class SharesBuffers(Pruning):
    def copy(self, model):
        return copy.deepcopy(model, {id(buffer): buffer for buffer in model.buffers()})


class SwitchesMode(Pruning):
    def copy(self, model):
        return copy.deepcopy(model.eval())


class RandomScores(Pruning):
    def score(self, weight):
        with torch.random.fork_rng():
            return super().score(weight) * torch.rand_like(weight)


class SeedsGlobally(Pruning):
    def copy(self, model):
        torch.manual_seed(0)
        return copy.deepcopy(model)


class Downcasts(Pruning):
    def finish(self, result):
        return result.float()


class DetourAtZero(Pruning):
    def finish(self, result):
        with torch.no_grad():
            result[-1].weight.mul_(3).div_(3)
        return result


FAULTY = {
    GivesMasks: "check_meets_protocol",
    CutsOutputs: "check_meets_protocol",
    DividesByZero: "check_meets_protocol",
    ForgetsBiases: "check_reported_size",
    TellsThePlan: "check_reported_size",
    PrunesLess: "check_budget",
    LeavesHook: "check_nothing_left_behind",
    LeavesTensorHook: "check_nothing_left_behind",
    LeavesMask: "check_nothing_left_behind",
    LeavesTorchPruning: "check_nothing_left_behind",
    LeavesParametrization: "check_nothing_left_behind",
    LeavesAttribute: "check_nothing_left_behind",
    InPlace: "check_source_unmodified",
    SharesBuffers: "check_source_unmodified",
    SwitchesMode: "check_source_unmodified",
    RandomScores: "check_repeatable",
    SeedsGlobally: "check_global_random_state",
    Downcasts: "check_dtype_and_device_preserved",
    DetourAtZero: "check_null",
}


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def budget(model):
    """A quarter of the weights, and all of the rest."""
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)
    rest = sum(int((parameter != 0).sum()) for parameter in model.parameters() if parameter.ndim == 1)
    return round(0.25 * weights) + rest


def checked(make: type[Pruning]) -> CheckReport:
    return check_compressor(make, budget=budget, null=partial(make, 0.0), baseline=lambda: copy.deepcopy)


def test_a_sound_compressor_passes_every_check():
    report = checked(Pruning)
    assert report.passed, str(report)
    assert {result.name for result in report.results} == {*FAULTY.values()}
    assert {check.__name__ for check in compressor.COMPRESSOR_LAWS} <= {*FAULTY.values(), "check_null"}


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = checked(faulty)
    caught = {result.name: result for result in report.failures}
    assert FAULTY[faulty] in caught, str(report)
    assert not caught[FAULTY[faulty]].reason.startswith("it raised"), str(report)


class Codes(nn.Module):
    """A linear layer whose weight is stored in eight bits."""

    def __init__(self, layer):
        super().__init__()
        self.bias = nn.Parameter(layer.bias.detach().clone())
        scale = layer.weight.detach().abs().max() / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (layer.weight.detach() / scale).round().to(torch.int8))

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


class EightBits:
    """A sound quantiser."""

    def __call__(self, model):
        result = copy.deepcopy(model)
        result[-1] = Codes(result[-1])
        return result

    def size(self, model):
        return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def test_a_quantiser_declares_what_it_adds():
    declared = {"budget": lambda model: 0.5 * stored_bytes(model), "count": stored_bytes}
    report = check_compressor(EightBits, adds=("scale",), **declared)
    assert report.passed, str(report)
    report = check_compressor(EightBits, **declared)
    assert failed(report) == {"check_nothing_left_behind"}
    assert "the tensor 5.scale" in str(report)


class RandomDraw:
    """A sound random compressor: it keeps each weight with probability 1 / 2."""

    def __call__(self, model, generator):
        result = copy.deepcopy(model)
        with torch.no_grad():
            weight = result[-1].weight
            weight *= torch.rand(weight.shape, generator=generator, device=weight.device) < 0.5
        return result

    def size(self, model):
        return nonzero_parameters(model)


def test_a_random_compressor_takes_its_generator():
    assert check_compressor(RandomDraw, budget=lambda model: 0.9 * parameters(model), random=True).passed


def test_counters_count_by_hand():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]]))
        layer.bias.copy_(torch.tensor([0.0, 1.0]))
    assert (nonzero_parameters(layer), parameters(layer), stored_bytes(layer)) == (4, 8, 32)
    assert stored_bytes(layer.half()) == 16
    assert parameters(nn.Sequential(layer, layer)) == 8
    assert stored_bytes(Codes(nn.Linear(3, 2))) == 4 * 2 + 4 + 6


def test_subject_binds_bad_values():
    with pytest.raises(ValueError, match="sparsity must be within 0 and below 1, got 2"):
        CompressorSubject(make=Pruning, budget=budget).use(sparsity=2)
