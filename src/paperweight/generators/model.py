"""A diffusion model as one object: network, schedule, what is predicted, labels; its loss, its samples, its file."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import final

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.generators.checkpoint import Header, parsed, read_file, read_header, write_file
from paperweight.generators.pixels import decode, encode, latent_mask, network_times, noise_in
from paperweight.generators.process import (
    MOST_NUMBERS,
    MOST_STEPS,
    NoiseSchedule,
    Prediction,
    add_noise,
    cosine_schedule,
    linear_schedule,
    normal,
    target,
)
from paperweight.generators.weights import check_layers, load_weights
from paperweight.nets import MLPDenoiser, TokenDenoiser, UNet
from paperweight.texts import brief

__all__ = [
    "DiffusionModel",
    "ModelSpec",
    "denoising_loss",
    "load_model",
    "read_spec",
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

    __pydantic_config__ = ConfigDict(extra="forbid")

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
        if self.steps > MOST_STEPS or max(math.prod(self.shape), self.condition_dim) > MOST_NUMBERS:
            raise InputError(
                f"a diffusion model must have at most {MOST_STEPS:,} steps, and at most {MOST_NUMBERS:,} numbers in an "
                f"image and an embedding; got {self.steps}, {self.shape} and {self.condition_dim}; choose smaller ones"
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

    encode = staticmethod(encode)
    decode = staticmethod(decode)
    latent_mask = staticmethod(latent_mask)

    def __init__(self, spec: ModelSpec, network: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        with torch.device("cpu"):
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
        scaled = network_times(t, self.spec.steps)
        return self.network(z, scaled) if condition is None else self.network(z, scaled, condition)

    def eps(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Predict the noise in z (N, C, H, W) at training times t (N,)."""
        return noise_in(z, t, self.output(z, t, condition), self.schedule, self.spec.prediction)

    def save(self, path: str | Path) -> None:
        """Write weights and spec to a safetensors file, whole or not at all.

        Raises:
            InputError: If the file cannot be written.
        """
        write_tensors(path, {f"model.{name}": value for name, value in self.state_dict().items()}, self.spec)


_SPEC = TypeAdapter(ModelSpec)
_FACTS = TypeAdapter(dict[str, str | int | float])


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


def read_spec(path: str | Path) -> tuple[Header, ModelSpec, dict[str, str | int | float]]:
    """Read what `write_tensors` wrote beside the tensors, but no tensor: what the file says of them, spec, facts.

    Raises:
        InputError: If the file is missing, damaged, a pickle, or not of a diffusion model.
    """
    header = read_header(path)
    if header.texts.get("format") != _FORMAT:
        raise InputError(
            f"checkpoint {path} does not say of what model it is (format {brief(repr(header.texts.get('format')), 99)} "
            f"in its metadata, wanted {_FORMAT!r}); write it with DiffusionModel.save"
        )
    spec = parsed(_SPEC, path, header, "spec")
    check_layers(path, header, spec.arguments)
    return header, spec, parsed(_FACTS, path, header, "facts")


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], ModelSpec, dict[str, str | int | float]]:
    """Read what `write_tensors` wrote: tensors, spec, facts.

    Raises:
        InputError: If the file is missing, damaged, a pickle, not of a diffusion model, or a tensor is not finite.
    """
    _, spec, facts = read_spec(path)
    return read_file(path), spec, facts


def load_model(path: str | Path, network: nn.Module | None = None) -> DiffusionModel:
    """Read a model in eval mode, in float32; of a checkpoint of a training, the moving average of its weights.

    Nothing is built before the file is known to hold the weights of the model that it says it is of.

    Args:
        path: What `DiffusionModel.save` or a training wrote.
        network: The network of a ``custom`` model, with weights of any values.

    Raises:
        InputError: If the file is missing, damaged, a pickle, not of a diffusion model, or its weights do not fit or
            are not finite.
    """
    header, spec, _ = read_spec(path)
    prefix = "average." if any(name.startswith("average.") for name in header.tensors) else "model."
    names = {name.removeprefix(prefix): name for name in header.tensors if name.startswith(prefix)}
    return load_weights(path, header, names, lambda: spec.build(network))
