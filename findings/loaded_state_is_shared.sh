#!/usr/bin/env bash
# torch 2.13.0, on a CPU.
#
# To go on from one optimizer with another, its state_dict is loaded into a new one, as when parameters are regrouped or training branches.
# One would guess that loading copies, as Module.load_state_dict does. Optimizer.load_state_dict keeps the very tensors that it is given
# where format and device fit: the two optimizers then have one momentum between them, and a step of either changes how the other one
# moves. A network that is loaded in the same way stays apart, and so does an optimizer that is given a copy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3"
"$folder/venv/bin/python" - <<'EOP'
import copy

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import SGD, Adam

print("torch", torch.__version__)


def drift(make, copied: bool) -> float:
    """Branch an optimizer; return by how much a step of one branch changes the next step of the other."""
    ends = []
    for other_steps in (False, True):
        first, second = Parameter(torch.ones(1)), Parameter(torch.ones(1))
        trunk, branch = make([first]), make([second])
        first.grad = torch.ones(1)
        trunk.step()
        state = trunk.state_dict()
        branch.load_state_dict(copy.deepcopy(state) if copied else state)
        if other_steps:
            first.grad = torch.full((1,), 100.0)
            trunk.step()
        second.grad = torch.ones(1)
        branch.step()
        ends.append(second.item())
    return abs(ends[1] - ends[0])


makes = {"SGD with momentum": lambda p: SGD(p, lr=0.1, momentum=0.9), "Adam": lambda p: Adam(p, lr=0.1)}
for name, make in makes.items():
    shared, apart = drift(make, copied=False), drift(make, copied=True)
    print(f"{name}: a step of one moves the other {shared:.3g} elsewhere; given a copy, {apart:.3g}")
    assert shared > 1e-3
    assert apart == 0
network, twin = nn.Linear(1, 1), nn.Linear(1, 1)
twin.load_state_dict(network.state_dict())
print("networks share memory:", twin.weight.data_ptr() == network.weight.data_ptr())
assert twin.weight.data_ptr() != network.weight.data_ptr()
EOP
