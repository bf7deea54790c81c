"""Command lines of hostile words end with an answer or with a message."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="lines run in forked processes")
def test_command_lines_of_hostile_words_end_with_an_answer_or_a_message():
    root = Path(__file__).parents[1]
    command = [sys.executable, str(root / "benchmarks/command_lines.py"), "--count", "96", "--sample", "0"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
