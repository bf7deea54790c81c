#!/usr/bin/env bash
# torch 2.13.0, on a CPU.
#
# A parametrized layer is copied by copy.deepcopy, and the copy is made plain by remove_parametrizations, as one does to export the best
# network so far. One would guess that the network itself, which shares no tensor with the copy, goes on. But the class that torch makes
# for a parametrized layer is shared by all copies of it, and what is removed is the property of that class: the next forward pass of
# the network fails with an AttributeError, and so does a second copy. Layers that were parametrized separately have classes of their own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3"
"$folder/venv/bin/python" - <<'EOP'
import copy

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

print("torch", torch.__version__)
x = torch.ones(1, 2)


def fate(layer: nn.Module) -> str:
    try:
        return f"computes {tuple(layer(x).shape)}"
    except AttributeError as error:
        return f"{type(error).__name__}: {error}"


network, other = weight_norm(nn.Linear(2, 3)), weight_norm(nn.Linear(2, 3))
best, second = copy.deepcopy(network), copy.deepcopy(network)
assert all(a.data_ptr() != b.data_ptr() for a, b in zip(network.parameters(), best.parameters(), strict=True))
print("one class:", type(best) is type(network), "; of a layer parametrized by itself:", type(other) is type(network))
parametrize.remove_parametrizations(best, "weight")
fates = {"copy made plain": best, "network": network, "second copy": second, "other layer": other}
for name, layer in fates.items():
    print(f"{name}: {fate(layer)}")
assert fate(best) == fate(other) == "computes (1, 3)"
assert "has no attribute 'weight'" in fate(network)
assert "has no attribute 'weight'" in fate(second)
EOP
