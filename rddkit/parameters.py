"""A notebook's parameters, checked: papermill itself only warns of one that the notebook does not have."""

from __future__ import annotations

import ast
import shlex
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

from rddkit import config
from rddkit.config import ConfigError

INJECTED = "# Parameters"  # papermill's first line of the cell it adds (papermill/translators.py, codify)
# The parameters of all notebooks: the same word means the same, and takes the same, in each.
KINDS: dict[str, Any] = {
    "config": str,
    "name": str | None,
    "batch": int | None,
    "imgsz": int | None,
    "workers": int | None,
    "epochs": int | None,
    "device": str | int | None,
    "overrides": str | dict | None,
    "resume": bool,
    "fresh": bool,
    "raw": str | None,
    "calibrate": bool,
    "run": str | None,
    "compare": str,
    "choice": str,
    "apply": bool,
    "safety": str | None,
    "weights": str,
    "test": str | None,
    "again": bool,
    "sweep": str,
    "address": str | None,
}


def check_parameters(names: Mapping[str, Any], words: str) -> dict[str, Any]:
    """The notebook's parameters by name.

    Args:
        names: the notebook's `globals()`.
        words: the parameters it has, of `KINDS`, such as `"config batch"`.

    Raises ConfigError for an unknown name (the nearest is named), a missing one, or a value of another type.
    """
    known = words.split()
    for name in _set_as_parameters(names.get("In", ()), known):
        if name not in known:
            raise ConfigError(_unknown(name, known))
    for name in known:
        if name not in names:
            raise ConfigError(f"the parameter {name!r} is not set; run the cell tagged `parameters` first")
        if not is_a(names[name], KINDS[name]):
            raise ConfigError(_wrong(name, names[name], KINDS[name]))
    return {name: names[name] for name in known}


def _unknown(name: str, known: Collection[str]) -> str:
    told = f"unknown parameter {name!r}.{config.nearest(name, known)} There are: {', '.join(known)}"
    if "overrides" in known and name in config.known_arguments():
        told += f". {name!r} is an argument of Ultralytics; those go into one text: -p overrides '{name}=VALUE ...'"
    return told


def _wrong(name: str, value: Any, kind: Any) -> str:
    wanted = " or ".join("None" if part is types.NoneType else part.__name__ for part in get_args(kind) or (kind,))
    number = "str" in wanted and isinstance(value, (int, float))
    hint = f"; papermill keeps it as text with: -r {name} {value}" if number else ""
    return f"parameter {name}={value!r} is a {type(value).__name__}; it takes {wanted}{hint}"


def _set_as_parameters(history: Sequence[str], known: Collection[str]) -> list[str]:
    """Names set in the newest cell of parameters and in those papermill injected after it.

    Args:
        history: IPython's `In`, the cells run so far.
        known: the parameters there are; the newest cell that sets one is the cell of parameters.
    """
    injected: list[str] = []
    for source in reversed(history):
        names = _assigned(source)
        if source.startswith(INJECTED):
            injected += names
        elif set(names) & set(known):
            return names + injected
    return injected


def _assigned(source: str) -> list[str]:
    """The plain names that a cell assigns to; none for a cell in another language."""
    try:
        nodes = ast.parse(source).body
    except SyntaxError:
        return []
    targets = [target for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in nodes if isinstance(node, ast.AnnAssign)]
    leaves = [leaf for target in targets for leaf in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [leaf.id for leaf in leaves if isinstance(leaf, ast.Name) and not leaf.id.startswith("_")]


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a type or a union of types; a truth value is never a number."""
    allowed = get_args(kind) or (kind,)
    return bool in allowed if isinstance(value, bool) else isinstance(value, allowed)


def parse_overrides(overrides: Any) -> dict[str, Any]:
    """`{"lr0": 0.01}` from itself or from `"lr0=0.01"`; ConfigError for words without `=`."""
    if isinstance(overrides, str):
        return config.parse_overrides(shlex.split(overrides))
    return dict(overrides or {})
