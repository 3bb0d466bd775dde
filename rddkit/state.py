"""Training state to plain values and tensors, and back: what a resume needs to be exact, and no more."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import torch
from ultralytics.utils.torch_utils import unwrap_model

from rddkit.snapshot import Place

STOPPER = ("best_fitness", "best_epoch", "possible_stop")


def plain(value: Any) -> Any:
    """A number, or containers of numbers, without numpy: loading with weights_only refuses numpy's scalars."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    return value


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every random generator that training draws from."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, list(numbers), gauss],
        "numpy": [
            kind,
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put every generator back; a device's own only where the snapshot was taken on that kind of device."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


def to_lists(rng: dict[str, Any]) -> dict[str, Any]:
    """A random state for JSON: its tensors as lists of whole numbers."""

    def lists(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return {"tensor": value.tolist(), "bytes": value.dtype == torch.uint8}
        return [lists(item) for item in value] if isinstance(value, list) else value

    return {key: lists(value) for key, value in rng.items()}


def from_lists(rng: dict[str, Any]) -> dict[str, Any]:
    """The random state that `to_lists` wrote."""

    def tensors(value: Any) -> Any:
        if isinstance(value, dict):
            return torch.tensor(value["tensor"], dtype=torch.uint8 if value["bytes"] else torch.int64)
        return [tensors(item) for item in value] if isinstance(value, list) else value

    return {key: tensors(value) for key, value in rng.items()}


def is_finite(trainer: Any) -> bool:
    """Whether the loss and every weight, average and gradient is a number."""
    if trainer.loss is not None and not bool(torch.isfinite(trainer.loss)):
        return False
    for model in (unwrap_model(trainer.model), trainer.ema.ema):
        for value in model.state_dict().values():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                return False
    # A scaler overflows now and then on purpose, and leaves such a step out.
    gradients = () if trainer.scaler.is_enabled() else (p.grad for p in trainer.model.parameters())
    return all(bool(torch.isfinite(gradient).all()) for gradient in gradients if gradient is not None)


def capture(trainer: Any, place: Place, rng: dict[str, Any]) -> dict[str, Any]:
    """The exact state of training at `place`. Tensors are referred to, not copied: save it before the next step.

    FACTS.md, "Exact mid-epoch resume", lists why each part is needed.
    """
    model = unwrap_model(trainer.model)
    criterion = getattr(model, "criterion", None)
    dataset = trainer.train_loader.dataset
    return {
        "place": {"epoch": place.epoch, "images": place.images, "stage": place.stage},
        "batch": trainer.batch_size,
        "model": model.state_dict(),
        "ema": trainer.ema.ema.state_dict(),
        "ema_updates": trainer.ema.updates,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "scheduler_epoch": trainer.scheduler.last_epoch,
        "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        "iterations": trainer.iterations,
        "last_opt_step": trainer.last_opt_step,
        "accumulate": trainer.accumulate,
        "loss": trainer.loss.detach() if trainer.loss is not None else None,
        "loss_items": {key: value.detach() for key, value in (trainer.loss_items or {}).items()},
        "tloss": None if trainer.tloss is None else {key: value.detach() for key, value in trainer.tloss.items()},
        "loss_names": list(trainer.loss_names),
        # The end-to-end criterion of yolo26 and v10 counts epochs outside its state_dict.
        "criterion": plain({k: v for k, v in vars(criterion).items() if isinstance(v, (int, float))})
        if hasattr(criterion, "update")
        else None,
        "stopper": plain({key: getattr(trainer.stopper, key) for key in STOPPER}),
        "best_fitness": plain(trainer.best_fitness),
        "fitness": plain(trainer.fitness),
        "metrics": plain(trainer.metrics),
        "train_seconds": trainer.train_seconds(),
        "mosaic_closed": trainer.mosaic_closed,
        "mosaic_buffer": list(getattr(dataset, "buffer", [])),
        "order_start": trainer.order.starts.get(place.epoch),
        "rng": rng,
    }


def restore(trainer: Any, state: dict[str, Any]) -> Place:
    """Put a trainer that was set up anew where `capture` found its predecessor; the place to continue from.

    The random state is put back by the caller, last, because setting up draws from it.
    """
    model = unwrap_model(trainer.model)
    model.load_state_dict(state["model"])
    trainer.ema.ema.load_state_dict(state["ema"])
    trainer.ema.updates = state["ema_updates"]
    for saved, group in zip(state["optimizer"]["param_groups"], trainer.optimizer.param_groups, strict=True):
        saved["fused"] = group.get("fused")  # this device, not the snapshot's, picks the kernel
    trainer.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:
        trainer.scaler.load_state_dict(state["scaler"])
    trainer.scheduler.last_epoch = state["scheduler_epoch"]
    device = trainer.device
    for name, parameter in model.named_parameters():
        gradient = state["gradients"].get(name)
        parameter.grad = None if gradient is None else gradient.to(device)
    place = Place(**state["place"])
    trainer.last_opt_step = same_place(state["last_opt_step"], trainer.images, state["batch"], trainer.batch_size)
    if state["batch"] == trainer.batch_size:
        trainer.accumulate = state["accumulate"]
    trainer.loss = None if state["loss"] is None else state["loss"].to(device)
    trainer.loss_items = {key: value.to(device) for key, value in state["loss_items"].items()}
    trainer.tloss = None if state["tloss"] is None else {key: v.to(device) for key, v in state["tloss"].items()}
    trainer.loss_names = tuple(state["loss_names"])
    if state["criterion"] is not None:
        model.criterion = model.init_criterion()
        vars(model.criterion).update(state["criterion"])
    vars(trainer.stopper).update(state["stopper"])
    trainer.best_fitness, trainer.fitness = state["best_fitness"], state["fitness"]
    trainer.metrics = state["metrics"]
    trainer.seconds_before = state["train_seconds"]
    return place


def same_place(number: int, images: int, old_batch: int, batch: int) -> int:
    """The batch, counted over all epochs of `images`, that ends where batch `number` of `old_batch` images ended.

    An epoch's last batch may be a part of one, so that a ratio of sizes would run ahead of the epochs. -1: none yet.
    """
    if number < 0:
        return number
    epoch, i = divmod(number, math.ceil(images / old_batch))
    done = min((i + 1) * old_batch, images)
    return epoch * math.ceil(images / batch) + math.ceil(done / batch) - 1


def refill_mosaic_buffer(dataset: Any, indices: list[int]) -> None:
    """Hold the images that mosaic draws partners from, as the snapshot's process did."""
    if not hasattr(dataset, "buffer") or not dataset.augment or dataset.cache == "ram":  # which holds all images
        return
    length = getattr(dataset, "max_buffer_length", len(indices))
    kept = indices[-(length - 1) :] if len(indices) >= length > 1 else indices
    dataset.augment = False  # else reading an image would itself push the buffer on
    try:
        for index in kept:
            image, original, resized = dataset.load_image(index)
            dataset.ims[index], dataset.im_hw0[index], dataset.im_hw[index] = image, original, resized
    finally:
        dataset.augment = True
    dataset.buffer = list(kept)
