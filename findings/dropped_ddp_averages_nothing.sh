#!/usr/bin/env bash
# torch 2.13.0, on a CPU, two processes by gloo.
#
# DistributedDataParallel averages gradients over processes while backward runs. One would guess that what counts is the graph
# that its forward pass made, as for every other module: an output keeps alive what its gradient needs. But what averages lives
# with the wrapper alone. Where only the outputs are kept, as in DistributedDataParallel(model)(inputs), the wrapper is gone by
# the time of backward, each process has the gradients of its own inputs, and nothing says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3"
cat > "$folder/one.py" <<'EOP'
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

rank, meeting = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
inputs = torch.full((1, 1), 2.0 if rank == 0 else 4.0)  # a gradient of 2 in one process, of 4 in the other, 3 on average


def gradient(keep: bool) -> float:
    model = torch.nn.Linear(1, 1, bias=False)
    wrapper = DistributedDataParallel(model)
    outputs = wrapper(inputs)
    if not keep:
        del wrapper
    outputs.sum().backward()
    return model.weight.grad.item()


kept, dropped = gradient(keep=True), gradient(keep=False)
print(f"torch {torch.__version__}, process {rank}: gradient {kept:g} with the wrapper kept, {dropped:g} with it dropped")
assert kept == 3.0
assert dropped == inputs.item()
dist.destroy_process_group()
EOP
"$folder/venv/bin/python" "$folder/one.py" 1 "$folder/meeting" &
"$folder/venv/bin/python" "$folder/one.py" 0 "$folder/meeting"
wait $!
