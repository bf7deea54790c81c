"""Weighings that share a ledger: each trial is run once, by whoever holds the lease on it, and the dead lose theirs."""

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from tests.bench.postgresql import Server

from paperweight import weigh
from paperweight.bench.engine import Engine as RealEngine
from paperweight.bench.leases import Leases
from paperweight.bench.ledger import Ledger
from paperweight.bench.sharing import complete
from paperweight.bench.store import Store
from paperweight.bench.trial import Status, TrialRecord, TrialSpec
from paperweight.errors import InputError
from paperweight.provenance import here

PLAN = [TrialSpec(study="example", arm=a, seed=s, budget="smoke") for s in range(6) for a in ("base", "method")]


class Engine:
    """Runs trials in this process, which takes a moment each, and notes which."""

    def __init__(self, seconds: float = 0.02, status: Status = "finished") -> None:
        self.ran: list[tuple[str, int]] = []
        self.recorded: list[tuple[str, int]] = []
        self.meanwhile: Callable[[TrialSpec], None] = lambda spec: None
        self._seconds = seconds
        self._status: Status = status

    def starting_weights(self, spec: TrialSpec, places: Sequence[str]) -> dict[str, str]:
        return {}  # no trial of the plan has a network

    def run(
        self, specs: Sequence[TrialSpec], *, recorded: set[str], may_start: Callable[[TrialSpec], bool]
    ) -> Iterator[TrialRecord]:
        for spec in filter(may_start, specs):
            self.ran.append((spec.arm, spec.seed))
            time.sleep(self._seconds)
            self.meanwhile(spec)
            units = {}
            if spec.key() in recorded:
                self.recorded.append((spec.arm, spec.seed))
                units = {"a": "0"}
            yield TrialRecord(
                spec=spec,
                status=self._status,
                metrics={"score": spec.seed + (spec.arm == "method")},
                state=here().state(),
                units=units,
            )


def run(place: str, engine: Engine, plan: Sequence[TrialSpec] = PLAN, *, retry: bool = False) -> dict[str, TrialRecord]:
    with Ledger(place) as ledger:
        return complete(ledger, cast(RealEngine, engine), plan, baseline="base", retry=retry, progress=None)


def rows(place: str) -> list[tuple[str, int]]:
    store = Store(place)
    with store.reading() as connection:
        found = [tuple(row) for row in connection.execute(sa.select(store.trial.c.arm, store.trial.c.seed))]
    store.close()
    return sorted(found)


def change_leases(place: str, **values: object) -> None:
    store = Store(place)
    with store.writing() as connection:
        connection.execute(store.lease.update().values(**values))
    store.close()


def leased(place: str) -> int:
    store = Store(place)
    with store.reading() as connection:
        count = connection.execute(sa.select(sa.func.count()).select_from(store.lease)).scalar_one()
    store.close()
    return count


ALL = sorted((spec.arm, spec.seed) for spec in PLAN)


def test_drivers_at_once_run_each_trial_once_and_return_the_same(place: str) -> None:
    engines = [Engine(), Engine(), Engine()]
    begun = threading.Barrier(3)

    def first(engine: Engine) -> None:
        if len(engine.ran) == 1:
            begun.wait(60)

    for engine in engines:  # whoever is first waits for the others, so that none finds all done
        engine.meanwhile = lambda _, engine=engine: first(engine)
    Ledger(place).close()
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda engine: run(place, engine), engines))
    assert answers[0] == answers[1] == answers[2]
    assert answers[0].keys() == {spec.key() for spec in PLAN}
    assert rows(place) == sorted(trial for engine in engines for trial in engine.ran) == ALL
    assert all(engine.ran for engine in engines)
    assert sorted(trial for engine in engines for trial in engine.recorded) == [("base", 0), ("method", 0)]
    assert leased(place) == 0


