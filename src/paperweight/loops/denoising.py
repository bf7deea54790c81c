"""Training of a diffusion model that can be saved at any step and goes on as if it had never stopped."""

import hashlib
import math
from pathlib import Path
from typing import cast, final

import torch
from torch import Tensor

from paperweight.errors import InputError
from paperweight.generators.model import DiffusionModel, denoising_loss, read_tensors, write_tensors
from paperweight.loops.core import OnStep, minimise
from paperweight.loops.generative import ExponentialMovingAverage

__all__ = ["DenoiserTraining"]


@final
class DenoiserTraining:
    """Trains a diffusion model by AdamW, with a moving average of its weights.

    What is random in a step is a function of ``seed`` and the number of the step alone, so that a training that was
    saved and loaded gives the bits of one that was not. Each epoch is a fresh shuffle; samples left over by full
    batches sit it out.

    Args:
        model: The model, trained in place.
        lr: Step size of AdamW, at least 0.
        batch_size: Samples a step, at least 1; all of them where there are fewer.
        decay: Weight of the past in the moving average, in [0, 1].
        label_dropout: Share of the samples shown without their label, in [0, 1]; above 0 for guidance.
        seed: Source of shuffles, times, noise and dropped labels, at least 0.

    Raises:
        ValueError: If a number is outside its range.

    Attributes:
        step: Number of steps taken.

    Example:
        >>> from paperweight.generators import ModelSpec
        >>> training = DenoiserTraining(ModelSpec(shape=(1, 8, 8), arguments={"width": 16}).build(), batch_size=4)
        >>> training.run(torch.rand(12, 1, 8, 8), None, 3).shape, training.step
        (torch.Size([3]), 3)
    """

    def __init__(
        self,
        model: DiffusionModel,
        *,
        lr: float = 1e-3,
        batch_size: int = 64,
        decay: float = 0.995,
        label_dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not 0 <= lr < math.inf:
            raise ValueError(f"lr must be at least 0 and finite, got {lr}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= label_dropout <= 1:
            raise ValueError(f"label_dropout must be in [0, 1], got {label_dropout}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        self.batch_size = batch_size
        self.label_dropout = label_dropout
        self.seed = seed
        self.step = 0
        self._ema = ExponentialMovingAverage(model, decay)

    @property
    def average(self) -> DiffusionModel:
        """The model with averaged weights, in eval mode; it goes on changing with every step."""
        return cast(DiffusionModel, self._ema.average)

    def run(self, images: Tensor, labels: Tensor | None, steps: int, *, on_step: OnStep | None = None) -> Tensor:
        """Take further steps.

        Args:
            images: The images in [0, 1], (N, C, H, W), on the model's device; the same in every call.
            labels: Their labels, (N,), or None.
            steps: Number of steps, at least 1.
            on_step: Called after every step, with its number from 0 in this call and its loss.

        Returns:
            The loss of every step taken, (steps,); shorter after a divergence.

        Raises:
            ValueError: If there are no images, not one label an image, or ``steps`` is below 1.
        """
        if not len(images):
            raise ValueError("images must hold at least one, got none")
        if labels is not None and labels.shape != (len(images),):
            raise ValueError(f"labels must have shape ({len(images)},), one for each image, got {tuple(labels.shape)}")
        size = min(self.batch_size, len(images))
        each = len(images) // size
        first = self.step
        order = torch.empty(0, dtype=torch.int64)

        def batch_of(step: int) -> tuple[Tensor, torch.Generator]:
            nonlocal order
            epoch, place = divmod(step, each)
            if place == 0 or step == first:
                order = torch.randperm(len(images), generator=self._generator("epoch", epoch))
            return order[place * size : (place + 1) * size].to(images.device), self._generator("step", step)

        def loss(batch: tuple[Tensor, torch.Generator]) -> Tensor:
            index, generator = batch
            chosen = None if labels is None else labels[index]
            return denoising_loss(self.model, images[index], chosen, generator, self.label_dropout)

        def after(step: int, value: Tensor) -> None:
            self._ema.update(self.model)
            self.step += 1
            if on_step is not None:
                on_step(step, value)

        self.model.train()
        batches = (batch_of(step) for step in range(first, first + steps))
        return minimise(loss, self.optimizer, batches, steps=steps, on_step=after)

    def save(self, path: str | Path) -> None:
        """Write model, average, optimizer and step to a safetensors file, whole or not at all.

        Raises:
            InputError: If the file cannot be written.
        """
        write_tensors(path, self._tensors(), self.model.spec, {"step": self.step, "seed": self.seed})

    def load(self, path: str | Path) -> None:
        """Take over what `save` wrote; the arguments of this object are those of the training that is to go on.

        Raises:
            InputError: If the file is missing, damaged, or of another model or seed; this object is then as it was.
        """
        tensors, spec, facts = read_tensors(path)
        if spec != self.model.spec:
            raise InputError(f"checkpoint {path} is of another model: {spec}, wanted {self.model.spec}")
        step = facts.get("step")
        if facts.get("seed") != self.seed or not isinstance(step, int) or step < 0:
            raise InputError(f"checkpoint {path} must be of a training with seed {self.seed}, its facts are {facts}")
        states = self._states(path, tensors)
        self.model.load_state_dict(_part(tensors, "model."))
        self._ema.load_state_dict(_part(tensors, "average."))
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        self.step = step

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self._ema.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        return tensors

    def _states(self, path: str | Path, tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """Give the state of the optimizer, after a look whether every tensor of the file is in its place."""
        wanted = {name: value.shape for name, value in self._tensors().items() if not name.startswith("optimizer.")}
        states: dict[int, dict[str, Tensor]] = {}
        for index, weight in enumerate(self.model.parameters()):
            state = _part(tensors, f"optimizer.{index}.")
            if state:
                states[index] = state
                shapes = {"step": torch.Size(), "exp_avg": weight.shape, "exp_avg_sq": weight.shape}
                wanted |= {f"optimizer.{index}.{name}": shape for name, shape in shapes.items()}
        found = {name: value.shape for name, value in tensors.items()}
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if wrong:
            raise InputError(
                f"the tensors in checkpoint {path} do not fit the model, the first is {wrong[0]}: "
                f"{found.get(wrong[0])}, wanted {wanted.get(wrong[0])}; load it with the network that it was saved with"
            )
        return states

    def _generator(self, use: str, number: int) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}/{use}/{number}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
