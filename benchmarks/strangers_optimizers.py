"""Optimizers and schedules of other packages, as subjects of the contracts."""

import importlib.util
import inspect
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from paperweight.testing import OptimizerSubject, ScheduleSubject, Subject

STEPS = 12
Found = Iterator[tuple[str, str, Subject]]
"""Kind, name and subject."""


def _classes(module: types.ModuleType, base: type, *, without: tuple[str, ...] = ()) -> dict[str, type]:
    found = {name: value for name, value in vars(module).items() if inspect.isclass(value)}
    return {
        name: value
        for name, value in found.items()
        if issubclass(value, base) and value is not base and name not in without and not name.startswith("_")
    }


def torch_strangers() -> Found:
    """Give the optimizers of torch.optim and its schedules, at settings that end within 12 steps."""
    for name, made in sorted(_classes(torch.optim, torch.optim.Optimizer).items()):
        yield "optimizer", f"optim.{name}", OptimizerSubject(make=made)
    steady = partial(lr_scheduler.ConstantLR, factor=0.5, total_iters=4)
    settings: dict[str, dict[str, Any]] = {
        "LambdaLR": {"lr_lambda": _halving},
        "MultiplicativeLR": {"lr_lambda": _half},
        "StepLR": {"step_size": 4},
        "MultiStepLR": {"milestones": [3, 6]},
        "ConstantLR": {},
        "LinearLR": {},
        "ExponentialLR": {"gamma": 0.9},
        "PolynomialLR": {"total_iters": 8},
        "CosineAnnealingLR": {"T_max": STEPS},
        "CosineAnnealingWarmRestarts": {"T_0": 4},
        "CyclicLR": {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 3, "cycle_momentum": False},
        "OneCycleLR": {"max_lr": 1.0, "total_steps": STEPS + 1, "cycle_momentum": False},
    }
    for name, given in settings.items():
        yield "schedule", f"lr_scheduler.{name}", _schedule(partial(getattr(lr_scheduler, name), **given))
    yield (
        "schedule",
        "lr_scheduler.SequentialLR",
        _schedule(
            lambda optimizer: lr_scheduler.SequentialLR(
                optimizer, [steady(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)], milestones=[4]
            )
        ),
    )
    yield (
        "schedule",
        "lr_scheduler.ChainedScheduler",
        _schedule(
            lambda optimizer: lr_scheduler.ChainedScheduler(
                [steady(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)], optimizer
            )
        ),
    )
    plateau = partial(lr_scheduler.ReduceLROnPlateau, patience=2)
    yield "schedule", "lr_scheduler.ReduceLROnPlateau", _schedule(plateau, lambda made, step: made.step(1.0))


def _halving(step: int) -> float:
    return 0.5**step


def _half(step: int) -> float:
    return 0.5


def _schedule(
    make: Callable[[Any], Any], advance: Callable[[Any, int], object] = lambda made, step: made.step()
) -> ScheduleSubject:
    return ScheduleSubject(make=make, values={}, steps=STEPS, advance=advance)


def schedulefree_strangers() -> Found:
    """Give the schedule-free optimizers."""
    import schedulefree

    for name, made in sorted(_classes(schedulefree, torch.optim.Optimizer).items()):
        yield "optimizer", name, OptimizerSubject(make=made)


def prodigy_strangers() -> Found:
    """Give Prodigy."""
    import prodigyopt

    yield "optimizer", "Prodigy", OptimizerSubject(make=prodigyopt.Prodigy)


def lion_strangers() -> Found:
    """Give Lion."""
    import lion_pytorch

    yield "optimizer", "Lion", OptimizerSubject(make=lion_pytorch.Lion)


def pytorch_optimizer_strangers() -> Found:
    """Give all optimizers that pytorch_optimizer lists, each with the arguments that it requires."""
    import pytorch_optimizer

    for name in pytorch_optimizer.get_supported_optimizers():
        made = pytorch_optimizer.load_optimizer(name)
        yield "optimizer", name, OptimizerSubject(make=_ADAPTED.get(name, lambda made: made)(made))


class _Model(nn.Module):
    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(parameters)


def _of_model(made: Callable[..., Any]) -> Callable[..., Any]:
    def make(params: Any, lr: float = 1e-3) -> Any:
        parameters = list(params)
        if any(isinstance(each, dict) for each in parameters):
            raise ValueError("it takes a model, so that its groups cannot be given")
        return made(_Model(parameters), lr=lr)

    return make


