"""What a driver makes of a worker that answers, half answers, writes something else, dies, or is killed."""

import textwrap
import threading
import time
from pathlib import Path

import pytest

from paperweight.bench import process
from paperweight.bench.engine import Engine, local_engine
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.errors import InputError

WORKER = """
    import json, os, signal, sys, time
    from pathlib import Path

    def say(**parts):
        print(json.dumps(parts), flush=True)

    say(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        number, spec = request["number"], request["spec"]
        record = {{"spec": spec, "status": "finished", "metrics": {{"score": 1.0}}}}
        tried = Path({folder!r}, f"tried-{{spec['arm']}}-{{spec['seed']}}")
        with tried.open("a") as file:
            file.write("x")
        if spec["arm"] == "method":
{body}
        say(number=number, record=record, changed=[])
"""


def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, body: str, seeds: int = 1, time_limit: float = 30.0
) -> tuple[dict[str, TrialRecord], list[int]]:
    """Run pairs with a worker that does something in one arm; return records by arm, and how often each was tried."""
    code = WORKER.format(folder=str(folder), body=textwrap.indent(textwrap.dedent(body), " " * 12))
    monkeypatch.setattr(process, "WORKER_CODE", textwrap.dedent(code))
    specs = [TrialSpec(study="s", arm=arm, seed=n, budget="smoke") for n in range(seeds) for arm in ("method", "base")]
    records = {r.spec.arm: r for r in local_engine(jobs=1, time_limit=time_limit).run(specs)}
    return records, [len((folder / f"tried-{arm}-0").read_text()) for arm in ("method", "base")]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('os.write(1, b\'{"number": "1\'); os._exit(0)', "exit status 0"),
        (
            "print(json.dumps(dict(number=number, record=record))[:-1], end='', flush=True); os._exit(7)",
            "exit status 7",
        ),
        ("print('[1, 2]', flush=True)", "what is no answer"),
        ("print('no JSON', flush=True)", "what is no answer"),
        ("say(number='another', record=record, changed=[])", "what is no answer"),
        ("say(number=number, record=record | {'spec': spec | {'seed': 77}}, changed=[])", "for another trial"),
        ("say(number=number, record=record | {'status': 'perfect'}, changed=[])", "no record"),
        ("print('x' * 200_000_000, flush=True)", "what is no answer"),
        ("os.write(2, b'last words\\xff\\n'); os._exit(3)", "last words"),
        ("os.kill(os.getpid(), signal.SIGABRT)", "signal 6"),
        ("os.close(1); os._exit(5)", "exit status 5"),
    ],
)
def test_anything_but_a_whole_answer_to_the_request_is_the_death_of_that_trial_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    records, tries = run(tmp_path, monkeypatch, body)
    assert (records["method"].status, records["base"].status) == ("crashed", "finished")
    assert says in records["method"].message
    assert tries == [1, 1]


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT"])
def test_what_was_killed_from_outside_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    body = f"""
        if signal.{number} != signal.SIGKILL:
            signal.signal(signal.{number}, signal.SIG_DFL)
        if tried.stat().st_size < 3:
            os.kill(os.getpid(), signal.{number})
    """
    records, tries = run(tmp_path, monkeypatch, body)
    assert (records["method"].status, records["base"].status) == ("finished", "finished")
    assert tries == [3, 1]


def test_what_is_killed_again_and_again_says_so_and_by_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, tries = run(tmp_path, monkeypatch, "os.kill(os.getpid(), signal.SIGKILL)")
    assert (records["method"].status, tries) == ("killed", [3, 1])
    assert "killed from outside (signal 9, SIGKILL)" in records["method"].message
    assert records["base"].status == "finished"


def test_a_guard_that_is_killed_is_no_fault_of_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, tries = run(tmp_path, monkeypatch, "os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)")
    assert (records["method"].status, tries) == ("killed", [3, 1])


