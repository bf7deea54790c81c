#!/usr/bin/env bash
# torch 2.13.0 with numpy 2.4.6, on a CPU.
#
# Who presses Ctrl-C while a program still loads would guess that it ends there, wherever that was. `import torch` loads numpy from its
# own compiled code where nobody did before, and takes any exception of that import for "there is no numpy": a KeyboardInterrupt that
# comes in this part of a second is dropped without a word, and the program runs on. Where numpy was imported before torch, the same
# interruption ends the program. Raised here at a fixed place of numpy's import, in place of a key that is pressed in time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'EOF'
import subprocess
import sys

INTERRUPT = """
import sys

class Key:
    count = 0

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "numpy":
            Key.count += 1
            if Key.count == 20:
                raise KeyboardInterrupt

sys.meta_path.insert(0, Key())
"""


def run(code: str) -> tuple[bool, str]:
    """Tell whether a program is interrupted while it imports, and what it writes."""
    done = subprocess.run([sys.executable, "-c", INTERRUPT + code], capture_output=True, text=True)
    return "KeyboardInterrupt" in done.stderr, done.stdout.strip()


print({name: __import__("importlib.metadata").metadata.version(name) for name in ("torch", "numpy")})
first = run("import numpy, torch")
alone = run("import torch; print('key pressed', Key.count >= 20)")
print(f"numpy before torch: interrupted {first[0]}; torch alone: interrupted {alone[0]}, {alone[1]}")
assert first == (True, "")
assert alone == (False, "key pressed True")
EOF
