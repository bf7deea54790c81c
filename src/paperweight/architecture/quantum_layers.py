"""Quantum layers that take the place of classical ones: a flipped quanvolution and a data re-uploading linear layer.

Layers of a small network are swapped one after the other for simulated qubits, which shows which of them costs
accuracy. In the convolution, parameters make a state of two qubits and a patch of the image is measured; in the linear
layer inputs and parameters turn a state in alternation, and the probabilities of its basis states are measured.
Cost: the convolution is computed exactly as one by a kernel made of its parameters, at about the cost of any; the
linear layer takes a matrix exponential of 2^n x 2^n for each example, n being the number of qubits.

Source:
    P. Wang, C. R. Myers, L. C. L. Hollenberg, U. Parampalli, "Let the Quantum Creep In: Designing Quantum Neural
    Network Models by Gradually Swapping Out Classical Components", 2024, https://arxiv.org/abs/2409.17583. Implemented:
    both layers and the network of three layers without activations, as read in the authors' code (MIT licence),
    https://github.com/peiyong-addwater/Let-The-Quantum-Creep-In.

Deviations:
    - A patch measured in a state is a sum of its pixels weighed by the real part of psi psi^H: this kernel is computed
      once for a batch and convolved with, where the authors measure each patch. The values are the same.
    - Parameters are real. In the authors' PyTorch code they are complex numbers, whose imaginary parts training moves,
      after which gates are no longer unitary; their JAX code has real ones.
    - `quantum_convolutions`, for any network, is not in the paper, nor a convolution without bias, which it needs.
"""

from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture._qubits import check_numbers, pauli_sum
from paperweight.catalogue import Paper
from paperweight.nets import replace_modules

__all__ = [
    "DataReUploadingLinear",
    "FlippedQuanv3x3",
    "HybridNet",
    "flipped_kernel",
    "quantum_convolutions",
    "reupload",
    "su_gate",
]

PAPER = Paper(
    title="Let the Quantum Creep In: Designing Quantum Neural Network Models by Gradually Swapping Out Classical "
    "Components",
    authors=("Peiyong Wang", "Casey R. Myers", "Lloyd C. L. Hollenberg", "Udaya Parampalli"),
    year=2024,
    url="https://arxiv.org/abs/2409.17583",
    provides={
        "FlippedQuanv3x3": "layer",
        "DataReUploadingLinear": "layer",
        "HybridNet": "network",
        "su_gate": "function",
        "flipped_kernel": "function",
        "reupload": "function",
        "quantum_convolutions": "function",
    },
    null={"convolutions": False, "linear": False},
    claim="Swapping classical layers for quantum ones, one after the other, shows what each costs in accuracy.",
)


def su_gate(theta: Tensor) -> Tensor:
    """Compute U(theta) = exp(i sum_k theta_k P_k) over all strings of Pauli matrices of n qubits but the identity.

    Args:
        theta: Real numbers, (..., 4^n - 1), of the strings in the order of IX, IY, IZ, XI, XX and so on.

    Returns:
        Unitary matrices, complex, (..., 2^n, 2^n).

    Raises:
        ValueError: If the last dimension of ``theta`` is not 3, 15, 63 and so on.

    Example:
        >>> su_gate(torch.zeros(15)).real.equal(torch.eye(4))
        True
    """
    return torch.linalg.matrix_exp(1j * pauli_sum(theta))


