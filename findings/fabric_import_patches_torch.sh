#!/usr/bin/env bash
# lightning-fabric 2.6.6 beside torch 2.13.0, on a CPU.
#
# One would guess that importing Lightning Fabric, as a program does that only asks whether it is there, changes nothing of torch
# before a Fabric is made. The import alone replaces torch.compile for the whole process, so that every module that is compiled
# later carries its options in an attribute that those compiled before have not; it puts another function in the place of
# warnings.formatwarning, and sets variables of the environment, which child processes inherit. A program that compares a process
# before and after, or compiles without Fabric, sees another torch because a library was imported.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "lightning-fabric==2.6.6" "numpy<3"
"$folder/venv/bin/python" - <<'EOP'
import os
import warnings

import torch

compile_before, format_before, variables_before = torch.compile, warnings.formatwarning, dict(os.environ)
early = torch.compile(torch.nn.Linear(2, 2), backend="eager")

import lightning_fabric  # noqa: E402

late = torch.compile(torch.nn.Linear(2, 2), backend="eager")
variables = sorted(name for name, value in os.environ.items() if variables_before.get(name) != value)
kept = [getattr(module, "_compile_kwargs", None) for module in (early, late)]
print("lightning-fabric", lightning_fabric.__version__, "torch", torch.__version__)
print("torch.compile is what it was:", torch.compile is compile_before)
print("warnings.formatwarning is what it was:", warnings.formatwarning is format_before)
print("options kept in a module compiled before / after the import:", *kept)
print("variables set:", ", ".join(variables))
assert torch.compile is not compile_before
assert warnings.formatwarning is not format_before
assert kept == [None, {"backend": "eager"}]
assert "PYTORCH_NVML_BASED_CUDA_CHECK" in variables
EOP
