"""Quantum layers against products of Pauli matrices, patches measured one by one, and circuits by hand."""

import copy
import itertools
import math
import pickle
from functools import partial, reduce

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture._qubits import pauli_sum
from paperweight.architecture.quantum_layers import (
    DataReUploadingLinear,
    FlippedQuanv3x3,
    HybridNet,
    flipped_kernel,
    quantum_convolutions,
    reupload,
    su_gate,
)
from paperweight.nets import LeNet, ResNet, count_parameters
from paperweight.testing import FunctionSubject, LayerSubject

PAULI = {
    "I": torch.eye(2, dtype=torch.complex128),
    "X": torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128),
    "Y": torch.tensor([[0, -1j], [1j, 0]], dtype=torch.complex128),
    "Z": torch.tensor([[1, 0], [0, -1]], dtype=torch.complex128),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quantum_of(model: nn.Module) -> dict[str, Tensor]:
    """Make a copy of the model, with what is random drawn from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(quantum_convolutions(model).state_dict())


NOT_SIZES = (0, -1, 1.5, True)

CONTRACT = {
    "FlippedQuanv3x3": LayerSubject(
        make=lambda in_channels=2, out_channels=3, stride=2, padding=1: FlippedQuanv3x3(
            in_channels, out_channels, stride, padding
        ),
        inputs=(normal(3, 2, 6, 5).float(),),
        shape=(3, 3, 3, 3),
        parameter_count=3 * 2 * 15 + 3,
        bad={
            "in_channels": NOT_SIZES,
            "out_channels": NOT_SIZES,
            "stride": NOT_SIZES,
            "padding": (-1, 1.5, True, "same"),
        },
    ),
    "DataReUploadingLinear": LayerSubject(
        make=lambda in_features=5, out_features=3, qubits=2, reps=2: DataReUploadingLinear(
            in_features, out_features, qubits, reps
        ),
        inputs=(normal(3, 5).float(),),
        shape=(3, 3),
        parameter_count=2 * 15 + 3,
        bad={
            "in_features": NOT_SIZES,
            "out_features": NOT_SIZES,
            "qubits": (*NOT_SIZES, 1),
            "reps": NOT_SIZES,
        },
    ),
    "HybridNet": LayerSubject(
        make=lambda shape=(1, 6, 7), classes=3, widths=(2, 3): HybridNet(shape, classes, widths=widths),
        inputs=(normal(3, 1, 6, 7).float(),),
        shape=(3, 3),
        parameter_count=(2 * 15 + 2) + (3 * 2 * 15 + 3) + (10 * 63 + 3),
        bad={
            "shape": ((1, 4, 8), (1, 8, 4), (0, 8, 8)),
            "classes": NOT_SIZES,
            "widths": ((0, 2), (2, 0), (2, -1)),
        },
        null=lambda: HybridNet((1, 6, 7), 3, convolutions=False, linear=False, widths=(2, 3)),
        baseline=lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(18, 3)),
    ),
    "su_gate": FunctionSubject(
        make=su_gate,
        arguments={"theta": normal(2, 15)},
        bad={"theta": (normal(2, 16), normal(4), normal(0), torch.tensor(1.0))},
    ),
    "flipped_kernel": FunctionSubject(
        make=flipped_kernel, arguments={"theta": normal(2, 15)}, bad={"theta": (normal(2, 3), torch.tensor(1.0))}
    ),
    "reupload": FunctionSubject(
        make=reupload,
        arguments={"x": normal(3, 16), "theta": normal(2, 15, seed=1)},
        bad={"x": (normal(3, 15), normal(3, 4), normal(16)), "theta": (normal(2, 16), normal(15), normal(2, 3))},
    ),
    "quantum_convolutions": FunctionSubject(
        make=quantum_of,
        arguments={"model": nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU())},
        bad={"model": (nn.Linear(2, 2), nn.Conv2d(2, 2, 5))},
    ),
}


@pytest.mark.parametrize("qubits", [1, 2, 3])
def test_sums_of_pauli_matrices_are_those_of_their_kronecker_products(qubits):
    theta = normal(2, 4**qubits - 1)
    strings = list(itertools.product("IXYZ", repeat=qubits))[1:]
    products = torch.stack([reduce(torch.kron, [PAULI[letter] for letter in string]) for string in strings])
    torch.testing.assert_close(pauli_sum(theta), torch.einsum("bk,kij->bij", theta.to(products), products))


@pytest.mark.parametrize("qubits", [1, 2, 4])
def test_gates_are_unitary_with_determinant_1_and_undone_by_the_opposite(qubits):
    theta = normal(3, 4**qubits - 1)
    gates, unit = su_gate(theta), torch.eye(2**qubits, dtype=torch.complex128).expand(3, -1, -1)
    torch.testing.assert_close(gates @ gates.mH, unit)
    torch.testing.assert_close(gates @ su_gate(-theta), unit)
    torch.testing.assert_close(torch.linalg.det(gates), torch.ones(3, dtype=torch.complex128))


def test_a_turn_of_one_qubit_by_hand():
    # exp(i t Y) turns (1, 0) to (cos t, -sin t).
    found = su_gate(torch.tensor([0.0, 0.3, 0.0], dtype=torch.float64))
    expected = torch.tensor([[math.cos(0.3), math.sin(0.3)], [-math.sin(0.3), math.cos(0.3)]], dtype=torch.complex128)
    torch.testing.assert_close(found, expected)


def test_a_kernel_by_hand():
    # exp(i t IY) turns |00> to cos t |00> - sin t |01>.
    theta = torch.zeros(15, dtype=torch.float64)
    theta[1] = 0.3
    c, s = math.cos(0.3), math.sin(0.3)
    expected = torch.tensor([[c * c, -c * s, 0], [-c * s, s * s, 0], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(flipped_kernel(theta), expected)


def test_kernels_are_symmetric_without_negative_eigenvalues_and_have_a_trace_up_to_1():
    kernels = flipped_kernel(normal(200, 15))
    assert torch.equal(kernels, kernels.mT)
    assert torch.linalg.eigvalsh(kernels).min() > -1e-12
    traces = kernels.diagonal(dim1=1, dim2=2).sum(1)
    assert 0 < traces.min() < traces.max() <= 1 + 1e-12
    assert (kernels < -0.1).any()


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (1, 2)])
def test_a_quanvolution_is_every_patch_measured_in_the_state_of_its_channels(stride, padding):
    layer = FlippedQuanv3x3(2, 3, stride, padding).double()
    x = normal(2, 2, 5, 6)
    seen = F.pad(x, (padding,) * 4)
    found = layer(x)
    for n, out, row, column in itertools.product(range(2), range(3), range(found.shape[2]), range(found.shape[3])):
        total = 0.0
        for channel in range(2):
            top, left = row * stride, column * stride
            patch = F.pad(seen[n, channel, top : top + 3, left : left + 3], (0, 1, 0, 1)).to(torch.complex128)
            state = su_gate(layer.weight[out, channel]) @ torch.tensor([1, 0, 0, 0], dtype=torch.complex128)
            total += (state.conj() @ ((patch + patch.T) / 2) @ state).real.item()
        assert found[n, out, row, column].item() == pytest.approx(total / 2 + layer.bias[out].item(), abs=1e-12)


def test_without_parameters_the_first_pixel_of_each_patch_is_averaged_over_channels():
    layer = FlippedQuanv3x3(3, 2, bias=False)
    nn.init.zeros_(layer.weight)
    x = normal(2, 3, 6, 5).float()
    torch.testing.assert_close(layer(x), x[:, :, :-2, :-2].mean(1, keepdim=True).expand(-1, 2, -1, -1))


def test_a_linear_layer_is_a_circuit_of_one_example_at_a_time():
    layer = DataReUploadingLinear(13, 3, reps=4).double()
    x = normal(3, 13)
    for example, found in zip(x, layer(x), strict=True):
        matrix = torch.cat([example, torch.zeros(3)]).reshape(4, 4).to(torch.complex128)
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        encode = vectors @ torch.diag((1j * values / 4).exp()) @ vectors.mH
        state = torch.full((4,), 0.5, dtype=torch.complex128)
        for theta in layer.weight:
            state = su_gate(theta) @ (encode @ state)
        torch.testing.assert_close(found, (state.real**2 + state.imag**2)[:3] + layer.bias)


def test_one_qubit_by_hand():
    # H = x Z turns the phases of |+> by 2 x in all, and exp(i pi/4 Y) maps them to probabilities: (1 + cos 2x) / 2.
    x, theta = torch.tensor([[0.4, 0.0, 0.0, -0.4]], dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    theta[1, 1] = math.pi / 4
    expected = torch.tensor([[1 + math.cos(0.8), 1 - math.cos(0.8)]], dtype=torch.float64) / 2
    torch.testing.assert_close(reupload(x, theta), expected)


def test_probabilities_are_not_negative_and_add_up_to_1_for_inputs_of_any_size():
    for scale in (0.0, 1.0, 1e3):
        found = reupload(scale * normal(5, 64), normal(3, 63, seed=1))
        assert found.min() >= 0
        torch.testing.assert_close(found.sum(1), torch.ones(5, dtype=torch.float64))
    layer = DataReUploadingLinear(64, 8, reps=2)
    torch.testing.assert_close((layer(normal(5, 64).float()) - layer.bias).sum(1), torch.ones(5))


@pytest.mark.parametrize(
    ("inputs", "outputs", "qubits"),
    [(4, 2, 1), (5, 2, 2), (4, 3, 2), (64, 8, 3), (64, 10, 4), (65, 8, 4), (12544, 10, 7)],
)
def test_the_smallest_number_of_qubits_is_taken(inputs, outputs, qubits):
    with torch.device("meta"):
        assert DataReUploadingLinear(inputs, outputs).weight.shape == (10, 4**qubits - 1)
        assert DataReUploadingLinear(inputs, outputs, qubits + 1).weight.shape == (10, 4 ** (qubits + 1) - 1)


def test_other_numbers_of_dimensions_and_no_examples():
    layer = DataReUploadingLinear(5, 3, reps=2)
    x = normal(2, 4, 5).float()
    torch.testing.assert_close(layer(x), torch.stack([layer(part) for part in x]))
    torch.testing.assert_close(layer(x[0, 0]), layer(x)[0, 0])
    assert layer(x[:0]).shape == (0, 4, 3)
    assert FlippedQuanv3x3(1, 2)(torch.zeros(0, 1, 5, 4)).shape == (0, 2, 3, 2)
    with pytest.raises(ValueError, match=r"x must have shape \(..., 5\), got \(2, 4\)"):
        layer(torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("given", "types"),
    [
        ((True, True), [FlippedQuanv3x3, FlippedQuanv3x3, DataReUploadingLinear]),
        ((True, False), [FlippedQuanv3x3, FlippedQuanv3x3, nn.Linear]),
        ((False, True), [nn.Conv2d, nn.Conv2d, DataReUploadingLinear]),
        ((False, False), [nn.Conv2d, nn.Conv2d, nn.Linear]),
    ],
)
def test_the_layers_of_a_network_are_those_asked_for(given, types):
    model = HybridNet((3, 8, 8), 10, *given, widths=(4, 2))
    assert [type(layer) for layer in (*model.body[:2], model.head)] == types
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


def test_the_network_of_the_paper_has_its_numbers():
    with torch.device("meta"):
        assert count_parameters(HybridNet((1, 32, 32), 10)) == 32 * 15 + 32 + 16 * 32 * 15 + 16 + 10 * (4**7 - 1) + 10


def test_convolutions_by_3x3_kernels_are_replaced_with_their_geometry():
    model = ResNet((1, 8, 8), 3, depth=8, width=2)
    new = quantum_convolutions(model)
    places = {name: part for name, part in model.named_modules() if isinstance(part, nn.Conv2d)}
    x = normal(2, 2, 6, 6).float()
    for name, old in places.items():
        part = new.get_submodule(name)
        assert isinstance(part, FlippedQuanv3x3)
        assert (part.in_channels, part.out_channels, part.bias) == (old.in_channels, old.out_channels, None)
        if old.in_channels == 2:
            assert part(x).shape == old(x).shape
    assert new(normal(2, 1, 8, 8).float()).shape == (2, 3)


def test_what_is_no_plain_convolution_by_3x3_kernels_stays():
    class Doubled(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    kept = (
        nn.Conv2d(2, 2, 5),
        nn.Conv2d(2, 2, (3, 1)),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(2, 2, 3, dilation=2),
        nn.Conv2d(2, 2, 3, stride=(1, 2)),
        nn.Conv2d(2, 2, 3, padding=(1, 0)),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        Doubled(2, 2, 3),
    )
    new = quantum_convolutions(nn.Sequential(*kept, nn.Conv2d(2, 2, 3, stride=2, padding=1)))
    assert [type(part) for part in new[:-1]] == [type(part) for part in kept]
    assert (new[-1].stride, new[-1].padding) == (2, 1)
    with pytest.raises(ValueError, match="must hold a plain convolution by 3x3 kernels that is not frozen, got LeNet"):
        quantum_convolutions(LeNet((1, 12, 12), 3))


def test_copies_pickles_and_training():
    torch.manual_seed(0)
    model = HybridNet((1, 6, 6), 3, widths=(2, 2))
    x, labels = normal(9, 1, 6, 6).float(), torch.arange(9) % 3
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(model(x), labels))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.2
    gates = su_gate(model.head.weight)
    torch.testing.assert_close(gates @ gates.mH, torch.eye(4).to(gates).expand_as(gates), rtol=1e-4, atol=1e-4)


def test_the_loss_of_ten_equally_frequent_classes_has_the_bound_that_is_documented():
    best = F.cross_entropy(torch.eye(10), torch.arange(10)).item()
    assert best == pytest.approx(math.log(math.e + 9) - 1)
    assert 1.46 < best < 1.462


def test_half_precision_is_that_of_the_layer():
    build = partial(HybridNet, (1, 6, 6), 3, widths=(2, 2))
    torch.manual_seed(0)
    model = build()
    x = normal(4, 1, 6, 6)
    exact = copy.deepcopy(model).double()(x)
    torch.testing.assert_close(model(x.float()).double(), exact, rtol=1e-4, atol=1e-4)
    theta = normal(15).half()
    torch.testing.assert_close(su_gate(theta), su_gate(theta.double()).to(torch.complex64), rtol=1e-4, atol=1e-4)
    halved = model.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.double(), exact, rtol=0.1, atol=0.1)


def test_frozen_convolutions_stay():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
    model[0].requires_grad_(False)
    assert [type(layer).__name__ for layer in quantum_convolutions(model)] == ["Conv2d", "ReLU", "FlippedQuanv3x3"]


def test_complex_numbers_and_no_repetition_are_refused():
    with pytest.raises(ValueError, match="theta must be real"):
        su_gate(torch.zeros(3, dtype=torch.complex64))
    for x, theta in (
        (torch.zeros(2, 4, dtype=torch.complex64), torch.zeros(1, 3)),
        (torch.zeros(2, 4), torch.zeros(0, 3)),
    ):
        with pytest.raises(ValueError, match="x and theta must be real"):
            reupload(x, theta)
