"""What torch loads though a training never uses it: stand-ins that answer, and make room; tables that are found."""

from __future__ import annotations

import json
import subprocess
import sys

from rddkit import unused

MAPS = """\
7f0000000000-7f0000100000 r-xp 00000000 fe:00 11 /venv/nvidia/cu13/lib/libcublasLt.so.13
7f0000100000-7f0000200000 rw-p 00100000 fe:00 11 /venv/nvidia/cu13/lib/libcublasLt.so.13
7f0000200000-7f0000600000 rw-p 00000000 00:00 0
7f0000600000-7f0000700000 r--p 00200000 fe:00 11 /venv/nvidia/cu13/lib/libcublasLt.so.13
7f0000700000-7f0000800000 rw-p 00300000 fe:00 11 /venv/nvidia/cu13/lib/libcublasLt.so.13
7f0000800000-7f0000900000 rw-p 00000000 00:00 0
7f0000900000-7f0000a00000 r-xp 00000000 fe:00 12 /a folder/libother.so
7f0000a00000-7f0000b00000 rw-p 00000000 00:00 0 [heap]
"""

TRAINS = """
import sys
from rddkit import unused
unused.keep_out()
import torch, torchvision
def standing():
    return [name for name in unused.COMPILER if type(sys.modules.get(name)).__name__ == "StandIn"]
torch.use_deterministic_algorithms(True)
layer = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5))
optimizer = torch.optim.AdamW(layer.parameters())
optimizer.zero_grad()
inputs = torch.ones(2, 3, requires_grad=True)
torch.utils.checkpoint.checkpoint(layer, inputs, use_reentrant=False).sum().backward()
optimizer.step()
told = {"kept": torchvision.ops.nms(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([1.0]), 0.5).tolist()}
told["trained"] = standing()
told["left out"] = sorted({"sympy", "torch.onnx", "torch._dynamo.eval_frame"} - sys.modules.keys())
"""
ASKS = """
compiled = torch.compile(lambda number: number + 1, backend="eager")
told["compiled"] = compiled(torch.ones(1)).tolist()
told["asked"] = standing()
import torch._inductor.config
told["deterministic"] = torch._inductor.config.deterministic
told["model"] = torchvision.models.resnet18.__name__
from torchvision.datasets import ImageFolder
told["data"] = ImageFolder.__name__
"""
SUBMODULE = """
import torch._dynamo.backends.registry
told["backends"] = torch._dynamo.backends.registry.list_backends() != []
told["asked"] = standing()
"""
END = "import json, os; print(json.dumps(told), flush=True); os._exit(0)\n"


def answer(code: str) -> dict[str, object]:
    """What a fresh process tells as JSON on its last line."""
    child = subprocess.run([sys.executable, "-c", code + END], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-3000:]
    return dict(json.loads(child.stdout.strip().splitlines()[-1]))


def test_a_training_that_compiles_nothing_never_loads_the_compiler() -> None:
    told = answer(TRAINS)
    assert told["kept"] == [0]
    assert told["trained"] == list(unused.COMPILER)
    assert told["left out"] == ["sympy", "torch._dynamo.eval_frame", "torch.onnx"]


def test_whoever_asks_for_more_gets_the_real_modules_and_what_was_set_before() -> None:
    told = answer(TRAINS + ASKS)
    assert told["compiled"] == [2.0]
    assert told["asked"] == []
    assert told["deterministic"] is True
    assert (told["model"], told["data"]) == ("resnet18", "ImageFolder")


def test_a_module_below_a_stand_in_brings_the_real_package() -> None:
    told = answer(TRAINS + SUBMODULE)
    assert told["backends"] is True
    assert told["asked"] == []


def test_a_training_that_compiles_has_no_stand_ins() -> None:
    before = list(sys.meta_path)
    unused.keep_out(compiles=True)
    assert sys.meta_path == before


def test_tables_are_what_lies_between_two_parts_of_the_library_and_nothing_else() -> None:
    assert unused.tables(MAPS) == [(0x7F0000200000, 0x7F0000600000)]
    assert unused.tables("") == []
    assert unused.tables(MAPS.replace("libcublasLt", "libother")) == []


def test_nothing_is_given_back_by_a_process_without_torch() -> None:
    code = "from rddkit import unused\ntold = {'given': unused.give_back()}\n"
    assert answer(code) == {"given": 0}


def test_tables_given_back_are_not_missed_by_a_training_on_the_cpu() -> None:
    code = TRAINS + (
        "told['given'] = unused.give_back()\n"
        "layer(inputs).sum().backward()\n"
        "optimizer.step()\n"
        "told['cuda'] = torch.cuda.is_available()\n"
    )
    told = answer(code)
    if told["cuda"] or not sys.platform.startswith("linux"):
        assert told["given"] == 0
    else:
        assert isinstance(told["given"], int) and told["given"] >= 0