def flipped_kernel(theta: Tensor) -> Tensor:
    """Compute the kernel of a flipped quanvolution: Re(psi psi^H) for psi = U(theta) |00>, but its last row and column.

    With P, a 3x3 patch padded by zeros to 4x4, and O = (P + P^T) / 2, <psi|O|psi> is the sum of its pixels times this.

    Args:
        theta: As of `su_gate`, (..., 15).

    Returns:
        Symmetric matrices without a negative eigenvalue, whose trace is at most 1, real, (..., 3, 3).

    Raises:
        ValueError: If ``theta`` has another last dimension.

    Example:
        >>> flipped_kernel(torch.zeros(15)).tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if not theta.ndim or theta.shape[-1] != 15:
        raise ValueError(f"theta must have 15 numbers in its last dimension, got shape {tuple(theta.shape)}")
    psi = su_gate(theta)[..., :3, :1]
    return (psi @ psi.mH).real


def reupload(x: Tensor, theta: Tensor) -> Tensor:
    """Compute |<j|psi>|^2 for psi = U(theta_L) exp(iH/L) ... U(theta_1) exp(iH/L) |+...+>, H of the inputs.

    Args:
        x: Real inputs, (N, 4^n), which are made matrices X, and H = (X + X^T) / 2.
        theta: Parameters of L repetitions, (L, 4^n - 1).

    Returns:
        Probabilities of the basis states, (N, 2^n), real.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> reupload(torch.zeros(1, 4), torch.zeros(2, 3))
        tensor([[0.5000, 0.5000]])
    """
    if x.ndim != 2 or theta.ndim != 2 or theta.shape[1] != x.shape[1] - 1 or not len(theta) or x.is_complex():
        shapes = f"{tuple(x.shape)} and {tuple(theta.shape)}"
        raise ValueError(f"x and theta must be real, of shapes (N, 4^n) and (L, 4^n - 1), L at least 1, got {shapes}")
    gates = su_gate(theta)
    size = gates.shape[-1]
    matrices = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, (size, size))
    encoded = torch.linalg.matrix_exp(0.5j / len(gates) * (matrices + matrices.mT))
    state = encoded.new_full((len(x), size, 1), size**-0.5)
    for gate in gates:
        state = gate @ (encoded @ state)
    return state.squeeze(2).abs().square()


@final
class FlippedQuanv3x3(nn.Module):
    """A convolution by 3x3 kernels, each made by a gate of two qubits, in place of `torch.nn.Conv2d`.

    What a patch gives is averaged over the channels of the input. Kernels are those of `flipped_kernel`, no others.

    Args:
        in_channels: Channels of the input, at least 1.
        out_channels: Channels of the output, at least 1.
        stride: At least 1.
        padding: By zeros on each side, at least 0.
        bias: Whether each channel of the output has a learned number.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> FlippedQuanv3x3(3, 4)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 4, 6, 6])
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        check_numbers(1, {"in_channels": in_channels, "out_channels": out_channels, "stride": stride})
        check_numbers(0, {"padding": padding})
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        self.padding = padding
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 15))
        self.bias = nn.Parameter(torch.randn(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H', W'), as `torch.nn.Conv2d` has it."""
        kernel = flipped_kernel(self.weight).to(self.weight.dtype) / self.in_channels
        return F.conv2d(x, kernel, self.bias, self.stride, self.padding)


@final
class DataReUploadingLinear(nn.Module):
    """Probabilities of the first basis states of `reupload`, and a bias, in place of `torch.nn.Linear`.

    Before the bias, outputs are in [0, 1] and their sum is at most 1; as logits they leave a cross-entropy of 1.46 nats
    or more where ten classes are equally frequent.

    Args:
        in_features: Numbers of the input, at least 1, filled up by zeros to 4^qubits.
        out_features: Numbers of the output, at least 1.
        qubits: So many that 4^qubits is at least ``in_features``, and 2^qubits at least ``out_features``; the smallest
            such number where left out.
        reps: L, how often inputs and parameters turn the state, at least 1; the authors have 10.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> DataReUploadingLinear(45, 6)(torch.zeros(2, 45)).shape
        torch.Size([2, 6])
    """

    def __init__(self, in_features: int, out_features: int, qubits: int | None = None, reps: int = 10) -> None:
        check_numbers(1, {"in_features": in_features, "out_features": out_features, "reps": reps})
        least = 1
        while 4**least < in_features or 2**least < out_features:
            least += 1
        check_numbers(least, {"qubits": least if qubits is None else qubits})
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.qubits = qubits
        self.reps = reps
        self.weight = nn.Parameter(torch.randn(reps, 4 ** (least if qubits is None else qubits) - 1))
        self.bias = nn.Parameter(torch.randn(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        if not x.ndim or x.shape[-1] != self.in_features:
            raise ValueError(f"x must have shape (..., {self.in_features}), got {tuple(x.shape)}")
        filled = F.pad(x.reshape(-1, self.in_features), (0, self.weight.shape[1] + 1 - self.in_features))
        outputs = reupload(filled, self.weight)[:, : self.out_features].to(self.weight.dtype) + self.bias
        return outputs.reshape(*x.shape[:-1], self.out_features)


@final
class HybridNet(nn.Module):
    """Two convolutions and a linear layer, without activations, of which layers are quantum or classical.

    Args:
        shape: Channels, height and width of one image, at least 1, 5 and 5.
        classes: Number of logits.
        convolutions: Whether the convolutions are quantum, from the paper's first level on.
        linear: Whether the linear layer is quantum, as in its second level.
        widths: Channels of the convolutions; the paper's are 32 and 16.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> HybridNet((1, 8, 8), 10, widths=(4, 4))(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        convolutions: bool = True,
        linear: bool = True,
        widths: tuple[int, int] = (32, 16),
    ) -> None:
        channels, height, width = shape
        if channels < 1 or min(height, width) < 5:
            raise ValueError(f"shape must have a channel and sides of at least 5, got {shape}")
        check_numbers(1, {"classes": classes, "widths": min(widths)})
        super().__init__()
        self.shape = shape
        self.classes = classes
        self.convolutions = convolutions
        self.linear = linear
        self.widths = widths
        convolution = FlippedQuanv3x3 if convolutions else lambda inputs, outputs: nn.Conv2d(inputs, outputs, 3)
        self.body = nn.Sequential(convolution(channels, widths[0]), convolution(*widths), nn.Flatten())
        numbers = widths[1] * (height - 4) * (width - 4)
        self.head = DataReUploadingLinear(numbers, classes) if linear else nn.Linear(numbers, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        return self.head(self.body(x))


def quantum_convolutions(model: nn.Module) -> nn.Module:
    """Copy a model with a new `FlippedQuanv3x3` in place of each plain convolution by 3x3 kernels.

    Those are not frozen, without groups and dilation, padded by zeros, with one stride and one padding for both sides.

    Args:
        model: The model, which stays as it was.

    Returns:
        The copy, which is to be trained after.

    Raises:
        InputError: If there is nothing to replace.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 5))
        >>> [type(layer).__name__ for layer in quantum_convolutions(model)]
        ['FlippedQuanv3x3', 'ReLU', 'Conv2d']
    """

    def matches(_: str, part: Any) -> bool:
        if type(part) is not nn.Conv2d or part.groups > 1 or part.padding_mode != "zeros":
            return False
        if not part.weight.requires_grad:
            return False
        shape = (part.kernel_size, part.dilation, part.stride[0], part.padding)
        return shape == ((3, 3), (1, 1), part.stride[1], (part.padding[0],) * 2)

    def build(part: Any) -> nn.Module:
        bias = part.bias is not None
        return FlippedQuanv3x3(part.in_channels, part.out_channels, part.stride[0], part.padding[0], bias)

    return replace_modules(model, matches, build, wanted="a plain convolution by 3x3 kernels that is not frozen")