def test_a_driver_that_waits_for_another_ends_once_nothing_is_wanted_any_more(place: str) -> None:
    first = Engine()
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def hold(spec: TrialSpec) -> None:
        begun.set()
        assert go_on.wait(20)

    def wanted(found: Mapping[str, TrialRecord]) -> list[TrialSpec]:
        return [] if over.is_set() else PLAN[:1]

    def wait() -> dict[str, TrialRecord]:
        with Ledger(place) as ledger:
            engine = cast(RealEngine, Engine())
            return complete(ledger, engine, PLAN[:1], baseline="base", retry=False, progress=None, wanted=wanted)

    first.meanwhile = hold
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(run, place, first, PLAN[:1])
        assert begun.wait(20)
        other = pool.submit(wait)
        time.sleep(0.1)
        over.set()
        assert other.result(10) == {}
        go_on.set()
        assert len(one.result(20)) == 1


def test_drivers_at_once_want_no_more_once_their_rows_together_suffice(place: str) -> None:
    plan = [TrialSpec(study="example", arm=a, seed=s, budget="smoke") for s in range(40) for a in ("base", "method")]
    begun = threading.Barrier(2)

    def wanted(found: Mapping[str, TrialRecord]) -> list[TrialSpec]:
        return plan[:8] if all(spec.key() in found for spec in plan[:8]) else plan

    def one_of_two() -> tuple[set[str], int]:
        engine = Engine()

        def first(spec: TrialSpec) -> None:
            if len(engine.ran) == 1:
                begun.wait(60)

        engine.meanwhile = first
        with Ledger(place) as ledger:
            runs = cast(RealEngine, engine)
            found = complete(ledger, runs, plan, baseline="base", retry=False, progress=None, wanted=wanted)
        return found.keys() & {spec.key() for spec in plan[:8]}, len(engine.ran)

    Ledger(place).close()
    with ThreadPoolExecutor(2) as pool:
        (one, ran), (other, also) = [each.result(60) for each in [pool.submit(one_of_two) for _ in range(2)]]
    assert len(one) == len(other) == 8
    assert ran + also <= 12  # each may have begun another trial, or two, before the row of the other came


def test_a_driver_waits_for_the_trial_of_another_and_uses_its_row(place: str) -> None:
    first, second = Engine(), Engine()
    begun, go_on = threading.Event(), threading.Event()

    def hold(spec: TrialSpec) -> None:
        if spec == PLAN[0]:
            begun.set()
            assert go_on.wait(20)

    first.meanwhile = hold
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(run, place, first)
        assert begun.wait(20)
        other = pool.submit(run, place, second)
        while len(second.ran) < len(PLAN) - 1:
            time.sleep(0.01)
        assert not other.done()
        go_on.set()
        assert one.result(20) == other.result(20)
    assert first.ran == [("base", 0)]
    assert first.recorded + second.recorded == [("base", 0), ("method", 0)]
    assert rows(place) == ALL


def test_failed_trials_are_retried_once_by_all_together(place: str) -> None:
    run(place, Engine(status="crashed"))
    engines = [Engine(status="crashed"), Engine(status="crashed")]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda engine: run(place, engine, retry=True), engines))
    assert answers[0] == answers[1]
    assert sorted(engines[0].ran + engines[1].ran) == ALL
    assert rows(place) == sorted(2 * ALL)


def test_failed_trials_are_run_again_unasked_only_where_none_of_the_baseline_finished(place: str) -> None:
    run(place, Engine(status="crashed"))
    mended = Engine()
    run(place, mended)
    assert sorted(mended.ran) == ALL
    again = Engine()
    run(place, again)
    assert again.ran == []


def ended() -> str:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return f"{process.pid} 1"


@pytest.mark.parametrize("machine", ["this", "other"])
def test_a_lease_of_a_dead_process_counts_no_more_on_its_own_machine(place: str, machine: str) -> None:
    with Ledger(place) as ledger, ledger.leases() as dead, ledger.leases() as living:
        assert dead.take("a", 0)
        assert not living.take("a", 0)
        assert living.free(["a", "b"]) == {"b"}
        change_leases(place, process=ended(), **({} if machine == "this" else {"machine": "other"}))
        assert living.take("a", 0) == (machine == "this")
        assert living.free(["a"]) == ({"a"} if machine == "this" else set())


