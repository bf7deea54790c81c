#!/usr/bin/env bash
# torch 2.13.0, on a CPU.
#
# The state of an optimizer is saved and loaded so that training goes on as if it had not been interrupted. NAdam keeps the product of
# its momenta as a number of float32, whatever the format of the parameters, and one would guess that loading a state gives back what
# was saved, as it does with the step counts of all optimizers. load_state_dict casts that product to the format of the parameter. In
# bfloat16 it loses most of its digits. In float64 a resumed run multiplies on in float64 where the saved one does so in float32, and
# ends some 1e-10 off, a million times the rounding of that format. In float32 NAdam resumes bit for bit, and Adam does in all three.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3"
"$folder/venv/bin/python" - <<'EOP'
import copy

import torch
from torch.nn import Parameter
from torch.optim import Adam, NAdam

print("torch", torch.__version__)


def steps(optimizer: torch.optim.Optimizer, weight: Parameter, count: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        weight.grad = torch.randn(50, generator=draw).to(weight)
        optimizer.step()


fates: dict[str, bool] = {}
lost: dict[torch.dtype, float] = {}
for kind in (NAdam, Adam):
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        weight = Parameter(torch.ones(50, dtype=dtype))
        first = kind([weight], lr=0.3)
        steps(first, weight, 3, seed=0)
        saved, start = copy.deepcopy(first.state_dict()), weight.detach().clone()
        steps(first, weight, 20, seed=1)
        other = Parameter(start)
        second = kind([other], lr=0.3)
        second.load_state_dict(saved)
        if kind is NAdam:
            was, now = saved["state"][0]["mu_product"], second.state[other]["mu_product"]
            lost[dtype] = abs(now.item() / was.item() - 1)
            print(f"  mu_product in {dtype}: {was.item():.8f} ({was.dtype}) is loaded as {now.item():.8f} ({now.dtype})")
        steps(second, other, 20, seed=1)
        name = f"{kind.__name__}, {dtype}"
        fates[name] = torch.equal(weight, other)
        print(f"{name}: resumed {'bit for bit' if fates[name] else f'up to {(weight - other).abs().max().item():.3g} off'}")
assert {name for name, same in fates.items() if not same} == {"NAdam, torch.float64"}
assert lost[torch.bfloat16] > 5e-4
assert lost[torch.float32] == lost[torch.float64] == 0
EOP
