# pyright: reportPrivateImportUsage=false
"""One of the other processes of a training across devices: it calls the function that the first process calls."""

import importlib
import json
import os
import sys
import time
import traceback
from contextlib import nullcontext

import torch
import torch.distributed as dist

from paperweight.bench.loading import STUDY_MODULE, load_study
from paperweight.loops import Search
from paperweight.processes import allow_folder
from paperweight.studies import Setting
from paperweight.studies._devices import connected, import_fabric

__all__ = ["main"]


def main(folders: list[str]) -> None:
    """Read one request of `paperweight.studies.across_devices`, say when all is imported, and when the work is done.

    What the study prints goes to the error stream. A failure ends the process at once, while it is connected: the
    others learn of it when there is nothing more to be said.

    Args:
        folders: The user's folders, in which modules that the user named are found.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for folder in folders:
        allow_folder(folder)
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    request = json.loads(sys.stdin.readline())
    number, devices, device = request["number"], request["devices"], torch.device(request["device"])
    study = load_study(request["study"])
    train = getattr(sys.modules[f"{STUDY_MODULE}{study.stem}"], request["train"])
    own_device = f"cuda:{(device.index or 0) + number}" if device.type == "cuda" else request["device"]
    setting = Setting(**request["setting"], device=own_device)
    search = nullcontext() if request["tune"] is None else Search(request["tune"], setting.stream("method"))
    import_fabric()
    importlib.import_module("sklearn.datasets")
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])  # the first one loads torch's compiler
    print(json.dumps({"ready": True}), file=answers, flush=True)
    store = dist.TCPStore("127.0.0.1", request["port"], is_master=False, wait_for_workers=False)
    began = time.process_time()
    with connected(device, number, devices, store) as fabric:
        try:
            with search:
                setting.shared(f"process {number}").seed_global_streams()
                train(study.declaration.arm(request["arm"]), setting, fabric)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        seconds = time.process_time() - began - setting.unbilled_cpu
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)
