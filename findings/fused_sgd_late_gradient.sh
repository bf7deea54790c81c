#!/usr/bin/env bash
# torch 2.13.0, on a CPU.
#
# A parameter that first gets a gradient in a later step, as those of a branch that training skips at random or of a layer that is
# unfrozen, is nothing special to torch's optimizers: each makes the state of a parameter when it first sees a gradient. One would
# guess that the fused versions do as the others. Fused SGD with momentum raises a TypeError at such a step, since it takes the
# momentum to be missing for all parameters or for none; plain and foreach SGD, fused SGD without momentum, and fused Adam,
# AdamW and Adagrad take the step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3"
"$folder/venv/bin/python" - <<'EOP'
from functools import partial

import torch
from torch.nn import Parameter
from torch.optim import SGD, Adagrad, Adam, AdamW

print("torch", torch.__version__)
momentum = partial(SGD, lr=0.1, momentum=0.9)
makes = {
    "SGD, momentum": momentum,
    "SGD, momentum, foreach": partial(momentum, foreach=True),
    "SGD, momentum, fused": partial(momentum, fused=True),
    "SGD, fused": partial(SGD, lr=0.1, fused=True),
    "Adam, fused": partial(Adam, lr=0.1, fused=True),
    "AdamW, fused": partial(AdamW, lr=0.1, fused=True),
    "Adagrad, fused": partial(Adagrad, lr=0.1, fused=True),
}
fates: dict[str, str] = {}
for name, make in makes.items():
    early, late = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    optimizer = make([early, late])
    early.grad = torch.ones(2)
    optimizer.step()
    late.grad = torch.ones(2)
    try:
        optimizer.step()
        fates[name] = "steps" if late[0] < 1 else "stays"
    except TypeError as error:
        fates[name] = f"TypeError: {error}"
    print(f"{name}: {fates[name]}")
assert fates.pop("SGD, momentum, fused").startswith("TypeError")
assert set(fates.values()) == {"steps"}
EOP
