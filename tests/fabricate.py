"""A run's folder made up: what the supervisor would have written, with kills and resumes, without any training."""

from __future__ import annotations

import json
import math
import random
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml

from rddkit import clock
from rddkit.paths import RunPaths
from rddkit.safety import Safety

GIB = 1 << 30
START = datetime(2026, 11, 22, 20, 5, tzinfo=timezone.utc)
COLUMNS = (
    "epoch,time,train/box_loss,train/cls_loss,train/dfl_loss,metrics/precision(B),metrics/recall(B),metrics/mAP50(B),"
    "metrics/mAP50-95(B),val/box_loss,val/cls_loss,val/dfl_loss,lr/pg0,lr/pg1,lr/pg2"
)


def fabricate_run(
    folder: Path,
    epochs: int = 40,
    attempts: int = 2,
    memory_rows: int = 2000,
    *,
    total: int | None = None,
    end: str | None = "run_done",
    batches: int = 120,
    epoch_seconds: float = 300.0,
    step_rows_per_epoch: int = 30,
    fallback: bool = False,
    evidence: str = "SIGKILL from outside, no sign of memory",
) -> RunPaths:
    """Write a run of `epochs` whole epochs (of `total`), cut into `attempts` by kills in the middle of epochs.

    Args:
        end: the closing event (`run_done`, `run_stopped`, `run_failed`), or None for a run that died without a word.
        fallback: whether the second attempt follows an out-of-memory kill with a lighter plan.
        evidence: the evidence of every kill, such as hostile text.
    """
    chance, paths, total = random.Random(0), RunPaths(folder), total or epochs
    folder.mkdir(parents=True, exist_ok=True)
    plan: dict[str, Any] = {"model": "yolov8n.pt", "batch": 4, "imgsz": 640, "workers": 0, "cache": False}
    plan |= {"plots": True, "amp": False, "multi_scale": 0.0, "val_batch": None, "val_imgsz": 640}
    failed: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    steps, memory, results = [], [], []
    now, seconds = START, 0.0

    def add(event: str, attempt: int, **fields: Any) -> None:
        events.append({"t": clock.stamp(now), "event": event, "attempt": attempt, **fields})

    choices = {
        "device": {"value": "cpu", "reason": "no CUDA and no MPS device"},
        "threads": {"value": 2, "reason": "physical cores"},
    }
    add("run_started", 0, name=folder.name, config={"epochs": total}, plan=plan, choices=choices)
    kills = [max(1, round(epochs * (i + 1) / attempts)) for i in range(attempts - 1)]
    attempt = 1
    add("attempt_started", attempt, plan=plan, worker_pid=4000)
    memory_step = max(0.5, (epochs + 0.5 * len(kills)) * epoch_seconds / max(1, memory_rows))
    next_memory = now
    epoch = 1
    while epoch <= epochs:
        killed = bool(kills) and epoch == kills[0]
        for row in range(1, step_rows_per_epoch + 1):
            if killed and row > step_rows_per_epoch // 2:
                break
            now += timedelta(seconds=epoch_seconds / step_rows_per_epoch)
            done = epoch - 1 + row / step_rows_per_epoch
            fall, noise = math.exp(-done / 12), chance.gauss(0, 0.12)
            box, cls, dfl = 1.1 + 1.4 * fall + noise, 0.8 + 2.6 * fall + 1.5 * noise, 1.1 + 0.9 * fall + 0.5 * noise
            lr = 0.01 * min(1.0, done / 3) * (1 - 0.99 * done / total)
            speed = 14.5 + chance.gauss(0, 1.2) - (6 if chance.random() < 0.01 else 0)
            batch = round(batches * row / step_rows_per_epoch)
            numbers = f"{box:.4f},{cls:.4f},{dfl:.4f},{lr:.6g},{speed:.2f}"
            steps.append(f"{clock.stamp(now)},{attempt},{epoch},{batch},{numbers}")
            while next_memory <= now and len(memory) < memory_rows:
                base = 2.3 + 0.4 * (1 - math.exp(-done)) + (0.35 if row > step_rows_per_epoch * 0.9 else 0)
                base += chance.gauss(0, 0.05) + (1.2 if killed and row > step_rows_per_epoch * 0.4 else 0)
                worker, budget = int(base * GIB), int(4 * GIB)
                memory.append(f"{clock.stamp(next_memory)},{attempt},{worker},,{int(7.2 * GIB) - worker},{budget},0")
                next_memory += timedelta(seconds=memory_step)
        if killed:
            kills.pop(0)
            cause = "oom" if fallback else "killed"
            add("attempt_ended", attempt, cause=cause, evidence=evidence, exit=-9, peak_bytes=int(3.9 * GIB))
            if fallback and plan["batch"] > 1:
                half = {"batch": plan["batch"] // 2}
                why = f"the kernel killed attempt {attempt}"
                told = {"from": {"batch": plan["batch"]}, "to": half, "reason": why, "kind": "batch"}
                add("fallback", attempt, **told, epoch=epoch)
                failed.append({**plan, "evidence": why})
                plan = {**plan, **half}
            attempt += 1
            now += timedelta(seconds=8)
            next_memory = now
            add("attempt_started", attempt, plan=plan, worker_pid=4000 + attempt)
            now += timedelta(seconds=5)
            lost = {"lost_batches": batches // 2, "lost_seconds": epoch_seconds / 2}
            add("resumed", attempt, epoch=epoch, batch=0, **lost, exact=True, reason="newest snapshot")
            continue
        seconds += epoch_seconds
        fall, noise = math.exp(-epoch / 12), chance.gauss(0, 0.012)
        map50 = max(0.0, 0.6 * (1 - math.exp(-epoch / 9)) - 0.0012 * max(0, epoch - 30) + noise)
        values = [1.1 + 1.4 * fall, 0.8 + 2.6 * fall, 1.1 + 0.9 * fall, map50 + 0.06, map50 - 0.04, map50, map50 * 0.52]
        values += [1.3 + 1.2 * fall + noise, 1.0 + 2.3 * fall + noise, 1.2 + 0.8 * fall + noise]
        lr = 0.01 * min(1.0, epoch / 3) * (1 - 0.99 * epoch / total)
        numbers = ",".join([f"{max(0.0, value):.5f}" for value in values] + [f"{lr:.6g}"] * 3)
        results.append(f"{epoch},{seconds:.2f},{numbers}")
        metrics = dict(zip(COLUMNS.split(",")[2:12], values, strict=True))
        add("epoch", attempt, epoch=epoch, epochs=total, metrics=metrics, seconds=epoch_seconds)
        add("snapshot", attempt, epoch=epoch, batch=0, bytes=37_500_000, seconds=0.41)
        epoch += 1
    if end:
        cause = {"run_done": "done", "run_failed": "crash"}.get(end, "stopped")
        add("attempt_ended", attempt, cause=cause, evidence="", exit=0, peak_bytes=int(3.2 * GIB))
    if end == "run_done":
        best = max(range(len(results)), key=lambda row: float(results[row].split(",")[7]))
        map50 = float(results[best].split(",")[7])
        add("run_done", attempt, epochs=epochs, best_epoch=best + 1, best_map50=map50, seconds=seconds)
    elif end == "run_stopped":
        add("run_stopped", attempt, reason="the stop button", epoch=epochs, batch=41)
    elif end == "run_failed":
        add("run_failed", attempt, cause="crash", evidence=evidence, what_to_do="rddkit doctor", exit=1)

    run = {
        "schema": 1,
        "name": folder.name,
        "created": clock.stamp(START),
        "config": {"model": "yolov8n.pt", "epochs": total, "batch": 4, "imgsz": 640, "seed": 42},
        "plan": plan,
        "failed": failed,
        "config_file": "configs/night.yaml",
        "safety": Safety().model_dump(),
        "choices": choices,
        "versions": {"python": "3.11.7", "torch": "2.14.1+cpu", "ultralytics": "8.4.190", "rddkit": "0.1.0"},
        "threads": 2,
        "device": "cpu",
        "dataset": {"path": "data/rdd-sample/rdd2022.yaml", "fingerprint": "9f1c03aa", "images": 407},
        "git": {"commit": "0123abc", "dirty": False},
    }
    progress = {
        "state": "done" if end == "run_done" else "running",
        "phase": "train",
        "epoch": epochs,
        "epochs": total,
        "batch": batches,
        "batches": batches,
        "images_per_second": 14.5,
        "eta_seconds": 0 if total == epochs else (total - epochs) * epoch_seconds,
        "heartbeat": clock.stamp(now),
        "attempt": attempt,
        "worker_pid": 4000 + attempt,
        "supervisor_pid": 3999,
    }
    paths.run_yaml.write_text(yaml.safe_dump(run, sort_keys=False), encoding="utf-8")
    paths.progress.write_text(json.dumps(progress), encoding="utf-8")
    paths.journal.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    _csv(paths.results_csv, COLUMNS, results)
    _csv(paths.steps_csv, "time,attempt,epoch,batch,box_loss,cls_loss,dfl_loss,lr,images_per_second", steps)
    _csv(paths.memory_csv, "time,attempt,worker,device,available,budget,swap", memory)
    paths.weights.mkdir(exist_ok=True)
    for weights in (paths.last, paths.best):
        weights.write_bytes(b"not real weights")
    return paths


def _csv(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
