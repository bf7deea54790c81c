#!/usr/bin/env bash
# pytorch_optimizer 4.1.0 with torch 2.13.0, on a CPU.
#
# A parameter group with the learning rate 0 is the usual way to freeze a part of a model and thaw it later. One would guess that
# each group steps with its own rate, as in torch.optim. The optimizers of this package that estimate the rate themselves take that
# of the first group for all: a group that asks for 0 moves exactly as the first does, without a warning, and a first group of 0
# freezes every other one. Each group keeps the rate that it was given, so looking at them shows nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3" "pytorch_optimizer==4.1.0"
"$folder/venv/bin/python" - <<'EOF'
import pytorch_optimizer
import torch
from torch import nn


def moved(name: str, rates: tuple[float, float]) -> tuple[bool, bool]:
    """Tell which of two groups of equal start and gradient have moved after five steps."""
    weights = [nn.Parameter(torch.ones(3)) for _ in rates]
    groups = [{"params": [weight], "lr": rate} for weight, rate in zip(weights, rates)]
    optimizer = getattr(pytorch_optimizer, name)(groups)
    for _ in range(5):
        optimizer.zero_grad()
        sum((weight - 3).square().sum() for weight in weights).backward()
        optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == list(rates)
    return tuple(bool((weight != 1).any()) for weight in weights)


print("pytorch_optimizer", __import__("importlib.metadata").metadata.version("pytorch_optimizer"))
for name in ("AdamW", "Prodigy", "DAdaptAdam", "DAdaptSGD", "DAdaptLion"):
    second_frozen, first_frozen = moved(name, (1.0, 0.0)), moved(name, (0.0, 1.0))
    print(f"{name:10} rates 1 and 0: moved {second_frozen}; rates 0 and 1: moved {first_frozen}")
    adaptive = name != "AdamW"
    assert second_frozen == (True, adaptive)
    assert first_frozen == (False, not adaptive)
EOF
