#!/usr/bin/env bash
# torch 2.13.0 with triton 3.9.0, on a CPU.
#
# gc.freeze() is the documented way to spare the collector of garbage what a long-lived process has loaded; it changes no object, and
# one would guess that it has no visible effect. Making the first optimizer of a process, plain SGD on one number, imports torch's
# compiler and with it triton; the bindings of triton then end such a process by a report of leaks, some forty lines on the error
# stream, since frozen objects are not collected at the end. Without an optimizer, or after gc.unfreeze(), nothing is written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3" "triton==3.9.0"
"$folder/venv/bin/python" - <<'EOF'
import subprocess
import sys

OPTIMIZER = "torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]); "


def lines(code: str) -> int:
    """Run code after torch was imported; return how many lines about leaks it leaves on its error stream."""
    done = subprocess.run([sys.executable, "-c", f"import gc, torch; {code}"], capture_output=True, text=True, check=True)
    return sum("leaked" in line for line in done.stderr.splitlines())


print({name: __import__("importlib.metadata").metadata.version(name) for name in ("torch", "triton")})
plain, without = lines(OPTIMIZER), lines("gc.freeze()")
frozen, thawed = lines(OPTIMIZER + "gc.freeze()"), lines(OPTIMIZER + "gc.freeze(); gc.unfreeze()")
print(f"lines about leaks: optimizer {plain}, frozen {without}, optimizer and frozen {frozen}, and unfrozen again {thawed}")
assert (plain, without, thawed) == (0, 0, 0)
assert frozen > 10
EOF
