"""The layer checks catch faulty layers, each by the check that is meant to, and pass torch's own and the networks."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from paperweight import nets
from paperweight.testing import CheckReport, LayerSubject, check_layer
from paperweight.testing.layer import layer_checks


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


VECTORS = normal(4, 5)


class Scaled(nn.Module):
    """A sound layer, tanh(x w) less a running mean, whose parts the faulty ones replace."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(5))
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x):
        y = self.apply_weight(x) - self.mean.clone()
        if self.training:
            self.update(x)
        return y

    def update(self, x):
        self.mean.lerp_(x.detach().mean(0), 0.1)

    def apply_weight(self, x):
        return torch.tanh(x * self.weight)


class NoTensor(Scaled):
    def forward(self, x):
        return "nothing"


class Transposed(Scaled):
    def forward(self, x):
        return super().forward(x).mT


class Squeezes(Scaled):
    def forward(self, x):
        return super().forward(x).squeeze()


class SignFlip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class FlipsGradient(Scaled):
    def apply_weight(self, x):
        return SignFlip.apply(super().apply_weight(x))


class FlipsGradientInTraining(Scaled):
    def apply_weight(self, x):
        y = super().apply_weight(x)
        return SignFlip.apply(y) if self.training else y


class DetachesPart(Scaled):
    def apply_weight(self, x):
        return x * self.weight + (x**2).detach()


class DetachesAll(Scaled):
    def apply_weight(self, x):
        return super().apply_weight(x).detach()


class UnusedParameter(Scaled):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(5))


class ZeroGradient(UnusedParameter):
    def apply_weight(self, x):
        return super().apply_weight(x) + 0 * self.bias


class WrongAxis(Scaled):
    def apply_weight(self, x):
        return torch.softmax(super().apply_weight(x), dim=0)


