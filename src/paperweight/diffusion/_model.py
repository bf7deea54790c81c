"""A diffusion model as one object: network, schedule, what is predicted, labels; its loss, its samples, its file."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.diffusion._checkpoint import read_file, write_file
from paperweight.diffusion._process import (
    NoiseSchedule,
    Prediction,
    add_noise,
    cosine_schedule,
    linear_schedule,
    normal,
    split_prediction,
    target,
)
from paperweight.diffusion._protocol import ConditionalDiffusion, predicted_noise
from paperweight.errors import InputError
from paperweight.nets import MLPDenoiser, TokenDenoiser, UNet

__all__ = [
    "ConditionalDiffusion",
    "DiffusionModel",
    "ModelSpec",
    "denoising_loss",
    "load_model",
    "predicted_noise",
    "read_tensors",
    "write_tensors",
]

_NETWORKS = ("mlp", "token", "unet")
_FORMAT = "paperweight diffusion model 1"


def _scaled_linear(steps: int) -> NoiseSchedule:
    """Scale the betas of 1000 times to others, so that the last time is as near to pure noise; at most 0.999."""
    return linear_schedule(steps, 0.1 / steps, min(20 / steps, 0.999))


_SCHEDULES = {"cosine": cosine_schedule, "linear": _scaled_linear}


@final
@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a diffusion model is built from; it is stored beside the weights.

    Args:
        shape: Shape (C, H, W) of one image.
        network: ``mlp``, ``token`` or ``unet``, or ``custom`` where the network is made elsewhere.
        arguments: Further arguments of the network.
        schedule: ``cosine`` or ``linear``, whose betas are scaled by 1000 / ``steps``.
        steps: Number of training times.
        prediction: What the network predicts: ``eps``, ``x0`` or ``v``.
        classes: Number of classes, 0 for a model without labels.
        condition_dim: Size of the embedding of a label.

    Raises:
        InputError: If a value is not one of these.

    Example:
        >>> ModelSpec(shape=(1, 8, 8), classes=10).build().condition(torch.tensor([3]), 1).shape
        torch.Size([1, 1, 32])
    """

    shape: tuple[int, int, int]
    network: str = "mlp"
    arguments: dict[str, int] = field(default_factory=dict[str, int])
    schedule: str = "cosine"
    steps: int = 200
    prediction: Prediction = "eps"
    classes: int = 0
    condition_dim: int = 32

    def __post_init__(self) -> None:
        known = {
            "network": (*_NETWORKS, "custom"),
            "schedule": tuple(_SCHEDULES),
            "prediction": ("eps", "x0", "v"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise InputError(
                    f"{name} of a diffusion model must be one of {', '.join(values)}; got {getattr(self, name)!r}"
                )
        sides = (*self.shape, self.steps, self.condition_dim)
        if len(self.shape) != 3 or not all(isinstance(n, int) and n >= 1 for n in sides):
            raise InputError(
                f"shape of a diffusion model must be (channels, height, width), steps and condition_dim at least 1; "
                f"got {self.shape}, {self.steps} and {self.condition_dim}"
            )
        if not isinstance(self.classes, int) or self.classes < 0:
            raise InputError(f"classes of a diffusion model must be a whole number of at least 0, got {self.classes!r}")

    def build(self, network: nn.Module | None = None) -> "DiffusionModel":
        """Make the model with new weights, from the global random state.

        Args:
            network: The network of a ``custom`` spec: maps images with noise, times (N,) of a range of 0 to 1000 and,
                where there are classes, tokens of the condition (N, 1, condition_dim) to images.

        Raises:
            InputError: If a network is missing, or given and not wanted, or cannot be built from the arguments.
        """
        if (network is None) == (self.network == "custom"):
            wanted = "must be given for" if network is None else "must not be given but for"
            raise InputError(f"network {wanted} a diffusion model whose network is 'custom'")
        return DiffusionModel(self, network or self._network())

    def _network(self) -> nn.Module:
        condition_dim = self.condition_dim if self.classes else 0
        makers: dict[str, Callable[..., nn.Module]] = {
            "mlp": lambda **more: MLPDenoiser(self.shape, condition_dim=condition_dim, **more),
            "token": lambda **more: TokenDenoiser(self.shape, condition_dim=condition_dim, **more),
            "unet": lambda **more: UNet(self.shape[0], condition_dim=condition_dim, **more),
        }
        try:
            return makers[self.network](**self.arguments)
        except (TypeError, ValueError) as error:
            given = f"images of shape {self.shape} with {self.arguments}"
            raise InputError(f"network {self.network!r} cannot be built for {given}: {error}") from error


@final
class DiffusionModel(nn.Module):
    """A network with its schedule and labels; images in [0, 1] are diffused as 2 x - 1.

    Args:
        spec: What it is built from.
        network: Maps images with noise (N, C, H, W), times (N,) of a range of 0 to 1000 and, where there are classes,
            tokens of the condition (N, 1, condition_dim) to images.

    Example:
        >>> model = ModelSpec(shape=(1, 8, 8)).build()
        >>> model.eps(torch.zeros(2, 1, 8, 8), torch.tensor([0, 199]), None).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, spec: ModelSpec, network: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        self.schedule = _SCHEDULES[spec.schedule](spec.steps)
        self.clamp: tuple[float, float] | None = (-1.0, 1.0)
        self.labels = nn.Embedding(spec.classes + 1, spec.condition_dim) if spec.classes else None

    def condition(self, given: Tensor | None, count: int) -> Tensor | None:
        """Give the embeddings of labels, (count, 1, condition_dim).

        Args:
            given: Labels, int64, (count,), where ``classes`` stands for no label; None for no label at all.
            count: Number of samples.

        Raises:
            ValueError: If there is not one label within 0 and ``classes`` a sample.
        """
        if self.labels is None:
            return None
        if given is None:
            given = torch.full((count,), self.spec.classes, device=self.labels.weight.device)
        if given.shape != (count,) or ((given < 0) | (given > self.spec.classes)).any():
            raise ValueError(f"labels must be {count} numbers from 0 to {self.spec.classes}, got {given.tolist()}")
        return self.labels(given.to(self.labels.weight.device))[:, None]

    def output(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Call the network: z (N, C, H, W) at training times t (N,) gives what it predicts, the shape of z."""
        scaled = t * (1000 / self.spec.steps)
        return self.network(z, scaled) if condition is None else self.network(z, scaled, condition)

    def eps(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Predict the noise in z (N, C, H, W) at training times t (N,)."""
        abar = self.schedule.abar[t.cpu()]
        return split_prediction(z, self.output(z, t, condition), abar, self.spec.prediction)[1]

    def encode(self, images: Tensor) -> Tensor:
        """Map images in [0, 1] to [-1, 1]."""
        return 2 * images - 1

    def decode(self, z: Tensor) -> Tensor:
        """Map [-1, 1] to images in [0, 1]."""
        return (z + 1) / 2

    def latent_mask(self, mask: Tensor) -> Tensor:
        """Give the mask itself: pixels are what is diffused."""
        return mask

    def save(self, path: str | Path) -> None:
        """Write weights and spec to a safetensors file, whole or not at all.

        Raises:
            InputError: If the file cannot be written.
        """
        write_tensors(path, {f"model.{name}": value for name, value in self.state_dict().items()}, self.spec)


def denoising_loss(
    model: DiffusionModel, images: Tensor, labels: Tensor | None, generator: torch.Generator, label_dropout: float = 0.0
) -> Tensor:
    """Compute the mean squared error of what the network predicts, at one random time a sample.

    Args:
        model: The model.
        images: Images in [0, 1], (N, C, H, W).
        labels: Their labels, (N,), or None.
        generator: Draws times, noise, and which labels are left out.
        label_dropout: Share of the samples that are shown without their label, as guidance needs.

    Returns:
        A scalar.
    """
    count = len(images)
    t = torch.randint(len(model.schedule), (count,), generator=generator, device=generator.device)
    x = model.encode(images)
    noise = normal(x, generator)
    if labels is not None and label_dropout:
        left_out = torch.rand(count, generator=generator, device=generator.device) < label_dropout
        labels = labels.masked_fill(left_out.to(labels.device), model.spec.classes)
    abar = model.schedule.abar[t.cpu()]
    output = model.output(add_noise(x, noise, abar), t.to(x.device), model.condition(labels, count))
    return F.mse_loss(output, target(x, noise, abar, model.spec.prediction))


def write_tensors(
    path: str | Path, tensors: dict[str, Tensor], spec: ModelSpec, facts: Mapping[str, str | int | float] | None = None
) -> None:
    """Write named tensors, the spec of their model and further facts to a safetensors file, whole or not at all.

    Raises:
        InputError: If the file cannot be written.
    """
    texts = {"format": _FORMAT, "spec": json.dumps(asdict(spec)), "facts": json.dumps(dict(facts or {}))}
    write_file(path, tensors, texts)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], ModelSpec, dict[str, Any]]:
    """Read what `write_tensors` wrote: tensors, spec, facts.

    Raises:
        InputError: If the file is missing, damaged, a pickle, or not of a diffusion model.
    """
    tensors, metadata = read_file(path)
    if metadata.get("format") != _FORMAT:
        raise InputError(
            f"checkpoint {path} does not say of what model it is (format {metadata.get('format')!r} in its metadata, "
            f"wanted {_FORMAT!r}); write it with DiffusionModel.save"
        )
    try:
        stored = json.loads(metadata["spec"])
        spec = ModelSpec(**{**stored, "shape": tuple(stored["shape"])})
        return tensors, spec, dict(json.loads(metadata["facts"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the metadata of checkpoint {path} are damaged ({error}); write it again") from error


def load_model(path: str | Path, network: nn.Module | None = None) -> DiffusionModel:
    """Read a model in eval mode, in float32; of a checkpoint of a training, the moving average of its weights.

    Args:
        path: What `DiffusionModel.save` or a training wrote.
        network: The network of a ``custom`` model, with weights of any values.

    Raises:
        InputError: If the file is missing, damaged, a pickle, not of a diffusion model, or its weights do not fit.
    """
    tensors, spec, _ = read_tensors(path)
    try:
        with torch.random.fork_rng(devices=[]):
            model = spec.build(network)
    except InputError as error:
        raise InputError(f"checkpoint {path} cannot be used: {error}") from error
    prefix = "average." if any(name.startswith("average.") for name in tensors) else "model."
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"the weights in checkpoint {path} do not fit the network: {reason}") from error
    return model.eval().requires_grad_(False)