def test_a_lease_that_is_not_renewed_runs_out_and_one_that_is_renewed_does_not(place: str) -> None:
    store = Store(place)
    silent = Leases(store, seconds=0.3)  # no thread renews it
    with Leases(store, seconds=0.3) as renewed, Leases(store) as other:
        assert silent.take("a", 0)
        assert renewed.take("b", 0)
        assert not other.take("a", 0)
        time.sleep(0.6)
        assert other.take("a", 0)
        assert not other.take("b", 0)
    store.close()


def test_a_lease_that_went_to_another_files_nothing_and_its_row_is_used(place: str) -> None:
    late, other = Engine(), Engine()

    def lose(spec: TrialSpec) -> None:
        if spec == PLAN[0]:
            change_leases(place, expires_at=0.0)
            run(place, other)

    late.meanwhile = lose
    found = run(place, late)
    assert late.ran == [("base", 0)]
    assert found == run(place, Engine())
    assert rows(place) == sorted(other.ran) == ALL


def test_a_trial_whose_row_is_newer_than_what_was_looked_at_is_not_leased(place: str) -> None:
    with Ledger(place) as ledger, ledger.leases() as leases:
        run(place, Engine(), PLAN[:1])
        assert not leases.take(PLAN[0].key(), 0)
        assert leases.take(PLAN[0].key(), ledger.newest())


def test_leases_are_given_back_when_a_weighing_stops(place: str) -> None:
    engine = Engine()

    def stop(spec: TrialSpec) -> None:
        if spec == PLAN[3]:
            raise KeyboardInterrupt

    engine.meanwhile = stop
    with pytest.raises(KeyboardInterrupt):
        run(place, engine)
    assert leased(place) == 0
    rest = Engine()
    assert len(run(place, rest)) == 12
    assert len(rest.ran) == 9
    assert rows(place) == ALL


def test_a_server_that_is_started_anew_in_mid_run_loses_and_doubles_nothing(
    database: str, postgresql: Server, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine()

    def restart(spec: TrialSpec) -> None:
        if spec == PLAN[2]:
            postgresql.stop()
            postgresql.start()

    engine.meanwhile = restart
    assert len(run(database, engine)) == 12
    assert rows(database) == ALL


STUDY = """
    import time
    from paperweight.studies import Arm, Metric, Outcome, Setting, Study

    STUDY = Study(
        paper="shared", question="Is it so?", claim="It is so.",
        arms={"base": Arm("without", 0), "method": Arm("with", 1)},
        metrics={"score": Metric(label="score", unit="", better="higher", minimal_effect=0.05)},
        headline="score", tuned="nothing", limits="a toy",
    )

    def run(arm: Arm, setting: Setting) -> Outcome:
        time.sleep(0.2)
        return Outcome(metrics={"score": float(arm.name == "method") + 0.01 * setting.seed})
"""


def test_two_weighings_with_workers_share_the_trials(tmp_path: Path) -> None:
    study = tmp_path / "shared.py"
    study.write_text(textwrap.dedent(STUDY))
    ledger = str(tmp_path / "ledger.sqlite")
    done: list[list[tuple[str, int, int]]] = [[], []]

    def start(number: int) -> Any:
        return weigh(
            str(study),
            budget="smoke",
            seeds=6,
            jobs=1,
            ledger=ledger,
            progress=lambda *event: done[number].append(event),
        )

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(start, range(2))
    assert first.records == second.records
    assert first.record() == second.record()
    assert first.verdict == second.verdict == "helps"
    assert rows(ledger) == ALL
    assert [events[-1] for events in done] == [("trials", 12, 12)] * 2


def test_a_weighing_in_memory_leases_too() -> None:
    engine = Engine()
    assert len(run("sqlite://", engine)) == 12
    assert sorted(engine.ran) == ALL


def test_what_a_worker_refuses_ends_the_weighing_and_gives_leases_back(place: str) -> None:
    engine = Engine()

    def refuse(_: TrialSpec) -> None:
        raise InputError("no such data")

    engine.meanwhile = refuse
    with pytest.raises(InputError, match="no such data"):
        run(place, engine)
    assert leased(place) == 0
