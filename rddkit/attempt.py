"""One attempt: find what to continue from, choose the loop, train, and say honestly how exact the resume was."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import ultralytics
import ultralytics.utils.torch_utils as torch_utils
import ultralytics.utils.tqdm as tqdm
from ultralytics.data.base import BaseDataset
from ultralytics.data.build import InfiniteDataLoader, _RepeatSampler
from ultralytics.engine.trainer import BaseTrainer

from rddkit import caps, checkpointing, clock, ddp, durable, faults, memory, status, tables, unused
from rddkit.config import known_arguments
from rddkit.exactness import Exactness, judge, loop_for
from rddkit.paths import RunPaths
from rddkit.runfile import RunFile
from rddkit.session import Found, Orders, Session, StopRequested, Talk
from rddkit.snapshot import Store
from rddkit.trainer import RoadDamageTrainer
from rddkit.watch import Watch
from rddkit.whole import WholeTrainer, strip

# What our loop mirrors or reaches into, as it was in the Ultralytics (8.4.190) that the parity tests passed on.
MIRRORED: dict[str, Any] = {
    "BaseTrainer._do_train": BaseTrainer._do_train,
    "BaseTrainer.final_eval": BaseTrainer.final_eval,
    "BaseTrainer._setup_train": BaseTrainer._setup_train,
    "BaseTrainer._close_dataloader_mosaic": BaseTrainer._close_dataloader_mosaic,
    "BaseTrainer.save_model": BaseTrainer.save_model,
    "InfiniteDataLoader": InfiniteDataLoader,
    "_RepeatSampler": _RepeatSampler,
    "BaseDataset.load_image": BaseDataset.load_image,
}
SOURCES = {
    "BaseTrainer._do_train": "87a635e3bfc4fd3f",
    "BaseTrainer.final_eval": "398e74e935f34789",
    "BaseTrainer._setup_train": "aecd0c111afe4314",
    "BaseTrainer._close_dataloader_mosaic": "ee5b6df05c4167d6",
    "BaseTrainer.save_model": "47f61ede98e6f12b",
    "InfiniteDataLoader": "7b232ee7c2d3e888",
    "_RepeatSampler": "2582f0c6ead5b2f2",
    "BaseDataset.load_image": "088d1a203d122cdd",
}


def source_hash(thing: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a function's or class's source."""
    return hashlib.sha256(inspect.getsource(thing).encode()).hexdigest()[:16]


def changed_sources() -> list[str]:
    """The mirrored functions that are not as they were when parity was shown."""
    return [name for name, thing in MIRRORED.items() if source_hash(thing) != SOURCES.get(name)]


def quiet_bars() -> None:
    """Write progress into the log once a minute, not ten times a second: a night is long."""
    tqdm.is_noninteractive_console = lambda: True


def fix_threads(threads: int) -> None:
    """Use this many CPU threads: Ultralytics sets cores - 1 whatever the environment says, and bits depend on it."""
    torch_utils.NUM_THREADS = threads
    torch.set_num_threads(threads)


def ultralytics_device(device: str) -> str:
    """The device in Ultralytics' own words: `cuda` and `cuda:0` are plain numbers there."""
    return device.removeprefix("cuda:") if device != "cuda" else "0"


def arguments(paths: RunPaths, record: RunFile) -> dict[str, Any]:
    """The Ultralytics arguments of an attempt: what was asked, under the plan, in this folder."""
    plan = {key: value for key, value in record.plan.items() if key in known_arguments()}
    return {
        **record.config,
        **plan,
        "device": ultralytics_device(record.device),
        "project": str(paths.folder.parent),
        "name": paths.name,
        "exist_ok": True,
        "save_dir": str(paths.folder),
    }


