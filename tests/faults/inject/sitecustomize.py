"""Faults in a real worker, for tests: put this folder on PYTHONPATH and a plan into RDDKIT_INJECT.

The plan is JSON: a list of {"id", "what": oom|hang|nan|crash, "where", "epoch", ...}. `where` is forward, backward,
step, batch, checkpoint, loading, validation or saving. Each fires once in the
run, whatever attempt reaches it: a file in RDDKIT_INJECT_DIR says that it did. One with "armed" waits until a file
`armed-ID` is there too.

RDDKIT_HANG_SECONDS is how long a worker that has started may be silent; the start itself keeps its half hour, because
torch takes as long as a busy machine makes it.
"""

import json
import os
import sys
import time

PLAN = json.loads(os.environ.get("RDDKIT_INJECT") or "[]")
now = {"epoch": 0, "trainer": None}


def fired(fault):
    try:
        os.close(os.open(f"{os.environ['RDDKIT_INJECT_DIR']}/{fault['id']}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return True
    return False


def armed(fault):
    return "armed" not in fault or os.path.exists(f"{os.environ['RDDKIT_INJECT_DIR']}/armed-{fault['id']}")


def reach(place):
    for fault in PLAN:
        if (
            fault["where"] == place
            and armed(fault)
            and fault.get("epoch", now["epoch"]) == now["epoch"]
            and not fired(fault)
        ):
            print(f"injected: {fault}", flush=True)
            act(fault)
            break


def act(fault):
    import torch

    if fault["what"] == "oom":
        kind = {"MemoryError": MemoryError, "OutOfMemoryError": torch.cuda.OutOfMemoryError}
        raise kind.get(fault.get("kind"), RuntimeError)(fault["message"])
    if fault["what"] == "crash":
        raise RuntimeError(fault["message"])
    if fault["what"] == "hang":
        time.sleep(fault.get("seconds", 600))
    if fault["what"] == "nan":
        next(now["trainer"].model.parameters()).data.fill_(float("nan"))


def around(owner, name, place):
    whole = getattr(owner, name)

    def instead(self, *args, **kwargs):
        reach(place)
        return whole(self, *args, **kwargs)

    instead.__code__ = instead.__code__.replace(co_name=name)  # a stack then reads as without us
    setattr(owner, name, instead)


def install(begin):
    def instead(attempt):
        begin(attempt)
        import torch
        from ultralytics.data.base import BaseDataset
        from ultralytics.models.yolo.detect import DetectionValidator

        from rddkit.trainer import RoadDamageTrainer

        around(BaseDataset, "load_image", "loading")
        around(DetectionValidator, "preprocess", "validation")
        around(RoadDamageTrainer, "save_model", "saving")
        around(RoadDamageTrainer, "optimizer_step", "step")
        around(torch.Tensor, "backward", "backward")
        epoch = RoadDamageTrainer._epoch

        def noted(self, place):
            now["epoch"], now["trainer"] = place.epoch + 1, self
            return epoch(self, place)

        RoadDamageTrainer._epoch = noted

    return instead


if os.environ.get("RDDKIT_HANG_SECONDS") and "rddkit.supervisor" in sys.orig_argv:
    from rddkit import hang

    hang.DEADLINE = float(os.environ["RDDKIT_HANG_SECONDS"])

if PLAN and "rddkit.worker" in sys.orig_argv:
    from rddkit import faults

    point = faults.point

    def point_or_fault(name):
        if name in ("batch", "forward", "checkpoint"):
            reach(name)
        point(name)

    faults.point = point_or_fault
    faults.begin = install(faults.begin)
