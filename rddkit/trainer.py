"""The training loop of one process.

`RoadDamageTrainer._do_train` does what Ultralytics' own does, in the same order with the same callbacks, and adds three
things: it can begin in the middle of an epoch, keeps snapshots, and leaves when asked. Everything else is Ultralytics'.
"""

from __future__ import annotations

import math
import time
import warnings
from copy import copy
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from ultralytics.utils import LOGGER, TQDM
from ultralytics.utils.torch_utils import autocast, init_seeds, unwrap_model

from rddkit import faults, state
from rddkit.order import Order, own_order
from rddkit.session import NonFinite
from rddkit.snapshot import Place
from rddkit.whole import WholeTrainer, streamed


class RoadDamageTrainer(WholeTrainer):
    """The trainer with the loop of our own: exact resume, snapshots, stopping between batches."""

    order: Order
    epoch_time: float | None
    tloss: Any

    def _build_train_pipeline(self) -> None:
        super()._build_train_pipeline()
        self.order = own_order(self.train_loader)

    def build_optimizer(self, *args: Any, iterations: float = 1e5, **words: Any) -> Any:
        """The optimizer; `auto` chooses by the iterations that the run began with: a smaller batch may have more."""
        found = self.session.found.state or {}
        self.iterations = found.get("iterations", iterations)
        return super().build_optimizer(*args, iterations=self.iterations, **words)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def _do_train(self) -> None:
        self._setup_train()
        self.batches = len(self.train_loader)
        self.images = len(self.train_loader.dataset)
        self.warmup = self._get_warmup_iterations(self.batches)
        self.full_accumulate = self.accumulate  # warm-up rises to it
        self.last_opt_step = -1
        self.seconds_before = 0.0
        self.mosaic_closed = not self.args.close_mosaic
        self.epoch_time = None
        self.epoch_time_start = self.train_time_start = time.time()
        self.run_callbacks("on_train_start")
        if self.args.close_mosaic:
            first = (self.epochs - self.args.close_mosaic) * self.batches
            self.plot_idx.extend([first, first + 1, first + 2])
        self.optimizer.zero_grad()
        place = self._continue()
        while True:
            place = self._epoch(place)
            if self.stop:
                break
        seconds = time.time() - self.train_time_start
        LOGGER.info(f"\n{self.epoch + 1} epochs completed in {seconds / 3600:.3f} hours.")
        self._finish()

    def _epoch(self, place: Place) -> Place:
        """Train, validate, write the csv row and the checkpoint of the epoch at `place`; the next epoch's place."""
        self.epoch = place.epoch
        if place.stage != "trained":
            self._train_epoch(place.images)
            # Built by the first forward; there is none after a resume at the epoch's last batch.
            criterion: Any = getattr(unwrap_model(self.model), "criterion", None)
            if hasattr(criterion, "update"):
                criterion.update()
        self.lr = {f"lr/pg{i}": group["lr"] for i, group in enumerate(self.optimizer.param_groups)}
        self.run_callbacks("on_train_epoch_end")
        self.ema.update_attr(self.model, include=["yaml", "nc", "args", "names", "stride", "class_weights"])
        end = Place(self.epoch, self.images, "trained")
        self.session.at_epoch_end(self, end, last=self.epoch + 1 >= self.epochs or self.stopper.possible_stop)
        validated = self._validate(end)
        self._refuse_nonfinite()
        row = {**self.label_loss_items(self.tloss), **self.metrics, **self.lr}
        faults.point("before_csv_row")
        self.save_metrics(metrics=row if validated else _unmeasured(row))
        faults.point("csv_row")
        final = self.epoch + 1 >= self.epochs
        self.stop |= self.stopper(self.epoch + 1, self.fitness if validated else None) or final
        if self._save(validated):
            self.run_callbacks("on_model_save")
        faults.point("checkpoint")
        now = time.time()
        self.epoch_time, self.epoch_time_start = now - self.epoch_time_start, now
        self.run_callbacks("on_fit_epoch_end")
        self._clear_memory(None if self.device.type == "mps" else 0.5)
        if not self.stop:
            self.session.between_epochs(self, Place(self.epoch, self.images, "finished"))
        return Place(self.epoch + 1, 0, "train")

    def _train_epoch(self, images_done: int) -> None:
        """Train the rest of an epoch of which `images_done` images are done."""
        if not images_done:
            self.run_callbacks("on_train_epoch_start")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the scheduler steps before the optimizer does, on purpose
                self.scheduler.step()
            self.tloss = None
        self._model_train()
        if not self.mosaic_closed and self.epoch >= self.epochs - self.args.close_mosaic:
            self._close_mosaic()
        if self.loss_names:
            LOGGER.info(self.progress_string())
        first = images_done // self.batch_size
        rest = math.ceil((self.images - images_done) / self.batch_size)
        bar = TQDM(islice(self.train_loader, rest), total=rest)
        for i, batch in enumerate(bar, start=first):
            self.run_callbacks("on_train_batch_start")
            number = i + self.batches * self.epoch
            self._warm_up(number)
            self._forward_backward(batch, i)
            if not math.isfinite(self.loss):
                raise NonFinite(f"the loss is {float(self.loss)} at epoch {self.epoch + 1}, batch {i + 1}")
            stepped = number - self.last_opt_step >= self.accumulate
            if stepped:
                faults.point("step")
                self.optimizer_step()
                self.last_opt_step = number
            bar.set_description(self._line(batch))
            if self.args.plots and number in self.plot_idx:
                self.plot_training_samples(batch, number)
            self.run_callbacks("on_train_batch_end")
            faults.point("batch")
            if self.stop:
                return  # a callback of the user's asked Ultralytics' way
            images_done = min(images_done + self.batch_size, self.images)
            self.session.after_batch(self, Place(self.epoch, images_done, "train"), stepped)

    def _warm_up(self, number: int) -> None:
        """Accumulation, learning rate and momentum of batch `number`, counted over all epochs, while warming up."""
        if not self.warmup or number > self.warmup:
            return
        span = [0, self.warmup]
        self.accumulate = max(1, int(np.interp(number, span, [1, self.full_accumulate]).round()))
        for group in self.optimizer.param_groups:
            low = self.args.warmup_bias_lr if group.get("param_group") == "bias" else 0.0
            group["lr"] = float(np.interp(number, span, [low, group["initial_lr"] * self.lf(self.epoch)]))
            if "momentum" in group:
                group["momentum"] = float(np.interp(number, span, [self.args.warmup_momentum, self.args.momentum]))

    def _forward_backward(self, batch: dict[str, Any], i: int) -> None:
        with autocast(torch.bfloat16 if self.args.amp == "bf16" else self.amp, device=self.device.type):
            batch = self.preprocess_batch(batch)
            loss, self.loss_items = self.model(batch)
            self.loss = loss.sum()
            if not self.loss_names:
                self.loss_names = tuple(self.loss_items)
                LOGGER.info(self.progress_string())
                self.metrics.update(dict.fromkeys(self.label_loss_items(prefix="val"), 0.0))
            faults.point("forward")
            if self.tloss is None:
                self.tloss = self.loss_items
            else:
                self.tloss = {k: (self.tloss[k] * i + v) / (i + 1) for k, v in self.loss_items.items()}
        faults.point("backward")
        self.scaler.scale(self.loss).backward()

    def _close_mosaic(self) -> None:
        """Train the last epochs on whole images. The loader begins anew, and with it the order's pass."""
        self.mosaic_closed = True
        self._close_dataloader_mosaic()
        self.train_loader.reset()
        self.order.next_epoch = self.epoch

    def _validate(self, end: Place) -> bool:
        """Validate where it is due, or take the measures of a validation done before a kill; whether there are any."""
        if self.session.take_stage(self):
            return True
        due = self.args.val and (self.epoch + 1) % self.session.val_period == 0
        if not (due or self.epoch + 1 >= self.epochs or self.stopper.possible_stop or self.stop):
            return False
        self._clear_memory(None if self.device.type == "mps" else 0.5)
        with self.session.validating(self, end):
            self.metrics, self.fitness = self.validate()
        self.session.note_stage(self)
        faults.point("validated")
        return True

    def _refuse_nonfinite(self) -> None:
        if (self.loss is not None and not self.loss.isfinite()) or not np.isfinite(self.fitness or 0.0):
            raise NonFinite(f"loss {float(self.loss)} and fitness {self.fitness} at the end of epoch {self.epoch + 1}")

    def _save(self, validated: bool) -> bool:
        """Write last.pt, and best.pt if this epoch's measures are the best."""
        if validated or (not self.args.val and self.best_fitness is None):
            return bool(self.save_model())
        fitness, self.fitness = self.fitness, float("-inf")  # an unmeasured epoch is never the best
        try:
            return bool(self.save_model())
        finally:
            self.fitness = fitness

    def save_model(self) -> bool:
        """Ultralytics' checkpoints, streamed to the drive."""
        with streamed(self.last):
            return bool(super().save_model())

    def _line(self, batch: dict[str, Any]) -> str:
        place = (f"{self.epoch + 1}/{self.epochs}", f"{self._get_memory():.3g}G")
        numbers = (*self.tloss.values(), batch["cls"].shape[0], batch["img"].shape[-1])
        return ("%11s" * 2 + "%11.4g" * len(numbers)) % (*place, *numbers)

    def _finish(self) -> None:
        self._let_go()
        self.final_eval()
        if self.args.plots:
            self.plot_metrics()
        self.run_callbacks("on_train_end")
        self._clear_memory()
        for loader in (self.train_loader, self.test_loader):
            loader.close()

    def _let_go(self) -> None:
        """Free what only further steps would need: the final evaluation loads the best weights beside it."""
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()
        self._clear_memory()

    # -- continuing --------------------------------------------------------------------------------------------------

    def _continue(self) -> Place:
        """Put back the state the session found, if any; where to go on."""
        found = self.session.found
        if found.state is None:
            if found.epochs_done:
                self.order.from_the_beginning(found.epochs_done)
            self.seconds_before = found.seconds
            self.train_time_start -= self.seconds_before
            self._draw_anew()
            return Place(self.start_epoch, 0, "train")
        place = state.restore(self, found.state)
        self.train_time_start -= self.seconds_before
        if found.state["mosaic_closed"] and not self.mosaic_closed:
            self.mosaic_closed = True
            self._close_dataloader_mosaic()
        start = found.state["order_start"]
        if place.images >= self.images:
            following = place.epoch + 1
            resets = not self.mosaic_closed and following >= self.epochs - self.args.close_mosaic
            self.order.after_pass(place.epoch, start, self.train_loader.batch_size, resets)
            if place.stage == "finished":
                place = Place(following, 0, "train")
        else:
            if getattr(self.train_loader.dataset, "rect", False):  # its images have one shape only within a whole batch
                place = replace(place, images=place.images - place.images % self.batch_size)
            self.order.continue_pass(place.epoch, start, place.images)
        state.refill_mosaic_buffer(self.train_loader.dataset, found.state["mosaic_buffer"])
        state.set_random_state(found.state["rng"], self.device)
        self._draw_anew()
        found.state = None  # its tensors have been copied
        return place

    def _draw_anew(self) -> None:
        """Other random numbers than before, where those led to what is not a number."""
        if self.session.seed is not None:
            init_seeds(self.args.seed + self.session.seed, deterministic=self.args.deterministic)


def _unmeasured(row: dict[str, Any]) -> dict[str, Any]:
    """A csv row of an epoch that was not validated: its measures are no numbers."""
    return {key: math.nan if key.startswith(("metrics/", "val/")) else value for key, value in copy(row).items()}
