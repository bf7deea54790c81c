"""Tracing: a network is run on an example, and each of its functions on label tensors beside."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from paperweight.errors import InputError
from paperweight.merging._atoms import FIXED, Atoms
from paperweight.merging._functions import Functions
from paperweight.merging._outputs import chosen
from paperweight.merging._trial import try_out
from paperweight.merging._units import groups_of, reads
from paperweight.merging.groups import Group
from paperweight.nets.plain import computed_weight

__all__ = ["trace_groups"]


def trace_groups(
    model: nn.Module, args: Sequence[Tensor], named: Mapping[str, Tensor], output: str | int | None
) -> tuple[tuple[Group, ...], dict[str, tuple[str, ...]]]:
    """Find the groups of units of a network.

    Args:
        model: The network; it is not changed.
        args: What it is called with.
        named: Its named arguments.
        output: The output that must be kept; None for all.

    Returns:
        The groups, and for each output that shows units which other layers read the names of what would be groups.

    Raises:
        InputError: If it cannot be run, has an operation that is not known, or the groups found change its output.
    """
    computed = computed_weight(model)
    if computed:
        raise InputError(f"model must have plain weights, {computed}")
    model = copy.deepcopy(model).eval()
    atoms = Atoms(model)
    watch = _Watch(model, atoms)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), watch.listening():
        value = watch.run(args, named)
    outputs = [(name, watch.functions.labels(part)) for name, part in chosen(value, output)]
    seen = [view for view in watch.functions.weights.seen if watch.calls[view.module] <= 1]
    free = list(atoms.ties)

    def kept(shown: Sequence[Tensor]) -> tuple[Group, ...]:
        atoms.ties[:] = free
        for labels in shown:
            atoms.tie(labels, torch.tensor(FIXED))
        return groups_of(atoms, seen)

    groups = kept([labels for _, labels in outputs])
    atoms.ties[:] = free
    showing = [(name, labels) for name, labels in outputs if reads(atoms, labels)]
    held = _read(kept([])) - {group.name for group in groups} if showing else set[str]()
    shown = {name: held - {group.name for group in kept([labels])} for name, labels in showing}
    try_out(model, groups, args, named, output)
    return groups, {name: tuple(sorted(units)) for name, units in shown.items() if units}


def _read(groups: Sequence[Group]) -> set[str]:
    """Name the groups that some layer reads."""
    return {group.name for group in groups if any(place.role == "in" for place in group.places)}


@final
class _Watch(TorchFunctionMode):
    """Follows the labels through all that a model does.

    Args:
        model: The model.
        atoms: Its atoms.
    """

    def __init__(self, model: nn.Module, atoms: Atoms) -> None:
        super().__init__()
        self.model = model
        self.stack: list[tuple[str, nn.Module]] = [("", model)]
        self.calls: Counter[str] = Counter()
        self.functions = Functions(atoms, lambda: self.stack[-1])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        self.functions.call(func, args, kwargs or {}, value)
        return value

    def run(self, args: Sequence[Tensor], named: Mapping[str, Tensor]) -> Any:
        """Call the model; what it is called with keeps its place."""
        for part in tree_leaves((list(args), dict(named))):
            if isinstance(part, Tensor) and part.is_floating_point():
                self.functions.know(part, torch.tensor(FIXED).expand(part.shape))
        try:
            with self:
                return self.model(*args, **named)
        except InputError:
            raise
        except Exception as error:
            rule = "model must run on example_input"
            text = " ".join(str(error).split())[:200]
            raise InputError(
                f"{rule}, {self.functions.where()} fails: {type(error).__name__}: {text}; give what it is called with"
            ) from error

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear which module is called, and see what hooks could observe."""
        handles = []
        for name, module in self.model.named_modules():
            handles.append(module.register_forward_pre_hook(self._entered(name), with_kwargs=True))
            handles.append(module.register_forward_hook(self._left(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entered(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.stack.append((name, module))
            self.calls[name] += 1
            first = args[0] if args else next(iter(kwargs.values()), None)
            if not isinstance(module, _NormBase):
                self._see(name, module, "input", first)

        return hook

    def _left(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], value: Any) -> None:
            self._see(name, module, "output", value[0] if isinstance(value, tuple) and value else value)
            self.stack.pop()

        return hook

    def _see(self, name: str, module: nn.Module, side: Any, value: Any) -> None:
        observed = next(module.children(), None) is None or isinstance(module, nn.MultiheadAttention)
        labels = self.functions.find(value) if observed and name else None
        if labels is not None:
            self.functions.weights.see(name, side, labels)
