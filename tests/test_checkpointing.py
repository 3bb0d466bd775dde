"""Activation checkpointing: the same bits as without it, BatchNorm's statistics included, from less that is kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rddkit import checkpointing, footprint, need

STEPS = 3
KINDS = ("norms", "layers")


@pytest.fixture(scope="module")
def fresh() -> Any:
    """A small YOLOv8 as it is before its first step."""
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel("yolov8n.yaml", nc=4, verbose=False)
    model.args = get_cfg()
    return model.train()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    boxes = torch.rand(6, 4, generator=draw) * 0.3 + 0.3
    images = torch.rand(2, 3, 64, 64, generator=draw)
    return {"img": images, "cls": torch.zeros(6, 1), "bboxes": boxes, "batch_idx": torch.arange(6) // 3}


def trained(model: nn.Module, steps: int = STEPS) -> dict[str, torch.Tensor]:
    """The whole state after some steps, gradients of the last one included."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch())[0].sum().backward()
        optimizer.step()
    gradients = {f"{name}.grad": value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {**model.state_dict(), **gradients}


@pytest.fixture(scope="module")
def plain(fresh: Any) -> dict[str, torch.Tensor]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    state = trained(copy.deepcopy(fresh))
    torch.set_num_threads(threads)
    return state


@pytest.mark.parametrize("kind", KINDS)
def test_weights_gradients_and_running_statistics_are_equal_to_the_bit(
    fresh: Any, plain: dict[str, torch.Tensor], kind: str
) -> None:
    model = copy.deepcopy(fresh)
    checkpointing.attach(model, kind)
    state = trained(model)
    assert state.keys() == plain.keys() and len(plain) > 500
    assert [name for name in plain if not torch.equal(state[name], plain[name])] == []
    counts = {int(norm.num_batches_tracked) for norm in model.modules() if isinstance(norm, _BatchNorm)}
    assert counts == {STEPS}, "updated once a step, not again in backward"


def kept_bytes(model: nn.Module) -> int:
    """What one forward keeps for its backward, each storage once, the parameters left out."""
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(batch())[0].sum()
    loss.backward()
    return sum(kept.values())


def test_what_is_kept_for_backward_shrinks_by_a_quarter_and_by_a_half(fresh: Any) -> None:
    held = {}
    for kind in ("", *KINDS):
        model = copy.deepcopy(fresh)
        if kind:
            checkpointing.attach(model, kind)
        held[kind] = kept_bytes(model)
    assert held["norms"] < 0.75 * held[""]
    assert held["layers"] < 0.5 * held[""]


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml"])
def test_a_trace_tells_what_an_estimate_takes_a_plan_to_keep(name: str) -> None:
    from ultralytics.nn.tasks import DetectionModel

    def traced(kind: str) -> float:
        model = DetectionModel(name, nc=4, verbose=False)
        if kind in KINDS:
            checkpointing.attach(model, kind)
        return footprint.Pretence(model).train(640)[1].per_image

    whole = traced("nothing")
    for kind in KINDS:
        assert traced(kind) / whole == pytest.approx(need.LEFT[kind], abs=0.04)


def test_places_are_all_convolutions_or_all_layers_with_weights_and_the_heads_convolutions(fresh: Any) -> None:
    convolutions = sum(checkpointing.is_convolution(part) for part in fresh.modules())
    in_head = sum(checkpointing.is_convolution(part) for part in fresh.model[-1].modules())
    layers = sum(checkpointing.has_weights(layer) for layer in fresh.model[:-1])
    assert checkpointing.attach(copy.deepcopy(fresh), "norms") == convolutions == 57
    assert checkpointing.attach(copy.deepcopy(fresh), "layers") == layers + in_head


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_made_before_is_plain_and_names_and_classes_stay(fresh: Any, kind: str) -> None:
    model = copy.deepcopy(fresh)
    average = copy.deepcopy(model)
    checkpointing.attach(model, kind)
    assert not any("forward" in part.__dict__ for part in average.modules())
    assert model.state_dict().keys() == average.state_dict().keys()
    assert [type(part) for part in model.modules()] == [type(part) for part in average.modules()]


@pytest.mark.parametrize("kind", KINDS)
def test_in_validation_and_without_gradients_nothing_is_recomputed(
    fresh: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(fresh)
    checkpointing.attach(model, kind)

    def never(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("checkpointed")

    monkeypatch.setattr(checkpointing, "checkpoint", never)
    with torch.no_grad():
        model(batch()["img"])
    model.eval()
    model(batch()["img"])
    model.train()
    with pytest.raises(AssertionError, match="checkpointed"):
        model(batch()["img"])


def test_dropout_draws_the_same_numbers_again() -> None:
    torch.manual_seed(3)
    layer = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5)).train()
    other = copy.deepcopy(layer)
    other.forward = checkpointing.forgetting(other, other.forward, draws=True)  # type: ignore[method-assign]
    images = torch.rand(2, 3, 8, 8)
    for one in (layer, other):
        torch.manual_seed(4)
        one(images).square().sum().backward()
    assert torch.equal(layer[0].weight.grad, other[0].weight.grad)  # type: ignore[arg-type]
    assert torch.equal(layer[1].running_mean, other[1].running_mean)  # type: ignore[arg-type]


def test_a_failing_recomputation_puts_the_statistics_back() -> None:
    norm = nn.BatchNorm2d(2)
    buffers = dict(norm._buffers)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"), checkpointing.statistics_kept(norm):
        norm(torch.rand(2, 2, 4, 4))
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    assert all(norm._buffers[name] is value for name, value in buffers.items())
    assert norm.num_batches_tracked == 0