class BatchStatisticsBehindAZero(Scaled):
    """What leaks is multiplied by a weight that starts at zero."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def apply_weight(self, x):
        return super().apply_weight(x) + self.gate * x.mean(0)


class DividesByBatchSize(Scaled):
    def apply_weight(self, x):
        return super().apply_weight(x) / len(x)


class DropsInEval(Scaled):
    def apply_weight(self, x):
        return nn.functional.dropout(super().apply_weight(x), training=True)


class NumpyNoiseInEval(Scaled):
    def apply_weight(self, x):
        return super().apply_weight(x) + np.random.rand()


class UpdatesInEval(Scaled):
    def forward(self, x):
        y = super().forward(x)
        self.update(x)
        return y


class LeavesHook(Scaled):
    def forward(self, x):
        self.register_forward_hook(lambda *_: None)
        return super().forward(x)


class SwitchesMode(Scaled):
    def forward(self, x):
        y = super().forward(x)
        self.train()
        return y


class SeedsInEval(Scaled):
    def forward(self, x):
        torch.manual_seed(0)
        return super().forward(x)


class ChangesInput(Scaled):
    def forward(self, x):
        return super().forward(x.clamp_(min=0))


class ChangesInputInTraining(Scaled):
    def forward(self, x):
        return super().forward(x.add_(1) if self.training else x)


class Downcasts(Scaled):
    def apply_weight(self, x):
        return (x.float() * self.weight.float()).tanh()


class OverflowsInBfloat16(Scaled):
    def apply_weight(self, x):
        return super().apply_weight(x) / (1 + torch.tensor(1e-3, dtype=x.dtype) - 1)


class StateOutsideStateDict(Scaled):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.rand(5), persistent=False)

    def apply_weight(self, x):
        return super().apply_weight(x) + self.shift


class RunningStateOutsideStateDict(Scaled):
    count = 0

    def update(self, x):
        self.count += 1
        self.mean.lerp_(x.detach().mean(0), 1 / self.count)


class MakesParametersLate(Scaled):
    def forward(self, x):
        if not hasattr(self, "late"):
            self.late = nn.Parameter(torch.zeros(x.shape[1], dtype=x.dtype))
        return super().forward(x) + self.late


FAULTY = {
    NoTensor: "check_meets_protocol",
    Transposed: "check_shape",
    Squeezes: "check_batch_sizes",
    FlipsGradient: "check_gradients",
    FlipsGradientInTraining: "check_gradients",
    DetachesPart: "check_gradients",
    DetachesAll: "check_gradients",
    UnusedParameter: "check_every_parameter_has_a_gradient",
    ZeroGradient: "check_every_parameter_has_a_gradient",
    WrongAxis: "check_samples_are_independent",
    BatchStatisticsBehindAZero: "check_samples_are_independent",
    DividesByBatchSize: "check_samples_are_independent",
    DropsInEval: "check_eval_is_repeatable",
    NumpyNoiseInEval: "check_eval_is_repeatable",
    UpdatesInEval: "check_eval_leaves_state",
    LeavesHook: "check_eval_leaves_state",
    SwitchesMode: "check_eval_leaves_state",
    SeedsInEval: "check_eval_leaves_random_state",
    ChangesInput: "check_inputs_unmodified",
    ChangesInputInTraining: "check_inputs_unmodified",
    Downcasts: "check_dtype_and_device_preserved",
    OverflowsInBfloat16: "check_dtype_and_device_preserved",
    StateOutsideStateDict: "check_state_round_trip",
    RunningStateOutsideStateDict: "check_state_round_trip",
    MakesParametersLate: "check_state_round_trip",
}


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def test_the_sound_layer_passes_every_check():
    report = check_layer(Scaled, VECTORS, shape=(4, 5), parameter_count=5, null=Scaled, baseline=Scaled)
    assert report.passed, str(report)
    assert {result.name for result in report.results} == {*FAULTY.values(), "check_parameter_count", "check_null"}


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = check_layer(faulty, VECTORS, shape=(4, 5))
    caught = {result.name: result for result in report.failures}
    assert FAULTY[faulty] in caught, str(report)
    assert not caught[FAULTY[faulty]].reason.startswith("it raised"), str(report)


def test_faults_of_facts_are_caught():
    assert failed(check_layer(Scaled, VECTORS, shape=(4, 6), parameter_count=10)) == {
        "check_shape",
        "check_parameter_count",
    }
    assert failed(check_layer(Scaled, VECTORS, shape=((4, 5), (4, 5)))) == {"check_shape"}
    assert "check_meets_protocol" in failed(check_layer(lambda: torch.tanh, VECTORS))


class OneBitOff(Scaled):
    def apply_weight(self, x):
        return torch.tanh(x * self.weight * 3 / 3)


class OtherGradient(Scaled):
    def apply_weight(self, x):
        return SignFlip.apply(super().apply_weight(x))


class OtherInTraining(Scaled):
    def update(self, x):
        super().update(x + 1)


@pytest.mark.parametrize("null", [OneBitOff, OtherGradient, DetachesAll, OtherInTraining])
def test_null_law_catches_one_bit_the_gradient_and_the_mode(null):
    assert failed(check_layer(Scaled, VECTORS, null=null, baseline=Scaled)) == {"check_null"}


def test_null_law_allows_further_parameters():
    assert check_layer(Scaled, VECTORS, null=UnusedParameter, baseline=Scaled).passed


def test_a_batch_is_needed():
    with pytest.raises(ValueError, match=r"inputs must hold at least 2 samples .* got shapes \[\(1, 5\)\]"):
        check_layer(Scaled, VECTORS[:1])


def test_several_outputs_and_inputs_that_are_no_tensors():
    class Several(nn.Module):
        def forward(self, x, power):
            return {"first": x**power, "rest": (x.sum(1), [x.mean(1, keepdim=True)])}

    assert check_layer(Several, VECTORS, 2, shape=((4, 5), (4,), (4, 1)), parameter_count=0).passed


CHANNELS, IMAGES, VOLUMES = normal(4, 4, 5), normal(3, 4, 6, 5), normal(3, 2, 4, 4, 4)
SEQUENCES = normal(3, 2, 4)
CONTROLS = [
    *(
        (activation, {}, (VECTORS,))
        for activation in (
            *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
            *(nn.Sigmoid, nn.LogSigmoid, nn.Hardsigmoid, nn.Tanh, nn.Hardtanh, nn.Tanhshrink, nn.Softplus, nn.Softsign),
            *(nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.Identity),
            *(nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout),
        )
    ),
    (nn.Threshold, {"threshold": 0.1, "value": 2.0}, (VECTORS,)),
    (nn.GLU, {"dim": 1}, (normal(4, 6),)),
    (nn.Softmax, {"dim": 1}, (VECTORS,)),
    (nn.Softmin, {"dim": 1}, (VECTORS,)),
    (nn.LogSoftmax, {"dim": 1}, (VECTORS,)),
    (nn.Softmax2d, {}, (IMAGES,)),
    (nn.BatchNorm1d, {"num_features": 5}, (VECTORS,)),
    (nn.BatchNorm2d, {"num_features": 4}, (IMAGES,)),
    (nn.BatchNorm3d, {"num_features": 2}, (VOLUMES,)),
    (nn.InstanceNorm1d, {"num_features": 4}, (CHANNELS,)),
    (nn.InstanceNorm2d, {"num_features": 4, "affine": True, "track_running_stats": True}, (IMAGES,)),
    (nn.InstanceNorm3d, {"num_features": 2}, (VOLUMES,)),
    (nn.GroupNorm, {"num_groups": 2, "num_channels": 4}, (IMAGES,)),
    (nn.LayerNorm, {"normalized_shape": 5}, (VECTORS,)),
    (nn.RMSNorm, {"normalized_shape": 5}, (VECTORS,)),
    (nn.CrossMapLRN2d, {"size": 2}, (IMAGES,)),
    (nn.Linear, {"in_features": 5, "out_features": 3}, (VECTORS,)),
    (nn.Bilinear, {"in1_features": 5, "in2_features": 3, "out_features": 2}, (VECTORS, normal(4, 3))),
    (nn.Conv2d, {"in_channels": 4, "out_channels": 2, "kernel_size": 3}, (IMAGES,)),
    (nn.ConvTranspose2d, {"in_channels": 4, "out_channels": 2, "kernel_size": 3}, (IMAGES,)),
    (nn.MaxPool2d, {"kernel_size": 2}, (IMAGES,)),
    (nn.AdaptiveAvgPool2d, {"output_size": 1}, (IMAGES,)),
    (nn.Upsample, {"scale_factor": 2, "mode": "bilinear"}, (IMAGES,)),
    (nn.PixelShuffle, {"upscale_factor": 2}, (IMAGES,)),
    (nn.Embedding, {"num_embeddings": 4, "embedding_dim": 3}, (torch.tensor([[0, 1], [2, 3], [1, 1]]),)),
    (nn.MultiheadAttention, {"embed_dim": 4, "num_heads": 2, "batch_first": True}, (SEQUENCES,) * 3),
    (
        nn.TransformerEncoderLayer,
        {"d_model": 4, "nhead": 2, "dim_feedforward": 6, "batch_first": True},
        (SEQUENCES,),
    ),
]
KNOWN_FAILURES = [
    # Its average pooling has no kernel for bfloat16 on the CPU.
    (nn.LocalResponseNorm, {"size": 2}, (IMAGES,), {"check_dtype_and_device_preserved"}),
    # Its samples lie along the second dimension.
    (
        nn.TransformerEncoderLayer,
        {"d_model": 4, "nhead": 2, "dim_feedforward": 6},
        (SEQUENCES,),
        {"check_samples_are_independent"},
    ),
    # Even with batch_first its last hidden state has the samples along the second dimension.
    (
        nn.GRU,
        {"input_size": 4, "hidden_size": 3, "batch_first": True},
        (SEQUENCES,),
        {"check_batch_sizes", "check_samples_are_independent"},
    ),
]


@pytest.mark.parametrize(
    ("layer", "arguments", "inputs", "expected"),
    [*((*control, set()) for control in CONTROLS), *KNOWN_FAILURES],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_torch_layers_pass(layer, arguments, inputs, expected):
    report = check_layer(partial(layer, **arguments), *inputs)
    assert failed(report) == expected, str(report)


def test_shared_networks_pass():
    image = normal(2, 1, 8, 8)
    for make in (nets.MLP, nets.LeNet, nets.ResNet, nets.ViT):
        report = check_layer(partial(make, (1, 8, 8), 3), image, shape=(2, 3))
        assert report.passed, f"{make.__name__}\n{report}"


def doubling_one_gradient_of_1000(factor):
    class Doubles(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            gradient = gradient.clone()
            gradient[0, 0] *= factor
            return gradient

    class Layer(nn.Module):
        def forward(self, x):
            return Doubles.apply(x).tanh()

    return Layer


@pytest.mark.parametrize(("factor", "expected"), [(1.0, set()), (2.0, {"check_gradients"}), (0.9, {"check_gradients"})])
def test_one_wrong_gradient_among_a_thousand_is_found(factor, expected):
    assert failed(check_layer(doubling_one_gradient_of_1000(factor), normal(4, 250))) == expected


def test_a_wrong_gradient_of_a_large_layer_is_found_without_its_jacobian():
    class Flips(nn.Linear):
        def forward(self, x):
            return SignFlip.apply(super().forward(x))

    assert failed(check_layer(partial(Flips, 1000, 300), normal(2, 1000))) == {"check_gradients"}


def test_subject_binds_bad_values_to_make_and_call():
    subject = LayerSubject(make=nn.Dropout, inputs=(VECTORS,), shape=(4, 5), parameter_count=0)
    with pytest.raises(ValueError, match="dropout probability"):
        subject.use(p=2.0)
    assert {"check_shape", "check_parameter_count"} <= layer_checks(subject).keys()
