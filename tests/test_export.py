"""A real model exported to ONNX and TorchScript finds the same boxes; what is missing is said, nothing is installed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from workshop import Workshop

from rddkit import export
from rddkit.config import ConfigError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_an_export_agrees_with_best_pt_on_eight_images(blocks: Workshop, kind: str) -> None:
    before = sorted(path.name for path in blocks.run.weights.iterdir())
    done = blocks.cli("export", "blocks", "--format", kind)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agrees with best.pt on 8 validation images" in done.stdout and "ms an image on the CPU" in done.stdout
    file = blocks.run.exports / f"best.{kind}"
    told = json.loads((blocks.run.exports / f"best.{kind}.json").read_text())
    assert told["bytes"] == file.stat().st_size > 1_000_000
    assert told["boxes"] >= 8 and told["alone"] == 0 and told["pixels"] < 1
    assert sorted(path.name for path in blocks.run.weights.iterdir()) == before, "nothing is left beside the weights"
    assert not list(blocks.run.exports.glob(".making-*"))


def test_a_torn_model_is_an_answer_of_its_own(blocks: Workshop) -> None:
    content = blocks.run.last.read_bytes()
    try:
        blocks.run.last.write_bytes(content[: len(content) // 2])
        done = blocks.cli("export", "blocks", "--weights", "last")
    finally:
        blocks.run.last.write_bytes(content)
    assert done.returncode == 1
    assert "the model of 'blocks' gave no answer (exit code 1)" in done.stderr and "exporter.log" in done.stderr
    assert zipfile.is_zipfile(blocks.run.last)


def test_a_format_whose_package_is_missing_says_what_to_install(
    blocks: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        export.export(blocks.run, "onnx")
    assert str(error.value) == (
        "onnx takes onnx and onnxruntime, and nothing is installed unasked; run:\n"
        "  .venv/bin/python -m pip install -c constraints.txt -e '.[export]'"
    )


def test_an_unknown_format_names_the_nearest(blocks: Workshop) -> None:
    done = blocks.cli("export", "blocks", "--format", "onix")
    assert done.returncode == 2
    assert "no format 'onix'. Did you mean 'onnx'? There are: onnx, torchscript, coreml, openvino" in done.stderr


def test_a_result_that_differs_or_was_never_tried_is_said_loudly() -> None:
    told = {
        "file": "best.mlpackage",
        "format": "coreml",
        "weights": "best",
        "images": 8,
        "boxes": 12,
        "alone": 2,
        "pixels": 0.1,
        "threshold": 0.3,
        "bytes": 1 << 20,
        "own_bytes": 1 << 20,
        "ms": {"ours": 20.0, "theirs": 10.0},
        "good": False,
    }
    lines = export.sentences(told)
    assert lines[1] == "DOES NOT AGREE with best.pt: 2 of 12 boxes have no partner"
    assert lines[2] == "coreml was never run on the machine this was written on"
    assert "finds nothing" in export.sentences({**told, "boxes": 0})[1]


def test_eight_images_are_spread_over_the_set(tiny_data: Path) -> None:
    images = export.some_images(tiny_data, most=2)
    assert len(images) == 2 and images == sorted(images)
    assert len(export.some_images(tiny_data)) == len(set(export.some_images(tiny_data)))
