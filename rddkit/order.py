"""The order of a run's images: the permutation of every epoch, and the way back into the middle of one.

Ultralytics keeps one loader iterator for all epochs, whose random sampler draws a permutation when an epoch's pass
begins (and a second, unused one when it is exhausted: torch's RandomSampler). This sampler notes the generator's state
at the beginning of each pass; from that state and the number of images done, a fresh process continues the pass without
reading an image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import RandomSampler, Sampler

# Loader workers ask for passes ahead of training: several, where an epoch has fewer batches than they prefetch.
KEPT_STARTS = 64


class Order(Sampler[int]):
    """Yields image indices as the sampler within does; remembers where each epoch's pass began.

    Args:
        inner: the loader's own sampler.
        generator: the generator it draws from, which the loader uses too.
    """

    def __init__(self, inner: Any, generator: torch.Generator) -> None:
        self.inner = inner
        self.generator = generator
        self.next_epoch = 0
        self.starts: dict[int, torch.Tensor] = {}
        self._begin_from: torch.Tensor | None = None
        self._skip = 0

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[int]:
        if self._begin_from is not None:
            self.generator.set_state(self._begin_from)
            self._begin_from = None
        self.starts[self.next_epoch] = self.generator.get_state()
        self.starts.pop(self.next_epoch - KEPT_STARTS, None)
        self.next_epoch += 1
        skip, self._skip = self._skip, 0
        yield from itertools.islice(iter(self.inner), skip, None)

    def _draw(self, times: int) -> None:
        """Advance the generator as `times` permutations do; a sequential sampler draws none."""
        if isinstance(self.inner, RandomSampler):
            for _ in range(times):
                torch.randperm(len(self), generator=self.generator)

    def continue_pass(self, epoch: int, start: torch.Tensor, images_done: int) -> None:
        """Begin the next pass in the middle of `epoch` (0-based): its first `images_done` images are not yielded."""
        self.next_epoch, self._begin_from, self._skip = epoch, start, images_done

    def after_pass(self, epoch: int, start: torch.Tensor, batch: int, resets: bool) -> None:
        """Put the generator where it is after `epoch`'s last batch; the next pass is the next epoch's.

        Args:
            epoch: the finished epoch, 0-based.
            start: the generator's state when its pass began.
            batch: images a batch. A last batch that is full leaves the pass unexhausted, its second draw undrawn.
            resets: whether the loader makes a new iterator now (mosaic closes), which draws a seed of its own.
        """
        self.starts[epoch] = start
        self.generator.set_state(start)
        self._draw(2 if len(self) % batch else 1)
        self.next_epoch = epoch + 1
        self._begin_from = None
        if not resets:
            self._draw(0 if len(self) % batch else 1)
            self._begin_from = self.generator.get_state()

    def from_the_beginning(self, epoch: int) -> None:
        """Make the next pass that of `epoch` without a noted state, as after a plain checkpoint."""
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        self._draw(2 * epoch)
        self.next_epoch, self._begin_from = epoch, self.generator.get_state()


def own_order(loader: Any) -> Order:
    """Put an Order into an Ultralytics InfiniteDataLoader (repeat sampler > batch sampler > sampler); returns it."""
    batches = loader.batch_sampler.sampler
    order = Order(batches.sampler, loader.generator)
    batches.sampler = order
    return order
