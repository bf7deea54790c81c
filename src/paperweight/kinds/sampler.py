"""The kind "sampler": what draws samples from a trained model."""

from typing import Any, Protocol

__all__ = ["Sampler"]


class Sampler(Protocol):
    """A callable that maps a trained network and standard normal noise to samples of the noise's shape.

    It scales the noise itself. A stochastic one takes the rest of its randomness from the keyword ``generator`` of the
    call. The contract, each law with the check that holds it:

    - It gives finite samples of the shape of the noise (`check_meets_protocol`).
    - Given the exact network for Gaussian data, the samples have their mean and covariance (`check_gaussian_moments`).
    - It calls the network as often as it declares (`check_network_calls`).
    - If it is deterministic, its error falls with the declared order as the steps double
      (`check_order_of_convergence`).
    - The network keeps weights, gradients, mode and hooks (`check_network_unmodified`).
    - The noise is not modified (`check_noise_unmodified`).
    - The same noise and generator give the same bits, whatever the global random state, and another generator others
      (`check_repeatable`).
    - The global random state is untouched (`check_global_random_state`).
    - The samples have the dtype and device of the noise (`check_dtype_and_device_preserved`).
    - At its null setting it gives what its baseline gives, bit for bit (`check_null`).

    Example:
        >>> import torch
        >>> sampler: Sampler = lambda network, noise: network(noise, 1.0)
        >>> sampler(torch.mul, torch.ones(2))
        tensor([1., 1.])
    """

    def __call__(self, network: Any, noise: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Give the samples; the last two stand for what it takes beside, ``generator`` among them."""
        ...
