"""The contract of attacks on those of other packages through `AttackAdapter`: how many keep it, and what others break.

torchattacks and Foolbox as in `strangers_attacks.py`, and attacks of the Adversarial Robustness Toolbox (ART), by a
wrapper of three lines. An attack that draws random numbers is declared random, as it then is by its generator. The
packages are to be installed in an environment of their own, without what they ask for:

    pip install --no-deps -r benchmarks/requirements-strangers-alone.txt
    pip install --no-deps adversarial-robustness-toolbox==1.20.1 six tqdm
    python benchmarks/adapted_attacks.py [PACKAGE ...]
"""

import argparse
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from strangers import checked
from strangers_attacks import IMAGES, foolbox_strangers, torchattacks_strangers
from torch import Tensor, nn

from paperweight.attacks import AttackAdapter
from paperweight.testing import AttackSubject, CheckReport, Subject

_RANDOM = {"check_repeatable", "check_global_random_state"}


def art_strangers() -> Iterator[tuple[str, str, Subject]]:
    """Give attacks of ART that are measured in a norm 2 or infinity."""
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    def attack(name: str, radius: float | None, **options: Any) -> Callable[..., Tensor]:
        given = options if radius is None else {**options, "eps": radius}

        def call(model: nn.Module, inputs: Tensor, labels: Tensor) -> Any:
            classes = model(inputs[:1]).shape[1]
            wrapped = PyTorchClassifier(model, nn.CrossEntropyLoss(), IMAGES, classes, clip_values=(0, 1))
            return getattr(evasion, name)(wrapped, **given).generate(inputs.numpy(), labels.numpy())

        return call

    for name, norm, radius, options in (
        ("FastGradientMethod", math.inf, 8 / 255, {}),
        ("ProjectedGradientDescentPyTorch", math.inf, 8 / 255, {"eps_step": 0.01, "max_iter": 20, "verbose": False}),
        ("ProjectedGradientDescentPyTorch", 2.0, 0.5, {"norm": 2, "eps_step": 0.1, "max_iter": 20, "verbose": False}),
        ("BasicIterativeMethod", math.inf, 8 / 255, {"eps_step": 0.01, "max_iter": 20, "verbose": False}),
        ("MomentumIterativeMethod", math.inf, 8 / 255, {"eps_step": 0.01, "max_iter": 20, "verbose": False}),
        ("SquareAttack", math.inf, 8 / 255, {"max_iter": 200, "verbose": False}),
        ("DeepFool", 2.0, None, {"verbose": False}),
    ):
        make = lambda name=name, radius=radius, options=options: attack(name, radius, **options)  # noqa: E731
        null = (lambda name=name, options=options: attack(name, 0.0, **options)) if radius else None
        yield (
            "attack",
            f"{name}, norm {norm:g}",
            AttackSubject(
                make=make,
                norm=norm,
                radius=radius,
                null=null,
                baseline=(lambda: lambda model, inputs, labels: inputs) if radius else None,
                shape=IMAGES,
                slack=1e-3 if radius else 0.05,
            ),
        )


def adapted(subject: Any, random: bool, dtype: torch.dtype | None) -> Subject:
    """Give the subject with everything that it makes through the adapter."""
    makers = {name: getattr(subject, name) for name in ("make", "null", "baseline")}
    through = {
        name: (lambda make=make: AttackAdapter(make(), dtype)) for name, make in makers.items() if make is not None
    }
    return replace(subject, random=random, **through)


def judged(kind: str, subject: Subject) -> CheckReport:
    """Run the contract; declare random what was shown to be, and of one type what fails with another."""
    random, dtype, report = False, None, checked(kind, adapted(subject, random=False, dtype=None))
    failed = {each.name for each in report.results if not each.passed}
    if failed & _RANDOM:
        random = True
    if "check_dtype_and_device_preserved" in failed:
        dtype = torch.float32
    return checked(kind, adapted(subject, random, dtype)) if random or dtype else report


def main() -> None:
    """Run the contract on each, and print what each package keeps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="torchattacks, foolbox, art; all by default")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    packages = {"torchattacks": torchattacks_strangers, "foolbox": foolbox_strangers, "art": art_strangers}
    for package in given.packages or packages:
        whole, broken, total = 0, Counter[str](), 0
        for kind, name, subject in packages[package]():
            failed = [each for each in judged(kind, subject).results if each.applicable and not each.passed]
            print(
                f"{package} {name}: {'; '.join(f'{each.name}: {each.reason}' for each in failed) or 'all'}", flush=True
            )
            whole, total = whole + (not failed), total + 1
            broken.update(each.name for each in failed)
        print(f"{package}: {whole} of {total} keep all; broken by others: {dict(broken.most_common())}", flush=True)


if __name__ == "__main__":
    main()
