"""What one run of a study is given: seed, budget, device, random streams, data, networks and a cache."""

import copy
import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar, final

import numpy as np
import torch
from torch import Tensor, nn

from paperweight.catalogue import object_hash
from paperweight.data import (
    LabelledImages,
    Splits,
    cache_root,
    load_images,
    load_table,
    source_hash,
    split_images,
    split_table,
)
from paperweight.errors import InputError
from paperweight.studies._declaration import BUDGETS, Budget
from paperweight.studies._kept import kept_tensors
from paperweight.studies._network import given_network

__all__ = ["ROLES", "Role", "Setting"]

Role = Literal["data", "init", "batches", "method", "evaluation"]
ROLES: tuple[Role, ...] = ("data", "init", "batches", "method", "evaluation")
Choice = TypeVar("Choice")
Network = TypeVar("Network", bound=nn.Module)


@final
class Setting:
    """What a run is given. Nothing in it depends on the arm, so that pairs are pairs.

    Args:
        study: Name of the study; a part of every random stream.
        seed: The seed of the pair, at least 0.
        budget: How much the run may compute.
        device: Where to compute.
        data: The user's data, a path or the name of a known set, in place of the study's default.
        network: The user's network as ``package.module:factory``, in place of the study's default; the factory
            is called with the input shape (C, H, W) and the number of classes.
        progress: Called with a few words and (done, total) during long preparations.

    Raises:
        InputError: If the seed is negative or the budget unknown.

    Example:
        >>> setting = Setting(study="example", seed=0, budget="smoke")
        >>> setting.pick(smoke=10, desk=1000, gpu=10000)
        10
        >>> digits = setting.images(default="digits", train=100, validation=20, test=50)
        >>> digits.train.images.shape
        torch.Size([100, 1, 8, 8])
    """

    def __init__(
        self,
        *,
        study: str,
        seed: int,
        budget: Budget,
        device: str = "cpu",
        data: str | None = None,
        network: str | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        if seed < 0:
            raise InputError(f"seed must be at least 0, got {seed}")
        if budget not in BUDGETS:
            raise InputError(f"budget must be one of {', '.join(BUDGETS)}; got {budget!r}")
        self.study = study
        self.seed = seed
        self.budget: Budget = budget
        self.device = torch.device(device)
        self.data = data
        self.network_spec = network
        self.notes: list[str] = []
        self.data_hashes: dict[str, str] = {}
        self.starts: dict[str, str] = {}
        self._unbilled = _Unbilled()
        self._progress = progress
        self._waiting = {name for name, given in (("data", data), ("network", network)) if given is not None}

    def pick(self, *, smoke: Choice, desk: Choice, gpu: Choice) -> Choice:
        """Return the value for this run's budget."""
        return {"smoke": smoke, "desk": desk, "gpu": gpu}[self.budget]

    def stream(self, role: Role) -> int:
        """Return the seed of a role's random stream, a hash of study, seed and role.

        Raises:
            InputError: If the role is not one of ``ROLES``.
        """
        if role not in ROLES:
            raise InputError(f"role must be one of {', '.join(ROLES)}; got {role!r}")
        return _stream(self.study, self.seed, role)

    def seed_global_streams(self) -> None:
        """Seed the global random streams, from which only layers such as dropout draw."""
        stream = _stream(self.study, self.seed, "global")
        torch.manual_seed(stream)
        np.random.seed(stream % 2**32)
        random.seed(stream)

    def generator(self, role: Role) -> torch.Generator:
        """Return a fresh CPU generator at the start of a role's stream: a draw in one role never shifts another."""
        return torch.Generator().manual_seed(self.stream(role))

    def images(self, *, default: str, train: int, validation: int, test: int, max_side: int = 32) -> Splits:
        """Return labelled images, the user's or the default's, split as a function of the seed alone.

        Args:
            default: Name of the set that is used where the user gives no data.
            train: Number of training images.
            validation: Number of images on which hyper-parameters are chosen.
            test: Number of images on which metrics are measured.
            max_side: Larger images, and images of mixed sizes, are resized to at most this many pixels a side.

        Returns:
            The splits, on this run's device.

        Raises:
            InputError: If the data cannot be used; the message says which file, why, and what to do.
        """
        progress = self._progress
        self._waiting.discard("data")
        with self._unbilled:
            images = load_images(
                self.data or default,
                max_side=max_side,
                progress=None if progress is None else lambda done, total: progress("decoding images", done, total),
            )
            splits = split_images(
                images, train=train, validation=validation, test=test, generator=self.generator("data")
            )
        self.data_hashes[images.name] = images.fingerprint
        counts = " / ".join(str(len(part)) for part in (splits.train, splits.validation, splits.test))
        names = ", ".join(splits.classes[:10]) + (", ..." if len(splits.classes) > 10 else "")
        self.notes.append(
            f"{images.name}: {counts} training / validation / test "
            f"images of {' x '.join(map(str, splits.shape))}; {len(splits.classes)} classes ({names})"
        )
        self.notes.extend(images.notes)
        return self._parts_here(splits)

    def table(self, *, target: str | None, train: int, validation: int, test: int) -> Splits:
        """Return the rows of the user's table, split as a function of the seed alone.

        Args:
            target: Name of the column to predict, a class; the last one where it is ``None``.
            train: Number of training rows.
            validation: Number of rows on which hyper-parameters are chosen.
            test: Number of rows on which metrics are measured.

        Returns:
            The splits, on this run's device; inputs of shape (N, 1, 1, features).

        Raises:
            InputError: If there is no table, or it cannot be used; the message says why, and what to do.
        """
        if self.data is None:
            raise InputError("a table must be given with --data, there is none; give the path of a CSV file")
        self._waiting.discard("data")
        with self._unbilled:
            table = load_table(self.data, target=target)
            splits = split_table(table, train=train, validation=validation, test=test, generator=self.generator("data"))
        self.data_hashes[table.name] = table.fingerprint
        counts = " / ".join(str(len(part)) for part in (splits.train, splits.validation, splits.test))
        features = len(table.feature_names)
        self.notes.append(
            f"{table.name}: {counts} training / validation / test rows of {features} features; "
            f"{len(splits.classes)} classes"
        )
        self.notes.extend(table.notes)
        return self._parts_here(splits)

    def take_over(self, notes: Sequence[str], data_hashes: Mapping[str, str]) -> None:
        """Note of data that an earlier run in this process loaded what was noted then."""
        self._waiting.discard("data")
        self.notes.extend(notes)
        self.data_hashes |= data_hashes

    def _parts_here(self, splits: Splits) -> Splits:
        return replace(
            splits,
            train=self._here(splits.train),
            validation=self._here(splits.validation),
            test=self._here(splits.test),
        )

    def _here(self, part: LabelledImages) -> LabelledImages:
        """Return examples on this run's device; for the user's network, which may call ``view``, in the usual layout.

        Images of one channel may seem to have channels last, as digits do, and a convolution follows them.
        """
        images = part.images.to(self.device)
        if self.network_spec is not None:
            images = images.clone(memory_format=torch.contiguous_format)
        return LabelledImages(images, part.labels.to(self.device))

    def network(self, shape: tuple[int, int, int], classes: int, *, default: Callable[..., nn.Module]) -> nn.Module:
        """Return a new classifier, the user's or the default, initialised from the ``init`` stream.

        Args:
            shape: Shape (C, H, W) of one input.
            classes: Number of classes.
            default: Called with ``shape`` and ``classes`` where the user gives no network.

        Returns:
            The network on this run's device; the same weights at every call.

        Raises:
            InputError: If the user's factory cannot be imported or fails, its network does not give logits
                (N, classes), or it does not start alike each time.
        """
        self._waiting.discard("network")
        if self.network_spec is not None:
            with self._unbilled:
                place = f"{self.study} {self.seed} {'x'.join(map(str, shape))} {classes}"
                stream = self.stream("init")
                model, start = given_network(self.network_spec, shape, classes, stream, self.starts.get(place))
                self.starts[place] = start
            return model.to(self.device)

        def build() -> nn.Module:
            try:
                return default(shape, classes)
            except ValueError as error:
                raise InputError(
                    f"the study's default network cannot be built for images of shape {shape} and {classes} classes: "
                    f"{error}; give another with --network package.module:factory"
                ) from error

        return self.initialised(build)

    def initialised(self, build: Callable[[], Network]) -> Network:
        """Return new networks of the study's own, initialised from the ``init`` stream.

        Args:
            build: Makes them, as one module; what is made at once does not share its random numbers.

        Returns:
            What ``build`` made, on this run's device; the same weights at every call.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.stream("init"))
            return build().to(self.device)

    @property
    def unused(self) -> list[str]:
        """What the user gave and the run has not asked for yet: ``data``, ``network``."""
        return sorted(self._waiting)

    @property
    def unbilled_wall(self) -> float:
        """Seconds that are left out of the costs of the run."""
        return self._unbilled.wall

    @property
    def unbilled_cpu(self) -> float:
        """Seconds of computing time that are left out of the costs of the run."""
        return self._unbilled.cpu

    def shared(self, name: str) -> "Setting":
        """Return the setting of what several studies start from, such as a trained generator.

        Its streams depend on the name and the seed, not on the study: its data are split and its networks initialised
        alike in every study, and what is `cached` there is shared. A study that goes on with the same data takes
        them from it, too, so that nothing that was trained on is tested on.

        Args:
            name: Name of what is shared.

        Returns:
            A setting with seed, budget, device, data and network of this one; what it notes and what it leaves out of
            the costs count for this one.

        Example:
            >>> first, second = (Setting(study=study, seed=0, budget="smoke") for study in ("one", "another"))
            >>> first.stream("data") == second.stream("data")
            False
            >>> first.shared("digits").stream("data") == second.shared("digits").stream("data")
            True
        """
        shared = copy.copy(self)
        shared.study = f"recipe {name}"
        return shared

    def cached(self, name: str, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return tensors that all arms start from, built once per seed and setting and left out of every arm's cost.

        While they are built, torch's global random stream is one of their own; all global streams go on afterwards as
        if nothing had been built. What several studies start from is
        built by what `shared` returns, from nothing else. Once a definition that building executed has changed, they
        are built anew.

        Args:
            name: What tells these tensors from others of the study, or of what is shared.
            build: Builds them, named.

        Returns:
            The tensors on this run's device.
        """
        with self._unbilled:
            data = None if self.data is None else source_hash(self.data)
            spec = self.network_spec
            network = None if spec is None else (spec, object_hash(spec, "network"))
            parts = (self.study, name, self.seed, self.budget, data, network, self.device.type, torch.__version__)
            stream = _stream(self.study, self.seed, f"cached {name}")

            def built() -> dict[str, Tensor]:
                states = np.random.get_state(), random.getstate()
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(stream)
                    try:
                        return build()
                    finally:
                        np.random.set_state(states[0])
                        random.setstate(states[1])

            return kept_tensors(cache_root() / "recipes", parts, built, self.device)


def _stream(study: str, seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{study}/{seed}/{name}".encode()).digest()[:8], "big") >> 1


@final
class _Unbilled:
    """Adds up the time spent inside it; inside itself it goes on counting once."""

    def __init__(self) -> None:
        self.wall = 0.0
        self.cpu = 0.0
        self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            wall, cpu = self._start
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu
