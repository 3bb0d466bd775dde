"""`configs/safety.yaml`: what rddkit itself may do, checked by pydantic so that a mistyped key names its neighbour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from rddkit import config, paths

DEFAULT_SAFETY = "configs/safety.yaml"
Model = TypeVar("Model", bound=BaseModel)


class Safety(BaseModel):
    """Limits and habits of the supervisor; every field has a default, so that an empty file is a valid one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    budget: Annotated[int, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="bytes the run may use; auto: allowed and free now"
    )
    reserve: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="bytes kept free of the budget; auto: 6 %, at least 256 MB (96 in a container), at most 2 GB",
    )
    retries: int = Field(3, ge=0, description="attempts without progress before giving up")
    backoff_seconds: float = Field(
        10.0, ge=0, allow_inf_nan=False, description="wait before the second such attempt; doubles from there"
    )
    snapshot_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = Field(
        "auto", description="seconds between snapshots; auto: 100 times the cost of one, 60-300"
    )
    snapshot_daily_bytes: int = Field(100_000_000_000, gt=0, description="snapshots write no more than this a day")
    disk_reserve: int = Field(500_000_000, ge=0, description="bytes left on the disk below which the run stops")
    val_period: int = Field(1, ge=1, description="validate every n epochs; the last always")
    clear_cache: bool = Field(True, description="empty the device's cache: before training, and when it grows")
    cache_share: float = Field(
        0.25, gt=0, le=1, description="share of the budget that a device's unused cache may hold within an epoch"
    )
    cap: bool = Field(True, description="cap the worker, so that too much memory is an exception and not a kill")
    guard: bool = Field(True, description="watch free memory, and have the worker leave before the system kills it")
    guard_warn: float = Field(0.10, gt=0, lt=1, description="warn when less than this share of the budget is free")
    guard_stop: float = Field(0.05, gt=0, lt=1, description="snapshot and leave when less than this is free")
    guard_end: float = Field(0.02, gt=0, lt=1, description="end the worker when less than this is free")
    estimate: bool = Field(
        True, description="estimate memory first, tried out once a model: start on the first plan that fits"
    )
    fallbacks: list[Literal["lean", "batch", "checkpointing", "imgsz"]] = Field(
        ["lean", "batch", "imgsz"], description="kinds of lighter plans to take, always in the order of their cost"
    )
    min_imgsz: int = Field(320, ge=32, multiple_of=32, description="the smallest image size still worth training")
    hang_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = Field(
        "auto", description="silence that ends a worker; auto: 1800 while it starts, 600 in training and validation"
    )
    predictions: bool = Field(True, description="draw what the weights see into the report, when the run has ended")
    keep_awake: bool = Field(True, description="keep a Mac awake while it trains (caffeinate)")
    notify: list[str] = Field(
        [], description="a command, word by word, run on fallback, done and failed; RDDKIT_SENTENCE says what happened"
    )

    @field_validator("guard_stop", "guard_end")
    @classmethod
    def _below(cls, share: float, info: ValidationInfo) -> float:
        above = {"guard_stop": "guard_warn", "guard_end": "guard_stop"}[str(info.field_name)]
        if share >= info.data.get(above, 1.0):
            raise ValueError(f"should be less than {above}={info.data[above]}")
        return share


def load_safety(source: str | Path | None = None) -> Safety:
    """The safety file (default: configs/safety.yaml, or the built-in values where that is missing).

    Raises ConfigError, naming the nearest valid key or the wanted type.
    """
    path = config.find_input(source or DEFAULT_SAFETY)
    if source is None and not path.is_file():
        return Safety()
    text = path.read_bytes().decode("utf-8", "replace") if path.is_file() else None
    content: dict[str, Any] = {} if text is not None and not _has_content(text) else config.read_yaml(path)
    return validated(Safety, content, path)


def validated(model: type[Model], content: dict[str, Any], path: Path) -> Model:
    """The content of `path` as a model of pydantic's. ConfigError says each mistake in words."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems: dict[str, list[Any]] = {}
        for problem in error.errors():  # a value of two types has one for each: together they are one mistake
            key = str(problem["loc"][0]) if problem["loc"] else ""
            problems.setdefault(key, []).append(problem)
        said = [_plain(model, key, found, path) for key, found in problems.items()]
        raise config.ConfigError("\n".join(said)) from error


def _has_content(text: str) -> bool:
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())


def _plain(model: type[BaseModel], key: str, problems: list[Any], path: Path) -> str:
    if problems[0]["type"] in ("extra_forbidden", "invalid_key") and len(problems[0]["loc"]) == 1:
        return f"{path}: unknown setting {key!r}.{config.nearest(key, model.model_fields)}"
    said = [problem["msg"].removeprefix("Value error, ").removeprefix("Input ") for problem in problems]
    wrong = " or ".join(text[:1].lower() + text[1:] for text in said)
    if not key:  # about the whole
        return f"{path}: {wrong}"
    about = model.model_fields[key].description
    return f"{path}: {key}={problems[0]['input']!r}: input {wrong} ({about})"


def describe() -> str:
    """The default file, each value with what it is for."""
    lines = ["# What rddkit itself may do. Every key is optional; these are the defaults."]
    for name, field in Safety.model_fields.items():
        default = json.dumps(field.default) if isinstance(field.default, (bool, list)) else field.default
        lines.append(f"{name}: {default} # {field.description}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":  # python -m rddkit.safety rewrites the shipped file
    (paths.root() / DEFAULT_SAFETY).write_text(describe(), encoding="utf-8")