def checkpoint_epochs(last: Path) -> int:
    """Whole epochs in a checkpoint; -1 for one that a finished training stripped; 0 where there is none to resume."""
    if not last.exists():
        return 0
    try:
        checkpoint = torch.load(last, map_location="cpu", weights_only=False)  # written by this run's own worker
        return int(checkpoint["epoch"]) + 1 if checkpoint.get("epoch", -1) >= 0 else -1
    except Exception as error:
        print(f"{last} cannot be read ({error})")
        return 0


def find(paths: RunPaths, store: Store, say: Any, exact_loop: bool) -> Found:
    """The newest snapshot that verifies, else last.pt, else nothing; what is passed over is said."""
    newest = store.newest(say) if exact_loop else None
    if newest:
        return Found(state=newest[0], path=newest[1])
    epochs_done = checkpoint_epochs(paths.last)
    return Found(path=paths.last, epochs_done=epochs_done) if epochs_done else Found()


def forget_rows_after(results: Path, epochs_done: int) -> float:
    """Drop torn rows, and those of epochs that the state continued from does not hold; the training seconds so far."""
    if results.exists() and not results.read_bytes().lstrip().startswith(b"epoch"):
        results.unlink()  # a full disk took not even its header, which is only written into a new file
    if not results.exists():
        return 0.0

    def keep(line: str) -> bool:
        first = line.split(",")[0].strip()
        return not first.isdigit() or int(first) <= epochs_done

    tables.heal(results)
    durable.edit_lines(results, keep)
    rows = status.read_rows(results)
    return rows[-1].get("time", 0.0) if rows else 0.0


def environment(record: RunFile) -> dict[str, Any]:
    """What the bits of a result depend on besides the state; kept with each snapshot."""
    return {
        "device": record.device,
        "threads": record.threads,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        "ultralytics": ultralytics.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "albumentations": importlib.util.find_spec("albumentations") is not None,
        **{key: record.plan.get(key) for key in ("batch", "imgsz", "workers", "val_batch")},
        **{key: record.config.get(key) for key in ("val", "close_mosaic", "patience")},
        "val_period": record.safety["val_period"],
    }


def mend_best(last: Path, best: Path) -> None:
    """Make best.pt of last.pt where that is the best epoch: a kill may have come between Ultralytics' two writes."""
    content = torch.load(last, map_location="cpu", weights_only=False)
    if (content.get("train_metrics") or {}).get("fitness") == content.get("best_fitness"):
        durable.copy(last, best)


