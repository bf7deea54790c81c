#!/usr/bin/env bash
# torch 2.13.0, on a CPU.
#
# A module holds a complex buffer, such as the frequencies of a rotary embedding or the kernel of a Fourier layer, beside real parameters.
# module.double() and module.bfloat16() change the real tensors and leave the complex ones as they are. One would guess that
# module.to(torch.float64) and module.to(torch.bfloat16) do the same, being the same conversion by another name. But they convert
# complex tensors, too, to real ones, and the imaginary part is lost. One warning says so the first time in a process, none later.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3"
"$folder/venv/bin/python" - <<'EOP'
import warnings

import torch
from torch import nn

print("torch", torch.__version__)


class Rotation(nn.Module):
    """Multiplies by numbers of size 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("turn", torch.polar(torch.ones(4), torch.arange(4.0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * (x * self.turn).abs()


ways = {
    "module.double()": lambda module: module.double(),
    "module.to(torch.float64)": lambda module: module.to(torch.float64),
    "module.bfloat16()": lambda module: module.bfloat16(),
    "module.to(torch.bfloat16)": lambda module: module.to(torch.bfloat16),
}
seen = {}
for name, convert in ways.items():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        module = convert(Rotation())
    size = module.turn.abs().float().tolist()
    seen[name] = module.turn.dtype, [round(value, 2) for value in size], len(told)
    print(f"{name}: parameter {module.scale.dtype}, buffer {module.turn.dtype}, sizes {seen[name][1]}, warnings {len(told)}")

ones = [1.0, 1.0, 1.0, 1.0]
cosines = [1.0, 0.54, 0.42, 0.99]
assert seen["module.double()"] == (torch.complex64, ones, 0)
assert seen["module.bfloat16()"] == (torch.complex64, ones, 0)
assert seen["module.to(torch.float64)"] == (torch.float64, cosines, 1)
assert seen["module.to(torch.bfloat16)"] == (torch.bfloat16, cosines, 0)
EOP
