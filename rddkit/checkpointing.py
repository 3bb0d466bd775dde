"""Activation checkpointing: forget what lies between two places of the model, and compute it again in backward.

Less memory for more time, and the same bits: benchmarks/lean.py has the figures. `norms` forgets what lies between a
convolution and its activation's end, a third of all activations, and costs next to nothing; `layers` forgets all
that lies within a layer, and costs its forward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from ultralytics.nn.modules import Conv, Detect
from ultralytics.utils.torch_utils import unwrap_model


def attach(model: nn.Module, kind: str) -> int:
    """Make a model forget and recompute, by the plan's `checkpointing`: `norms` or `layers`; at how many places.

    Modules keep their class, their parameters and their names: only these ones' `forward` is another. Averages copied
    before are plain, and so are the checkpoints made of them; copies made later are not.
    """
    layers = list(unwrap_model(model).model)
    whole = [layer for layer in layers if kind == "layers" and not isinstance(layer, Detect) and has_weights(layer)]
    for layer in whole:
        layer.forward = forgetting(layer, layer.forward, draws=True)
    parts = [part for layer in layers if layer not in whole for part in layer.modules() if is_convolution(part)]
    for part in parts:
        part.forward = after_convolution(part)
    return len(whole) + len(parts)


def has_weights(layer: nn.Module) -> bool:
    return any(True for _ in layer.parameters())


def is_convolution(part: nn.Module) -> bool:
    """Whether a module is Ultralytics' Conv in what it does: a convolution, a normalization, an activation."""
    return isinstance(part, Conv) and type(part).forward is Conv.forward


def after_convolution(part: Any) -> Callable[..., Any]:
    """A Conv's forward that keeps the convolution's result and the activation's, and nothing between them."""
    rest = forgetting(part, lambda found: part.act(part.bn(found)), draws=False)
    return lambda images: rest(part.conv(images))


def forgetting(module: nn.Module, own: Callable[..., Any], draws: bool) -> Callable[..., Any]:
    """A function of a module that keeps nothing but its inputs; as it is where no gradients are wanted.

    `draws`: it may draw random numbers (dropout), which have to be the same ones again.
    """

    def contexts() -> tuple[Any, Any]:
        return contextlib.nullcontext(), statistics_kept(module)

    def forward(*inputs: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return own(*inputs)
        return checkpoint(own, *inputs, use_reentrant=False, context_fn=contexts, preserve_rng_state=draws)

    return forward


@contextlib.contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Whatever runs within updates copies of BatchNorm's running statistics: the first forward has updated them."""
    norms = [(norm, dict(norm._buffers)) for norm in module.modules() if isinstance(norm, _BatchNorm)]
    for norm, buffers in norms:
        norm._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in norms:
            norm._buffers.update(buffers)
