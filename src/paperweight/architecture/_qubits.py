"""What quantum layers are made of: sums of Pauli matrices on several qubits, and the check of their sizes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["check_numbers", "pauli_sum"]

_PAULIS = torch.tensor(
    [[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], dtype=torch.complex128
)


def pauli_sum(theta: Tensor) -> Tensor:
    """Compute sum_k theta_k P_k over all strings of Pauli matrices of n qubits but the identity, qubit by qubit.

    Args:
        theta: Real numbers, (..., 4^n - 1), of the strings in the order of IX, IY, IZ, XI, XX and so on.

    Returns:
        Hermitian matrices without a trace, complex, of single precision at least, (..., 2^n, 2^n).

    Raises:
        ValueError: If ``theta`` is complex, or its last dimension not 3, 15, 63 and so on.
    """
    qubits = round(math.log(theta.shape[-1] + 1, 4)) if theta.ndim else 0
    if qubits < 1 or 4**qubits != theta.shape[-1] + 1 or theta.is_complex():
        raise ValueError(
            f"theta must be real, with 4^n - 1 numbers in its last dimension, got {theta.dtype} {tuple(theta.shape)}"
        )
    real = theta.to(torch.promote_types(theta.dtype, torch.float32))
    terms = F.pad(real, (1, 0)).to(real.dtype.to_complex()).unflatten(-1, (4,) * qubits)
    batch, paulis = theta.ndim - 1, _PAULIS.to(terms)
    for _ in range(qubits):
        terms = torch.tensordot(terms.movedim(batch, -1), paulis, dims=1)
    axes = range(batch, batch + 2 * qubits)
    terms = terms.permute(*range(batch), *axes[::2], *axes[1::2])
    return terms.reshape(*theta.shape[:-1], 2**qubits, 2**qubits)


def check_numbers(least: int, numbers: dict[str, int]) -> None:
    """Check that arguments are whole numbers of a minimum size.

    Raises:
        ValueError: If one is not.
    """
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {number!r}")
