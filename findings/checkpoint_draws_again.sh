#!/usr/bin/env bash
# torch 2.13.0, on a CPU.
#
# Activation checkpointing computes a part of a network twice, and by default puts the random state back before the second time, so
# that dropout drops the same entries. One would guess that this holds for whatever is random in that part. Only the global streams are
# put back: what draws from a torch.Generator of its own, as reproducible code does, draws anew. The backward pass then belongs to other
# entries than the loss does, and nothing says so, with re-entry or without: of 1,000 entries about half have a gradient of 0 that
# counted in the loss, or one of 1 that did not. With the global stream, or without checkpointing, every gradient is that of the loss.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3"
"$folder/venv/bin/python" - <<'EOP'
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

print("torch", torch.__version__)


def wrong(own_stream: bool, run: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> int:
    """Count entries whose gradient is not that of the output: each is kept, by 1, or dropped, by 0."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0) if own_stream else None
    x = torch.ones(1_000, requires_grad=True)

    def dropped(values: Tensor) -> Tensor:
        return (values * (torch.rand(1_000, generator=generator) < 0.5)).sin()

    output = run(dropped, x)
    output.sum().backward()
    return int(((output != 0) != (x.grad != 0)).sum())


runs = {
    "not checkpointed": lambda part, x: part(x),
    "checkpointed without re-entry": lambda part, x: checkpoint(part, x, use_reentrant=False),
    "checkpointed with re-entry": lambda part, x: checkpoint(part, x, use_reentrant=True),
}
found = {(name, own): wrong(own, run) for name, run in runs.items() for own in (False, True)}
for (name, own), count in found.items():
    print(f"{name}, {'a generator of its own' if own else 'the global stream'}: {count} of 1,000 gradients of other entries")
for (name, own), count in found.items():
    assert (400 < count < 600) if own and name != "not checkpointed" else count == 0
EOP
