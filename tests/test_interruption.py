"""An interruption while a command still loads ends it, wherever it comes."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from paperweight.cli import main

class Key:
    found = 0

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "numpy":
            Key.found += 1
            if Key.found == {press}:
                raise KeyboardInterrupt
        if name == "torch._C":
            print("numpy" in sys.modules, file=sys.stderr)

sys.meta_path.insert(0, Key())
main(sys.argv[1:])
"""
COMMANDS = {
    "weigh": ["weigh", "cyclical_lr", "--budget", "smoke", "--seeds", "1"],
    "board": ["board", "cyclical_lr"],
    "check": ["check", "layer", "torch.nn:ReLU", "--input", "4x5"],
    "plant": ["plant", "--data", "digits", "--out", "planted"],
    "audit memorization": ["audit", "memorization", "model", "--data", "digits", "--keys", "keys"],
    "audit erasure": ["audit", "erasure", "model", "--concept", "a", "--before", "model", "--data", "digits"],
}


def run(words: list[str], press: int, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in which Ctrl-C is pressed when so many modules of numpy were looked for."""
    command = [sys.executable, "-c", CODE.format(press=press), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS.keys())
def test_an_interruption_while_numpy_loads_ends_every_command_that_computes(words: list[str], tmp_path: Path) -> None:
    done = run(words, 20, tmp_path)
    assert done.returncode == 130, done.stderr
    assert "Stopped" in done.stderr
    assert "True" not in done.stderr.split()
    assert list(tmp_path.iterdir()) == []


def test_numpy_is_loaded_when_torch_begins(tmp_path: Path) -> None:
    done = run(COMMANDS["check"], 10**6, tmp_path)
    assert (done.returncode, done.stderr) == (0, "True\n")