def _marked(made: Callable[..., Any]) -> Callable[..., Any]:
    """Mark each group as one of matrices, which Muon steps, or as one of the rest, which AdamW steps."""

    def make(params: Any, lr: float | None = None) -> Any:
        groups = [each if isinstance(each, dict) else {"params": [each]} for each in params]
        marked = [{**group, "use_muon": all(p.ndim == 2 for p in group["params"])} for group in groups]
        return made(marked, **({} if lr is None else {"lr": lr}))

    return make


def _in_one_process(made: Callable[..., Any]) -> Callable[..., Any]:
    """Start a process group of one process before the optimizer is made."""

    def make(params: Any, **given: Any) -> Any:
        if not torch.distributed.is_initialized():
            store = Path(tempfile.mkdtemp()) / "store"
            torch.distributed.init_process_group("gloo", init_method=store.as_uri(), rank=0, world_size=1)
        return made(params, **given)

    return make


_ADAPTED: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "adammini": _of_model,
    "adalomo": _of_model,
    "lomo": _of_model,
    "muon": _marked,
    "adamuon": _marked,
    "adago": _marked,
    "normuon": _marked,
    "muonclip": _marked,
    "distributedmuon": lambda made: _in_one_process(_marked(made)),
    "demo": _in_one_process,
    "bsam": lambda made: partial(made, num_data=64),
    "ranger21": lambda made: partial(made, num_iterations=40),
}


def timm_strangers() -> Found:
    """Give the schedules of timm; they are stepped with the number of the epoch."""
    scheduler = timm_part("timm.scheduler")
    settings: dict[str, dict[str, Any]] = {
        "CosineLRScheduler": {"t_initial": STEPS},
        "TanhLRScheduler": {"t_initial": STEPS},
        "PolyLRScheduler": {"t_initial": STEPS},
        "StepLRScheduler": {"decay_t": 4, "decay_rate": 0.5},
        "MultiStepLRScheduler": {"decay_t": [3, 6], "decay_rate": 0.5},
        "WSDLRScheduler": {"t_initial": STEPS, "decay_t": 4},
    }
    for name, given in settings.items():
        for added, words in (({}, name), ({"warmup_t": 3, "warmup_lr_init": 0.1}, f"{name}, 3 steps of warm-up")):
            make = partial(getattr(scheduler, name), **given, **added)
            yield "schedule", words, _schedule(make, lambda made, step: made.step(step + 1))
    make = partial(scheduler.PlateauLRScheduler, patience_t=2)
    yield "schedule", "PlateauLRScheduler", _schedule(make, lambda made, step: made.step(step + 1, metric=1.0))


def timm_part(name: str) -> types.ModuleType:
    """Import a part of timm alone, without its networks, which import torchvision."""
    if "timm" not in sys.modules:
        spec = importlib.util.find_spec("timm")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("timm is not installed")
        package = types.ModuleType("timm")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["timm"] = package
    return importlib.import_module(name)


def transformers_strangers() -> Found:
    """Give the schedules of transformers."""
    from transformers import optimization

    warm = {"num_warmup_steps": 3}
    both = warm | {"num_training_steps": STEPS}
    settings: dict[str, dict[str, Any]] = {
        "get_constant_schedule": {},
        "get_constant_schedule_with_warmup": warm,
        "get_linear_schedule_with_warmup": both,
        "get_cosine_schedule_with_warmup": both,
        "get_cosine_with_hard_restarts_schedule_with_warmup": both | {"num_cycles": 2},
        "get_polynomial_decay_schedule_with_warmup": both,
        "get_inverse_sqrt_schedule": warm,
        "get_cosine_with_min_lr_schedule_with_warmup": both | {"min_lr": 0.1},
        "get_cosine_with_min_lr_schedule_with_warmup_lr_rate": both | {"min_lr": 0.1},
        "get_wsd_schedule": both | {"num_decay_steps": 4},
    }
    for name, given in settings.items():
        yield "schedule", name, _schedule(partial(getattr(optimization, name), **given))
    for name, make in (
        ("get_reduce_on_plateau_schedule", partial(optimization.get_reduce_on_plateau_schedule, patience=2)),
        ("get_greedy_schedule", optimization.get_greedy_schedule),
    ):
        yield "schedule", name, _schedule(make, lambda made, step: made.step(1.0))
    yield "optimizer", "Adafactor", OptimizerSubject(make=optimization.Adafactor)
