#!/usr/bin/env bash
# ray 2.60.0, Python 3.11, Linux, on a CPU.
#
# A program that answers SIGTERM itself, to write what it has before it ends, say, would guess that it goes on doing so while it uses
# a library for remote work, and at the latest once that is shut down. `ray.init()` puts a handler of its own in place of the program's,
# without a word: SIGTERM then raises SystemExit(15) in whatever the main thread does. A handler that is set again after `ray.init()`
# answers, up to `ray.shutdown()`: from then on SIGTERM ends the process at once, though `signal.getsignal` still gives the program's
# handler. Set once more after the shutdown it answers again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ray==2.60.0"
cat > "$folder/answers.py" <<'EOF'
import os
import signal
import sys
import time

import ray

told = []


def mine(number, frame):
    told.append(number)


def ask(when):
    """Send SIGTERM to this process, and say who answers."""
    known = signal.getsignal(signal.SIGTERM) is mine
    before = len(told)
    print(f"{when}: handler mine {known}, ", end="", flush=True)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
    except SystemExit as error:
        print(f"SystemExit({error.code})", flush=True)
    else:
        print("answered" if len(told) > before else "not answered", flush=True)


signal.signal(signal.SIGTERM, mine)
ask("before init")
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
if "init" in sys.argv:
    ask("after init")
signal.signal(signal.SIGTERM, mine)
ask("set again")
ray.shutdown()
if "shutdown" in sys.argv:
    ask("after shutdown")
signal.signal(signal.SIGTERM, mine)
ask("set once more")
EOF
RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 "$folder/venv/bin/python" - "$folder/answers.py" <<'EOF'
import signal
import subprocess
import sys


def run(*words: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, sys.argv[1], *words], capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


first, second = run("init"), run("shutdown")
for code, lines in (first, second):
    print(*lines, f"exit status {code}", sep="\n", end="\n\n")
answered = "handler mine True, answered"
assert first == (0, [f"before init: {answered}", "after init: handler mine False, SystemExit(15)", f"set again: {answered}",
                     f"set once more: {answered}"])
assert second == (-signal.SIGTERM, [f"before init: {answered}", f"set again: {answered}", "after shutdown: handler mine True, "])
EOF
