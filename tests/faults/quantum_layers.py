"""Faults of quantum layers."""

from tests.faults.planting import Fault

QUBITS = "_qubits"

FAULTS = (
    Fault("no imaginary unit", "matrix_exp(1j * pauli_sum(theta))", "matrix_exp(pauli_sum(theta))"),
    Fault("the state of the last row", "psi = su_gate(theta)[..., :3, :1]", "psi = su_gate(theta)[..., :1, :3].mT"),
    Fault("a patch padded on the other side", "psi = su_gate(theta)[..., :3, :1]", "psi = su_gate(theta)[..., 1:, :1]"),
    Fault("the state transposed, not conjugated", "(psi @ psi.mH).real", "(psi @ psi.mT).real"),
    Fault("the sum over channels", "/ self.in_channels\n", "\n"),
    Fault("encoding not shared out", "0.5j / len(gates) *", "0.5j *"),
    Fault("inputs not made symmetric", "(matrices + matrices.mT)", "2 * matrices"),
    Fault("inputs doubled", "0.5j / len(gates)", "1j / len(gates)"),
    Fault("a state that is no unit", "size**-0.5)", "1 / size)"),
    Fault("parameters before inputs", "gate @ (encoded @ state)", "encoded @ (gate @ state)"),
    Fault("amplitudes in place of probabilities", ".abs().square()", ".abs()"),
    Fault("the real part alone", "state.squeeze(2).abs().square()", "state.squeeze(2).real.square()"),
    Fault("one qubit too many", "while 4**least < in_features", "while 4**least <= in_features"),
    Fault("too few basis states", " or 2**least < out_features", ""),
    Fault(
        "inputs filled up in front",
        "(0, self.weight.shape[1] + 1 - self.in_features)",
        "(self.weight.shape[1] + 1 - self.in_features, 0)",
    ),
    Fault("groups forgotten", " or part.groups > 1", ""),
    Fault(
        "dilation forgotten",
        "(part.kernel_size, part.dilation, part.stride[0]",
        "(part.kernel_size, (1, 1), part.stride[0]",
    ),
    Fault("padding mode forgotten", ' or part.padding_mode != "zeros"', ""),
    Fault("stride lost", "part.out_channels, part.stride[0], part", "part.out_channels, 1, part"),
    Fault("always a bias", "bias = part.bias is not None", "bias = True"),
    Fault(
        "qubits in the opposite order", "*axes[::2], *axes[1::2]", "*axes[::2][::-1], *axes[1::2][::-1]", part=QUBITS
    ),
    Fault("matrices transposed", "*axes[::2], *axes[1::2]", "*axes[1::2], *axes[::2]", part=QUBITS),
    Fault("the identity after the others", "F.pad(real, (1, 0))", "F.pad(real, (0, 1))", part=QUBITS),
    Fault("half precision", "theta.to(torch.promote_types(theta.dtype, torch.float32))", "theta", part=QUBITS),
)
