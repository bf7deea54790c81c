"""Attacks of torchattacks and Foolbox, as subjects of the contract."""

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from paperweight.testing import AttackSubject, Subject

Found = Iterator[tuple[str, str, Subject]]
"""Kind, name and subject."""

IMAGES = (3, 8, 8)
OVERSHOOT = 0.05
"""Slack of an attack that looks for the nearest boundary: most step over it by 2% on purpose."""


def _unchanged() -> Callable[..., Tensor]:
    return lambda model, inputs, labels: inputs


def _bounded(make: Callable[..., Callable[..., Tensor]], norm: float, radius: float) -> AttackSubject:
    """Declare an attack within a radius, whose maker takes the radius."""
    return AttackSubject(
        make=partial(make, radius),
        norm=norm,
        radius=radius,
        null=partial(make, 0.0),
        baseline=_unchanged,
        shape=IMAGES,
    )


def _nearest(make: Callable[[], Callable[..., Tensor]], norm: float) -> AttackSubject:
    return AttackSubject(make=make, norm=norm, radius=None, shape=IMAGES, slack=OVERSHOOT)


def torchattacks_strangers() -> Found:
    """Give the attacks of torchattacks that are measured in a norm 1, 2 or infinity, at their own radii."""
    import torchattacks

    of_classes = ("FAB",)

    def attack(name: str, options: Mapping[str, Any], size: str, radius: float | None = None) -> Callable[..., Tensor]:
        def call(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
            given = dict(options) if radius is None else {**options, size: radius}
            if name in of_classes:
                given["n_classes"] = model(inputs[:1]).shape[1]
            return getattr(torchattacks, name)(model, **given)(inputs, labels)

        return call

    plain = (
        "FGSM BIM RFGSM PGD EOTPGD FFGSM TPGD MIFGSM UPGD DIFGSM TIFGSM Jitter NIFGSM SINIFGSM VMIFGSM VNIFGSM "
        "APGD SPSA"
    )
    sign: dict[str, dict[str, Any]] = {
        **{name: {} for name in plain.split()},
        "PGDRS": {"noise_sd": 0.0},
        **{name: {} for name in of_classes},
        "Square": {"n_queries": 200},
    }
    for name, options in sign.items():
        yield "attack", name, _bounded(partial(attack, name, options, "eps"), math.inf, 8 / 255)
    for name in ("PIFGSM", "PIFGSMPP"):
        yield "attack", name, _bounded(partial(attack, name, {}, "max_epsilon"), math.inf, 16 / 255)
    for name, options in (("PGDL2", {}), ("PGDRSL2", {"noise_sd": 0.0})):
        yield "attack", name, _bounded(partial(attack, name, options, "eps"), 2.0, 0.5)
    for name, norm in (("CW", 2.0), ("DeepFool", 2.0), ("EADL1", 1.0), ("EADEN", 1.0), ("GN", 2.0)):
        yield "attack", name, _nearest(partial(attack, name, {}, ""), norm)


def foolbox_strangers() -> Found:
    """Give the attacks of Foolbox that are made without arguments and measured in a norm 1, 2 or infinity."""
    import foolbox
    from foolbox import attacks
    from foolbox.attacks.base import FixedEpsilonAttack

    norms = {"L1": 1.0, "L2": 2.0, "Linf": math.inf, "LInf": math.inf}
    radii = {1.0: 2.0, 2.0: 0.5, math.inf: 8 / 255}
    unnamed = {"DDNAttack": 2.0, "NewtonFoolAttack": 2.0, "EADAttack": 1.0, "VirtualAdversarialAttack": 2.0}
    options: dict[str, dict[str, Any]] = {
        "VirtualAdversarialAttack": {"steps": 10},
        "EADAttack": {"binary_search_steps": 4, "steps": 200},
        "L2CarliniWagnerAttack": {"binary_search_steps": 4, "steps": 200},
    }

    def attack(name: str, radius: float | None = None) -> Callable[..., Tensor]:
        made = getattr(attacks, name)(**options.get(name, {}))

        def call(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=inputs.device)
            return made(wrapped, inputs, labels, epsilons=radius)[1]

        return call

    for name, made in sorted(vars(attacks).items()):
        prefix = next((prefix for prefix in ("L1", "L2", "Linf", "LInf") if name.startswith(prefix)), None)
        alias = not inspect.isclass(made) or made.__name__ != name
        if alias or (prefix is None and name not in unnamed) or name.endswith("BrendelBethgeAttack"):
            continue
        norm = unnamed[name] if prefix is None else norms[prefix]
        if issubclass(made, FixedEpsilonAttack):
            yield "attack", name, _bounded(partial(attack, name), norm, radii[norm])
        else:
            yield "attack", name, _nearest(partial(attack, name), norm)