class KeepingStore(Store):
    """A store that writes the environment into each snapshot, for the next attempt to compare."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        super().__init__(folder)
        self.about = about

    def take(self, state: dict[str, Any], epoch: int, batch: int, end: bool) -> Any:
        return super().take({**state, "environment": self.about, "t": clock.stamp()}, epoch, batch, end)


def tell_resumed(talk: Talk, paths: RunPaths, found: Found, exactness: Exactness) -> None:
    """Tell the journal where an attempt continues: epoch 1-based, and its batches that are done."""
    if found.state is not None:
        place, batch = found.state["place"], found.state["batch"]
        finished = place["stage"] == "finished"
        epoch = place["epoch"] + (2 if finished else 1)
        done = 0 if finished else -(-place["images"] // batch)
        seconds = found.state["train_seconds"]
    else:
        epoch, done = max(found.epochs_done, 0) + 1, 0
        rows = status.read_rows(paths.results_csv)[: found.epochs_done]
        seconds = rows[-1].get("time", 0.0) if rows else 0.0
    source = found.path.name if found.path else "the beginning"
    how = {"exact": exactness.exact, "reason": exactness.reason, "source": source}
    talk.event("resumed", epoch=epoch, batch=done, **how, train_seconds=round(seconds, 2))


def _count_on(seconds: float) -> Any:
    """A callback that lets the seconds of training go on where the attempts before left them."""

    def count_on(trainer: Any) -> None:
        trainer.train_time_start -= seconds

    return count_on


def train(paths: RunPaths, record: RunFile, attempt: int, talk: Talk, orders: Orders, reseed: bool = False) -> bool:
    """Train one attempt to the end; False if it was asked to stop before.

    `reseed`: draw other random numbers than the attempt before did from the same place.
    """
    faults.begin(attempt)
    ranks = len(ddp.devices(record.device))
    writes = ranks == 1 or ddp.rank() == 0
    device = ddp.own_device(record.device)
    if ranks > 1:
        torch.cuda.set_device(device)  # before anything is asked of a device: each rank would open the first one too
    if record.safety["cap"]:
        print(caps.on_device(device, None if record.safety["budget"] == "auto" else record.budget["bytes"]))
    quiet_bars()
    unused.give_back()
    fix_threads(max(1, record.threads // ranks))
    loop = loop_for(arguments(paths, record), changed_sources())
    exact_loop = loop.exact
    about = environment(record)
    store = KeepingStore(paths.snapshots, about)
    if writes:
        store.clear_leftovers()
    passed_over: list[str] = []
    found = find(paths, store, passed_over.append, exact_loop)
    for text in passed_over:
        print(text)
    overrides = arguments(paths, record)
    epochs = overrides.get("epochs") or known_arguments()["epochs"].default
    if writes and found.epochs_done > 0:
        mend_best(paths.last, paths.best)
    if not 0 <= found.epochs_done < epochs:  # training is over; only the report is missing
        if writes and found.epochs_done > 0:
            for weights in (paths.last, paths.best):
                strip(weights)
        return True
    if found.state is None and found.epochs_done:
        overrides["resume"] = str(paths.last)
    if found.state and str(overrides["model"]).endswith(".pt") and not Path(overrides["model"]).exists():
        overrides["model"] = str(paths.last)  # what the run began with is gone, or was never here: a taken-in run
    place = found.state["place"] if found.state else None
    rows = found.epochs_done if place is None else place["epoch"] + (1 if place["stage"] == "finished" else 0)
    session = Session(store, talk, orders, found, record.safety)
    session.seed = attempt if reseed else None
    session.budget = int(record.budget.get("bytes") or 0)
    val_batch = record.plan.get("val_batch")
    session.validation.batch = val_batch and max(1, val_batch // ranks)
    session.validation.imgsz = record.plan.get("val_imgsz")
    kind = RoadDamageTrainer if exact_loop else WholeTrainer
    trainer = kind(overrides, session)

    def settle(trainer: Any) -> None:
        """Once it is set up: whether images are cached depends on the memory that was free."""
        about["cache"] = trainer.train_loader.dataset.cache or False
        if attempt > 1 or found.epochs_done:
            exactness = judge(found.state, found.epochs_done, about, loop, passed_over)
            if reseed:
                exactness = Exactness(False, "other random numbers: the same ones led to what is not a number")
            tell_resumed(talk, paths, found, exactness)

    trainer.add_callback("on_train_start", settle)
    found.seconds = forget_rows_after(paths.results_csv, rows) if writes else 0.0
    watch = Watch(trainer, session, leaves=not exact_loop)
    watch.batch = place["images"] // record.plan["batch"] if place and place["stage"] != "finished" else 0
    watch.attach()
    if (forgets := record.plan.get("checkpointing")) and not overrides.get("compile"):
        trainer.add_callback("on_train_start", lambda trainer: checkpointing.attach(trainer.model, forgets))
    capped = record.safety["cap"] and record.device == "cpu"
    trainer.add_callback("on_train_start", lambda _trainer: print(caps.with_model(session.budget, capped), flush=True))
    if not exact_loop:  # Ultralytics' own loop has just begun to count
        trainer.add_callback("on_train_start", _count_on(found.seconds))
        if writes:  # a snapshot of our loop's is older now than last.pt, and must not be taken for the newest
            trainer.add_callback("on_model_save", lambda _trainer: store.remove())
    if record.safety["clear_cache"]:
        talk.event("cache_cleared", freed_bytes=memory.clear_cache(record.device), when="before training")
    try:
        trainer.train()
    except StopRequested:
        return False
    if writes:
        store.remove()
    return True