def test_a_worker_that_ran_out_of_memory_is_told_from_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = '{\\"ended\\": {\\"code\\": -9, \\"told\\": false, \\"memory\\": true}}'
    records, tries = run(tmp_path, monkeypatch, f'print("{end}", flush=True); os._exit(0)')
    assert (records["method"].status, tries) == ("out-of-memory", [1, 1])


def test_an_endless_trial_ends_at_its_limit_with_a_guard_that_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "os.kill(os.getppid(), signal.SIGSTOP); time.sleep(600)"
    records, tries = run(tmp_path, monkeypatch, body, time_limit=1.0)
    assert (records["method"].status, tries) == ("timed-out", [1, 1])
    assert "1 s" in records["method"].message


def test_a_worker_that_is_no_more_as_it_was_is_replaced_before_a_trial_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
        if tried.stat().st_size == 1:
            say(number=number, worn=["umask"])
            continue
        say(number=number, record=record | {"message": str(os.getpid())}, changed=["umask"])
        continue
    """
    records, tries = run(tmp_path, monkeypatch, body, seeds=2)
    assert {record.status for record in records.values()} == {"finished"}
    assert tries == [2, 1]


def test_a_refusal_ends_the_run_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such network"):
        run(tmp_path, monkeypatch, "say(number=number, refused='no such network')")


class OnePlace:
    """Workers of which one alone can live at a time, as on a cluster with a single free core."""

    scarce = True

    def __init__(self) -> None:
        self.place, self.stopped = threading.Semaphore(), False

    def worker(self) -> "Placed":
        return Placed(self.place)

    def stop(self) -> None:
        self.stopped = True


class Placed:
    def __init__(self, place: threading.Semaphore) -> None:
        self.place, self.held = place, False

    def run(self, spec: TrialSpec, **_: object) -> process.Answer:
        if not self.held:
            self.held = self.place.acquire(timeout=20.0)
            assert self.held, "the place was never given back"
        time.sleep(0.01)
        return process.Answer(TrialRecord(spec=spec, status="finished"), reusable=True)

    def starting_weights(self, spec: TrialSpec, places: list[str], time_limit: float) -> dict[str, str]:
        return {}

    def close(self) -> None:
        if self.held:
            self.place.release()
        self.held = False


class Asked:
    """Workers that are asked for the weights that a network starts from, of which the second dies of it."""

    scarce = stopped = False

    def __init__(self) -> None:
        self.started: list[int] = []
        self.closed: list[int] = []

    def worker(self) -> "Asked":
        self.started.append(len(self.started))
        return self

    def starting_weights(self, spec: TrialSpec, places: list[str], time_limit: float) -> dict[str, str]:
        return {} if places == ["death"] else dict.fromkeys(places, "weights")

    def close(self) -> None:
        self.closed.append(self.started[-1])

    def stop(self) -> None:
        self.closed.append(-1)


def test_one_worker_tells_starting_weights_as_long_as_the_block_lasts_and_it_lives() -> None:
    spec = TrialSpec(study="s", arm="base", seed=0, budget="smoke", network="own:network")
    workers = Asked()
    engine = Engine(lambda: workers, jobs=1, time_limit=30.0)  # pyright: ignore[reportArgumentType]
    with engine:
        assert [engine.starting_weights(spec, [place]) for place in "ab"] == [{"a": "weights"}, {"b": "weights"}]
        assert (workers.started, workers.closed) == ([0], [])
        assert engine.starting_weights(spec, ["death"]) == {}
        assert engine.starting_weights(spec, ["c"]) == {"c": "weights"}
        assert (workers.started, workers.closed) == ([0, 1], [0])
    assert workers.closed == [0, -1]
    engine.starting_weights(spec, ["a"])
    assert (len(workers.started), workers.closed) == (3, [0, -1, -1])


def test_a_worker_that_has_nothing_left_to_do_makes_room_for_one_that_waits() -> None:
    specs = [TrialSpec(study="s", arm="base", seed=seed, budget="smoke") for seed in range(5)]
    records = Engine(OnePlace, jobs=3, time_limit=30.0).run(specs)
    assert sorted(record.spec.seed for record in records) == [0, 1, 2, 3, 4]
