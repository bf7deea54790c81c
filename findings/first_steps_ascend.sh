#!/usr/bin/env bash
# pytorch_optimizer 4.1.0 with torch 2.13.0, on a CPU.
#
# Ranger is RAdam with Lookahead. Rectification has no step size for the first steps, as the variance of so few gradients is not
# known: RAdam takes none until then. One would guess that Ranger of the same package does likewise, or takes plain steps down. With
# its defaults it takes the mark for "no step size", which is negative, for a step size, and climbs: on a bowl the loss grows fivefold
# before the sixth step, on a network in training it is lost among other causes of a bad start. degenerated_to_sgd=True avoids it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3" "pytorch_optimizer==4.1.0"
"$folder/venv/bin/python" - <<'EOF'
from importlib.metadata import version

import pytorch_optimizer
import torch
from torch import nn


def losses(name: str, **settings: object) -> list[float]:
    """Return the losses before ten steps on |x|^2."""
    x = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = getattr(pytorch_optimizer, name)([x], lr=0.1, **settings)
    seen = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = x.square().sum()
        loss.backward()
        seen.append(round(loss.item(), 2))
        optimizer.step()
    return seen


print("pytorch_optimizer", version("pytorch_optimizer"))
plain, ranger, mended = losses("RAdam"), losses("Ranger"), losses("Ranger", degenerated_to_sgd=True)
for name, seen in (("RAdam", plain), ("Ranger", ranger), ("Ranger, degenerated_to_sgd", mended)):
    print(f"{name:27}", *seen)
assert plain[5] == plain[0] > plain[-1]
assert all(after > before for before, after in zip(ranger[:5], ranger[1:6]))
assert ranger[5] > 4 * ranger[0]
assert max(mended) == mended[0]
EOF
