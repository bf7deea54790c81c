"""Small classifiers that were trained on attacked images, kept on disk: what attacks and audits are tried on.

Source:
    the training is that of A. Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018,
    https://arxiv.org/abs/1706.06083, on networks far smaller than theirs.
"""

import hashlib
import json
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from paperweight.attacks import ProjectedGradient
from paperweight.attacks.balls import NORMS
from paperweight.data import LabelledImages, load_images, split_images
from paperweight.data.cache import cache_root, fingerprint
from paperweight.errors import InputError
from paperweight.loops.robust import fit_robust
from paperweight.nets import LeNet, ResNet
from paperweight.provenance import Recording, changed, here, recording, running

__all__ = ["robust_network"]

_NETWORKS: dict[str, type[LeNet] | type[ResNet]] = {"lenet": LeNet, "resnet": ResNet}


def robust_network(
    network: Literal["lenet", "resnet"],
    data: LabelledImages | str | Path,
    *,
    radius: float,
    norm: float = math.inf,
    attack_steps: int = 5,
    steps: int = 700,
    batch_size: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """Give a small classifier that was trained on attacked images: from the cache where it is there, else trained now.

    Each batch is attacked by projected gradient ascent from a random start, fooled images included, and Adam lowers the
    cross-entropy on what that makes of it. The weights are kept under `cache_root()`, apart for each choice of
    arguments, data by content, and version of PyTorch; they are trained anew where the file is damaged, or where a
    definition has changed that their training executed. They are the same at each training, on one kind of processor
    and with as many threads.

    By default a `LeNet` for MNIST and 0.2 takes a minute on one core, and of 1,000 test images 94% are right, 75% after
    40 steps of projected gradient ascent; a `ResNet` for CIFAR-10 and 8/255 takes five, and of 500 45% and 27% are.
    More ``steps`` go further.

    Args:
        network: ``lenet`` for `LeNet`, ``resnet`` for `ResNet` of 8 layers and 16 to 64 channels.
        data: Images to learn from, on the device to learn on; or a source of `load_images`, whose training part is
            taken. To have test images of a source that has no test part, as of digits, draw parts by `split_images`.
        radius: Largest change of an image by an attack, in the norm, above 0; 0.2 is usual for MNIST, 8/255 for
            CIFAR-10, both in norm infinity.
        norm: The norm: 1, 2 or ``math.inf``.
        attack_steps: Steps of each attack, at least 1.
        steps: Batches, at least 1.
        batch_size: Images a batch, at least 1.
        lr: Learning rate of Adam, above 0.
        seed: What weights, batches and attacks are drawn with.
        progress: Called now and then while it is trained, with the batches done and all.

    Returns:
        The network, in eval mode; its logits are those of classes 0 to the largest label.

    Raises:
        InputError: If an argument is outside its range, there is no such source, images are too small for the network,
            the training diverges, or the cache cannot be written.

    Example:
        >>> data = split_images(
        ...     load_images("digits"), train=800, validation=0, test=200, generator=torch.Generator().manual_seed(0)
        ... )
        >>> model = robust_network("resnet", data.train, radius=0.1, attack_steps=2, steps=30, lr=0.01)
        >>> attacked = ProjectedGradient(radius=0.1)(model, data.test.images, data.test.labels)
        >>> bool((model(attacked).argmax(dim=1) == data.test.labels).float().mean() > 0.5)
        True
    """
    if not isinstance(network, str) or network not in _NETWORKS:
        raise InputError(f"network must be {' or '.join(_NETWORKS)}, got {network!r}")
    if not _is_positive(radius):
        raise InputError(f"radius must be above 0 and finite, got {radius!r}; fit_classifier trains without an attack")
    if isinstance(norm, bool) or norm not in NORMS:
        raise InputError(f"norm must be 1, 2 or math.inf, got {norm!r}")
    if not _is_positive(lr):
        raise InputError(f"lr must be above 0 and finite, got {lr!r}; leave it out for the default")
    for name, count in {"attack_steps": attack_steps, "steps": steps, "batch_size": batch_size}.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(
                f"{name} must be a whole number of at least 1, got {count!r}; leave it out for the default"
            )
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63 - 1:
        raise InputError(f"seed must be a whole number from 0 to 2**63 - 2, got {seed!r}")
    if not isinstance(data, (LabelledImages, str, Path)):
        raise InputError(f"data must be LabelledImages, the name of a data set or a path, got {type(data).__name__}")
    given = data if isinstance(data, LabelledImages) else _training_part(data)
    images, labels = given.images.detach(), given.labels
    shape = _checked_shape(given)
    parts = {
        "network": network,
        "data": fingerprint({"images": images.cpu().numpy(), "labels": labels.cpu().numpy()}, ()),
        "device": images.device.type,
        "torch": torch.__version__,
        "radius": radius,
        "norm": norm,
        "attack_steps": attack_steps,
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
    }

    def initial() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                return _NETWORKS[network](shape, int(labels.max()) + 1).to(images.device)
            except ValueError as error:
                raise InputError(f"{network} cannot take these images: {error}") from error

    def told(step: int, _: Tensor) -> None:
        if progress is not None and ((step + 1) % 10 == 0 or step + 1 == steps):
            progress(step + 1, steps)

    def trained() -> dict[str, Tensor]:
        model = initial()
        losses = fit_robust(
            model,
            torch.optim.Adam(model.parameters(), lr=lr),
            images,
            labels,
            attack=ProjectedGradient(radius, norm, steps=attack_steps, keep_going=True),
            steps=steps,
            batch_size=batch_size,
            generator=torch.Generator().manual_seed(seed + 1),
            on_step=told,
        )
        if not all(bool(each.isfinite().all()) for each in model.parameters()):
            raise InputError(f"training diverged within {len(losses)} batches; lower lr, which is {lr:g}")
        return model.state_dict()

    model = initial()
    model.load_state_dict(_kept(parts, trained))
    return model.eval()


def _is_positive(number: object) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and 0 < number < math.inf


def _training_part(source: str | Path) -> LabelledImages:
    """Give all training images of a source but those that are in its test part, too."""
    found = load_images(source)
    draw = torch.Generator().manual_seed(0)
    return split_images(found, train=len(found.train), validation=0, test=0, generator=draw).train


def _checked_shape(data: LabelledImages) -> tuple[int, int, int]:
    """Give the shape of an image, of images that can be learned from."""
    images, labels = data.images, data.labels
    if images.ndim != 4 or labels.ndim != 1 or not 1 <= len(images) == len(labels):
        found = f"{tuple(images.shape)} and {tuple(labels.shape)}"
        raise InputError(f"images must be (N, C, H, W) and labels (N,), N at least 1, got {found}")
    if images.dtype != torch.float32 or not bool(((images >= 0) & (images <= 1)).all()):
        raise InputError(
            f"images must be float32 in [0, 1], got {images.dtype} from {images.min():g} to {images.max():g}; "
            "divide those of whole numbers by 255, and convert others by .float()"
        )
    if labels.dtype != torch.int64 or int(labels.min()) < 0 or int(labels.max()) < 1:
        raise InputError("labels must be int64 numbers of at least two classes, from 0; number them so")
    channels, height, width = images.shape[1:]
    return channels, height, width


def _kept(parts: dict[str, object], build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Give tensors from the cache, or build and store them with what building them executed."""
    from filelock import FileLock
    from safetensors.torch import save_file

    words = json.dumps(parts, sort_keys=True)
    key = hashlib.sha256(words.encode()).hexdigest()
    folder = cache_root() / "robust_networks"
    path, lock = folder / f"{key}.safetensors", FileLock(folder / f"{key}.lock")
    with _storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        found = _read(path)
        if found is None:
            with recording(Recording(here().package)) as record:
                built = {name: value.contiguous().cpu() for name, value in build().items()}
            found = built, here().used(record)
            notes = {"content": _content(built), "units": json.dumps(found[1]), "of": words}
            with _storing(folder):
                save_file(built, path.with_suffix(".partial"), metadata=notes)
                path.with_suffix(".partial").replace(path)
    finally:
        lock.release()
    for record in running():
        record.units |= found[1]
    return found[0]


@contextmanager
def _storing(folder: Path) -> Generator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"weights cannot be stored under {folder} ({error}); set PAPERWEIGHT_CACHE to a folder with room"
        ) from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Give tensors and the definitions they depend on; None where they are missing, damaged or out of date."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as stream:
            notes = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        units: dict[str, str] = json.loads(notes["units"])
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    if notes.get("content") != _content(tensors) or changed(here(), units):
        return None
    return tensors, units


def _content(tensors: dict[str, Tensor]) -> str:
    return fingerprint({name: value.numpy() for name, value in tensors.items()}, ())
