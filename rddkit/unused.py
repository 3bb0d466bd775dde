"""What torch loads though a training on this machine never uses it: kept out, or given back to the system.

`keep_out` comes before torch is imported: torch's compiler, its ONNX exporter, and torchvision's models and data sets
(1,000 modules, 80 MiB) are replaced by stand-ins, each of which makes room for the real module as soon as anything
asks it for more than it can do. `give_back` comes after: without a GPU cuBLASLt's tables (84 MiB in CUDA 13) are of no
use. Figures: torch 2.14.1, Linux x86-64, resident anonymous memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

MADV_DONTNEED = 4  # madvise(2): the pages are dropped, and are zeros when they are read again
TABLES = "libcublasLt.so"


def _as_it_is(function: Callable[..., Any] | None = None, *_args: Any, **_words: Any) -> Any:
    """`torch._dynamo.disable` where nothing is compiled: the function itself, called plainly or as a decorator."""
    return function if function is not None else _as_it_is


def _nothing(*_args: Any, **_words: Any) -> None:
    """A function that has nothing to do here."""


def _never(*_args: Any, **_words: Any) -> bool:
    return False


# What torch and torchvision ask of each module in a training that compiles nothing, and the answer that the real module
# would give: torch/_compile.py, torch/optim/optimizer.py, torch/utils/checkpoint.py, torch/__init__.py
# (use_deterministic_algorithms), torchvision/ops/roi_align.py. Those with a `__path__` are packages.
COMPILER: dict[str, dict[str, Any]] = {
    "torch._dynamo": {
        "__path__": [],
        "disable": _as_it_is,
        "graph_break": _nothing,
        "config": SimpleNamespace(error_on_nested_fx_trace=True),
    },
    "torch._dynamo.utils": {"is_compile_supported": _never},
    "torch._inductor": {"__path__": []},
    "torch._inductor.config": {"deterministic": False},
}
EXPORTER: dict[str, dict[str, Any]] = {
    "torchvision.ops._register_onnx_ops": {"_register_custom_op": _nothing},
}
VISION: dict[str, dict[str, Any]] = {"torchvision.models": {"__path__": []}, "torchvision.datasets": {"__path__": []}}
# Each group makes room as a whole, its first module first, as the real ones import each other.
GROUPS: tuple[dict[str, dict[str, Any]], ...] = (COMPILER, EXPORTER, *({name: VISION[name]} for name in VISION))


class StandIn(ModuleType):
    """A module that answers what it was given, and makes room for the real one when asked for anything else."""

    def __init__(self, name: str, given: Mapping[str, Any], finder: StandIns) -> None:
        super().__init__(name)
        self.__dict__.update(given)
        self.__dict__["_finder"] = finder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system looks for; no module has to have it
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self.__dict__["_finder"].make_room(self.__name__), name)


class Loaded(importlib.abc.Loader):
    """Gives the import system a module that is there already.

    It has no `__spec__` meanwhile: importlib would take that one, and run the module's code a second time.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__
        module.__spec__ = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins for the modules of some groups, and the real modules once a group has made room."""

    def __init__(self, groups: Sequence[dict[str, dict[str, Any]]]) -> None:
        self.group_of = {name: group for group in groups for name in group}
        self.made: dict[str, StandIn] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name in self.group_of:
            return importlib.util.spec_from_loader(name, self)
        parent = name.rpartition(".")[0]
        if parent in self.made:  # a module below a stand-in: only the real package has it
            real = self.make_room(parent)
            if name in sys.modules:  # the real package has imported it
                return importlib.util.spec_from_loader(name, Loaded(sys.modules[name]))
            return importlib.machinery.PathFinder.find_spec(name, real.__path__)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        name = spec.name
        self.made[name] = StandIn(name, self.group_of[name][name], self)
        return self.made[name]

    def exec_module(self, module: ModuleType) -> None:
        pass

    def make_room(self, name: str) -> ModuleType:
        """Import the real modules in place of the stand-ins of a module's group; the one of that name.

        What was set on a stand-in (`torch._inductor.config.deterministic`) is set on the real module too.
        """
        group = self.group_of.get(name, {})
        stood: dict[str, StandIn] = {}
        for other in group:
            self.group_of.pop(other, None)
            if (one := self.made.pop(other, None)) is not None:
                stood[other] = one
                sys.modules.pop(other, None)
                parent, _, leaf = other.rpartition(".")
                if vars(sys.modules.get(parent, one)).get(leaf) is one:
                    delattr(sys.modules[parent], leaf)
        for other, one in stood.items():
            real = importlib.import_module(other)
            for key, value in vars(one).items():
                if not key.startswith("_") and key in group[other] and value != group[other][key]:
                    setattr(real, key, value)
        return importlib.import_module(name)


def keep_out(compiles: bool = False) -> None:
    """Let stand-ins take the place of what a training never uses; before torch is imported.

    Args:
        compiles: whether the training compiles its model (`compile`), which needs it all.
    """
    if not compiles and "torch" not in sys.modules:
        sys.meta_path.insert(0, StandIns(GROUPS))


def give_back() -> int:
    """Give the tables of a CUDA library back where there is no GPU to use them; the bytes of their mappings.

    Only for a process that ends by `os._exit`: the library's own farewell would read them. Linux; torch is loaded.
    """
    torch = sys.modules.get("torch")
    if torch is None or not sys.platform.startswith("linux") or torch.cuda.is_available():
        return 0
    given = 0
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        spans = tables(file.read())
    with contextlib.suppress(OSError, AttributeError):
        madvise = ctypes.CDLL(None).madvise
        for start, end in spans:
            if madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED) == 0:
                given += end - start
    return given


def tables(maps: str) -> list[tuple[int, int]]:
    """The address ranges of the zero-initialized data of cuBLASLt, from the text of /proc/PID/maps.

    Such a range has no name and lies between two of the library's own, so that nothing else can be in it.
    """
    rows = [line.split(maxsplit=5) for line in maps.splitlines()]
    found = []
    for before, row, after in zip(rows, rows[1:], rows[2:], strict=False):
        named = all(len(other) == 6 and TABLES in other[5] for other in (before, after))
        if named and len(row) == 5 and row[1].startswith("rw"):
            start, end = (int(address, 16) for address in row[0].split("-"))
            found.append((start, end))
    return found
