# pyright: basic
"""A program that runs trials of the tree that is on the path and says what they computed, bit for bit.

It is started in a process of its own, for any revision whose `paperweight.bench.worker.run_trial` takes a
`paperweight.bench.trial.TrialSpec`, and must import nothing else of this package: the tree may be older or newer.

Standard input holds one request, standard output one answer a line, in JSON.
"""

import importlib
import json
import os
import sys
import threading
import time
import zlib
from typing import Any

__all__: list[str] = []


def main() -> None:
    """Answer the request ``{"study", "arms", "seeds", "budget", "device"}``: one line a trial."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    importlib.import_module("torch").set_num_threads(1)
    trial = importlib.import_module("paperweight.bench.trial")
    worker = importlib.import_module("paperweight.bench.worker")
    declared = importlib.import_module("paperweight.bench.loading").load_study(request["study"]).declaration.metrics
    timed = {name for name, metric in declared.items() if metric.unit == "ms"}  # never the same twice
    picked, computed = _watch_picks(), _watch_values()
    for seed in request["seeds"]:
        for arm in request["arms"]:
            fields = {**request, "arm": arm, "seed": seed, "code": {}}
            spec = trial.TrialSpec(**{name: fields[name] for name in trial.TrialSpec.model_fields if name in fields})
            codes: dict[int, Any] = {}
            picked.clear()
            computed.clear()

            def entered(frame: Any, _event: str, _argument: object, codes: dict[int, Any] = codes) -> None:
                codes[id(frame.f_code)] = frame.f_code

            if seed == request["seeds"][0]:  # one seed tells what is executed; tracing takes time
                threading.settrace(entered)
                sys.settrace(entered)
            try:
                record = worker.run_trial(spec)
            finally:
                sys.settrace(None)
                threading.settrace(None)  # type: ignore[arg-type]
            lines = {(code.co_filename, code.co_firstlineno) for code in codes.values()}
            answer = {
                "arm": arm,
                "seed": seed,
                "status": record.status,
                "message": record.message[-1000:] if record.status not in ("finished", "diverged") else "",
                "metrics": {name: float(value).hex() for name, value in record.metrics.items() if name not in timed},
                "correct": zlib.crc32(record.correct.encode()),
                "data_hashes": getattr(record, "data_hashes", {}),
                "computed": sorted(computed),
                "picked": picked,
                "lines": sorted(line for line in lines if line[0].endswith(".py")),
                "cpu_seconds": time.process_time(),
            }
            print(json.dumps(answer), file=answers, flush=True)


def _watch_picks() -> list[object]:
    """Have what each budget would pick noted, so that a change of a larger budget's value is seen at a smaller one."""
    setting = importlib.import_module("paperweight.studies").Setting
    pick = setting.pick
    picked: list[object] = []

    def watched(self: object, *, smoke: object, desk: object, gpu: object) -> object:
        picked.append(_described([smoke, desk, gpu]))
        return pick(self, smoke=smoke, desk=desk, gpu=gpu)

    setting.pick = watched
    return picked


def _watch_values() -> set[int]:
    """Have the outputs of models, and their weights after each update, noted: metrics alone are too coarse."""
    nn = importlib.import_module("torch.nn")
    optimizers = importlib.import_module("torch.optim.optimizer")
    computed: set[int] = set()
    call, depth = nn.Module.__call__, [0]

    def watched(self: object, *inputs: object, **more: object) -> object:
        depth[0] += 1
        try:
            outputs = call(self, *inputs, **more)
        finally:
            depth[0] -= 1
        if depth[0] == 0:
            _note(computed, outputs)
        return outputs

    def updated(optimizer: Any, *_: object) -> None:
        for group in optimizer.param_groups:
            _note(computed, group["params"])

    nn.Module.__call__ = watched
    optimizers.register_optimizer_step_post_hook(updated)
    return computed


def _note(computed: set[int], values: Any) -> None:
    """Add a hash of each tensor in nested values; what has no numbers yet, as under a trace, is left out."""
    torch = importlib.import_module("torch")
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            _note(computed, value)
    elif isinstance(values, torch.Tensor):
        try:
            with torch._C.DisableTorchFunction():  # a model that is traced by its functions must not see these
                flat = values.detach().cpu().contiguous().flatten().view(torch.uint8)
                computed.add(zlib.crc32(flat.numpy().data, len(values.shape)))
        except (RuntimeError, TypeError):
            return


def _described(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_described(part) for part in value]
    return repr(value) if isinstance(value, bool | int | float | str | None) else type(value).__name__


if __name__ == "__main__":
    main()
