"""Simulation of private federated learning that keeps one model and lets the users be data (pfl-research).

A simulation needs no server, no clients and no messages: for each user of a round the global weights are copied into
the one resident model, it is trained on the user's data, and the difference is added to a running sum, in place.
Cost: two copies of the weights, however many users, and under SCAFFOLD one for each that has taken part; beside its
training a copy and a difference of the weights a user.

Source:
    F. Granqvist, C. Song, Á. Cahill, R. van Dalen, M. Pelikan, Y. S. Chan, X. Feng, N. Krishnaswami, V. Jina, M.
    Chitnis, "pfl-research: simulation framework for accelerating research in Private Federated Learning", NeurIPS 2024,
    https://arxiv.org/abs/2404.06430, and the authors' code, https://github.com/apple/pfl-research (Apache 2.0).
    Implemented: the round of the simulated backend with clipping, weighting, noise of a larger cohort and a central
    optimizer; FedAvg, FedProx, SCAFFOLD by its second option; the greedy schedule. ``_accountant.py`` counts privacy.

Deviations:
    - The authors' code starts several workers itself; here a caller does, and adds up what they gather.
    - A user's update is clipped before it is weighted, and with noise all weights are 1, since the noise covers an
      update of norm ``clip``. With noise SCAFFOLD is refused: its control variates would leave without any.
    - Left out: callbacks, loading ahead, local privacy, quantisation, models without gradients, adaptive algorithms.
    - Buffers, such as running means, are the global model's again after each user, and stay as they are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.federated._schedule import check_whole, schedule_users

__all__ = ["FederatedSimulator", "schedule_users"]

PAPER = Paper(
    title="pfl-research: simulation framework for accelerating research in Private Federated Learning",
    authors=(
        "Filip Granqvist",
        "Congzheng Song",
        "Áine Cahill",
        "Rogier van Dalen",
        "Martin Pelikan",
        "Yi Sheng Chan",
        "Xiaojun Feng",
        "Natarajan Krishnaswami",
        "Vojta Jina",
        "Mona Chitnis",
    ),
    year=2024,
    url="https://arxiv.org/abs/2404.06430",
    provides={"FederatedSimulator": "training-procedure", "schedule_users": "function"},
    claim="Federated learning is simulated several times faster with one resident model than with a copy a client.",
)

Cohort = Sequence[tuple[int, int]]  # users, each with the seed of its shuffles


def clip_update(update: Sequence[Tensor], clip: float) -> None:
    """Scale an update in place to a norm, over all its tensors, of at most ``clip``."""
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in update]))
    for part in update:
        part.mul_((clip / norm).clamp(max=1.0))


@final
class FederatedSimulator:
    """Trains a model in place by simulated federated learning, round by round.

    A call of `step` is a round: a cohort is drawn, each of its users trains the model from the global weights by SGD on
    its own data, and the optimizer steps on the mean difference as if it were the gradient. SGD at rate 1 makes it
    FedAvg. With several workers, each draws the `cohort` with a generator of the same seed, calls `gather` on its share
    of it, and `update` with the sums over all workers; SCAFFOLD needs a user always at the same worker.

    Args:
        model: What is trained, in train mode; those of its parameters that require a gradient.
        optimizer: The central one, holding those parameters; steps without a closure.
        users: For each user the inputs, (N, ...), and labels, (N, ...), N at least 1, on the model's device.
        algorithm: "fedavg", "fedprox" or "scaffold".
        cohort_size: Users a round, at least 1 and at most all.
        local_epochs: Passes over a user's data, at least 1.
        local_lr: Learning rate of a user, above 0.
        batch_size: Samples a local batch, at least 1; the last one may be smaller.
        proximal: FedProx's pull to the global weights, mu, at least 0.
        weighting: What a user counts for: its "samples", or "uniform".
        clip: Largest norm of an update, above 0.
        noise_multiplier: Standard deviation of the noise on the sum, over ``clip``, at least 0.
        noise_cohort: Users a round of what is simulated, at least 1: the noise is scaled by ``cohort_size`` over it, so
            that the mean has as much as there. By default the cohort's own size.
        loss: Maps outputs and labels of a batch to a scalar; cross-entropy by default.
        generator: Source of cohorts, shuffles and noise.

    Raises:
        ValueError: If an argument is outside its range, or noise comes with weights, without a norm or with SCAFFOLD.

    Attributes:
        samples: Number of samples whose gradients were evaluated.

    Example:
        >>> model, draw = nn.Linear(2, 2), torch.Generator().manual_seed(0)
        >>> users = [(torch.rand(5, 2), torch.arange(5) % 2) for _ in range(8)]
        >>> central = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> simulator = FederatedSimulator(model, central, users, cohort_size=4, generator=draw)
        >>> simulator.step()
        >>> simulator.samples
        20
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        users: Sequence[tuple[Tensor, Tensor]],
        algorithm: str = "fedavg",
        cohort_size: int = 50,
        local_epochs: int = 1,
        local_lr: float = 0.1,
        batch_size: int = 10,
        proximal: float = 0.01,
        weighting: str = "samples",
        clip: float = math.inf,
        noise_multiplier: float = 0.0,
        noise_cohort: int | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        *,
        generator: torch.Generator,
    ) -> None:
        if algorithm not in ("fedavg", "fedprox", "scaffold"):
            raise ValueError(f"algorithm must be fedavg, fedprox or scaffold, got {algorithm!r}")
        if weighting not in ("samples", "uniform"):
            raise ValueError(f"weighting must be samples or uniform, got {weighting!r}")
        check_whole("local_epochs", local_epochs)
        check_whole("batch_size", batch_size)
        check_whole("cohort_size", cohort_size, most=len(users))
        check_whole("noise_cohort", cohort_size if noise_cohort is None else noise_cohort)
        if not local_lr > 0 or not clip > 0:
            raise ValueError(f"local_lr and clip must be above 0, got {local_lr} and {clip}")
        if not 0 <= proximal < math.inf or not 0 <= noise_multiplier < math.inf:
            raise ValueError(f"proximal and noise_multiplier must be at least 0, got {proximal} and {noise_multiplier}")
        if noise_multiplier and (clip == math.inf or weighting != "uniform" or algorithm == "scaffold"):
            raise ValueError(
                "noise_multiplier above 0 must come with a finite clip, uniform weighting and no scaffold, got "
                f"{noise_multiplier} with clip {clip}, {weighting} and {algorithm}"
            )
        if any(len(inputs) != len(labels) or not len(inputs) for inputs, labels in users):
            raise ValueError(
                "users must each have at least one input, and a label for every input; drop users without data"
            )
        self.model, self.optimizer, self.users, self.loss = model, optimizer, users, loss
        self.cohort_size, self.weighting, self.clip, self.generator = cohort_size, weighting, clip, generator
        self.algorithm, self.proximal, self.local_lr, self.batch_size = algorithm, proximal, local_lr, batch_size
        self.noise_multiplier, self.noise_cohort, self.local_epochs = noise_multiplier, noise_cohort, local_epochs
        self.sigma = noise_multiplier * clip * cohort_size / (noise_cohort or cohort_size) if noise_multiplier else 0.0
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._start = [parameter.detach().clone() for parameter in self._parameters]
        self.samples, self._shuffles = 0, torch.Generator()
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        self._noise = torch.Generator(generator.device).manual_seed(seed)  # so that noise changes no cohort
        self._control = [torch.zeros_like(start) for start in self._start] if algorithm == "scaffold" else []
        self._controls: dict[int, list[Tensor]] = {}

    def step(self) -> None:
        """Train for one round."""
        self.update(self.gather(self.cohort()))

    def cohort(self) -> Cohort:
        """Draw the users of a round, each with the seed of its shuffles."""
        source = {"generator": self.generator, "device": self.generator.device}
        chosen = torch.randperm(len(self.users), **source)[: self.cohort_size]
        return list(zip(chosen.tolist(), torch.randint(2**62, chosen.shape, **source).tolist(), strict=True))

    def gather(self, cohort: Cohort) -> list[Tensor]:
        """Train each user in turn and sum up the weighted differences; the model then has the global weights again.

        Args:
            cohort: The users of a round, or a worker's share of them.

        Returns:
            A sum for each parameter, under SCAFFOLD another for each, of changes of control variates, and the sum of
            the weights, a scalar.
        """
        sums = [torch.zeros_like(start) for start in (*self._start, *self._control)]
        total = torch.zeros((), device=self._start[0].device)
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        self.model.train()
        with torch.no_grad():
            for parameter, start in zip(self._parameters, self._start, strict=True):
                start.copy_(parameter)
            for user, seed in cohort:
                steps = self._descend(user, seed)
                weight = len(self.users[user][0]) if self.weighting == "samples" else 1
                difference = [a - b for a, b in zip(self._start, self._parameters, strict=True)]
                changes = self._changed_controls(user, difference, steps) if self._control else []
                if self.clip < math.inf:
                    clip_update(difference, self.clip)
                for running, change in zip(sums, (*difference, *changes), strict=True):
                    running.add_(change, alpha=weight)
                total += weight
                for kept, value in (*zip(self._parameters, self._start, strict=True), *buffers):
                    kept.copy_(value)
        return [*sums, total]

    def _descend(self, user: int, seed: int) -> int:
        """Train the model on a user's data, and give the number of steps."""
        inputs, labels = self.users[user]
        own = self._controls.get(user, [torch.zeros_like(c) for c in self._control])
        drift = [a - b for a, b in zip(self._control, own, strict=True)]
        shuffles, steps = self._shuffles.manual_seed(seed), 0
        for _ in range(self.local_epochs):
            for batch in torch.randperm(len(inputs), generator=shuffles).to(inputs.device).split(self.batch_size):
                with torch.enable_grad():
                    loss = self.loss(self.model(inputs[batch]), labels[batch])
                gradients = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
                for number, (parameter, gradient) in enumerate(zip(self._parameters, gradients, strict=True)):
                    if drift:
                        gradient = gradient + drift[number]
                    if self.algorithm == "fedprox" and self.proximal:
                        gradient = gradient + self.proximal * (parameter - self._start[number])
                    parameter.sub_(gradient, alpha=self.local_lr)
                steps += 1
            self.samples += len(inputs)
        return steps

    def _changed_controls(self, user: int, difference: list[Tensor], steps: int) -> list[Tensor]:
        """Set SCAFFOLD's control variate of a user, c_i - c + (x - y) / (K lr), and give the changes."""
        changes = [d / (steps * self.local_lr) - c for d, c in zip(difference, self._control, strict=True)]
        own = self._controls.get(user, [torch.zeros_like(change) for change in changes])
        self._controls[user] = [a + b for a, b in zip(own, changes, strict=True)]
        return changes

    @torch.no_grad()
    def update(self, sums: Sequence[Tensor]) -> None:
        """Add the noise to the sums over the whole cohort, and let the optimizer step on the mean.

        Args:
            sums: What `gather` gave, added up over the workers.
        """
        *totals, weight = sums
        for parameter, total in zip(self._parameters, totals, strict=False):
            if self.sigma:
                noise = torch.empty_like(total, device=self._noise.device).normal_(generator=self._noise)
                total = total + self.sigma * noise.to(total.device)
            parameter.grad = total / weight
        self.optimizer.step()
        self.optimizer.zero_grad()
        changes = zip(self._control, totals[len(self._parameters) :], strict=True)
        self._control = [c + change / weight * (self.cohort_size / len(self.users)) for c, change in changes]

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights, the generator's state among it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "generators": (self.generator.get_state(), self._noise.get_state()),
            "control": self._control,
            "controls": dict(self._controls),
            "samples": self.samples,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        for generator, state in zip((self.generator, self._noise), state_dict["generators"], strict=True):
            generator.set_state(state)
        self._control = list(state_dict["control"])
        self._controls = dict(state_dict["controls"])
        self.samples = state_dict["samples"]
