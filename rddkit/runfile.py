"""`run.yaml`: what a run is, written before its first attempt and read by every later one."""

from __future__ import annotations

import subprocess
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from rddkit import durable
from rddkit.config import ConfigError

SCHEMA = 1


@dataclass
class RunFile:
    """The content of run.yaml. `config` is what was asked, `plan` what the next attempt uses, `failed` the
    plans that were too big.
    """

    name: str
    created: str
    config: dict[str, Any]
    config_file: str
    plan: dict[str, Any]
    safety: dict[str, Any]
    device: str
    threads: int
    schema: int = SCHEMA
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)
    allocator: dict[str, str] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    git: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        durable.write(path, yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True))


def read(path: Path) -> RunFile:
    """The run.yaml at `path`. ConfigError for one that a newer rddkit wrote, or that is not whole."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        schema = int(content["schema"])
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a run's file ({error}); set the folder aside and start again: --fresh"
        ) from None
    if schema > SCHEMA:
        raise ConfigError(f"{path} has schema {schema}, newer than this rddkit's {SCHEMA}; update rddkit: git pull")
    known = {f.name for f in fields(RunFile)}
    try:
        return RunFile(**{key: value for key, value in content.items() if key in known})
    except TypeError as error:
        raise ConfigError(f"{path} lacks a part ({error}); set the folder aside and start again: --fresh") from None


def git_commit(folder: Path) -> dict[str, Any]:
    """The commit a run was started from and whether the tree had changes; {} outside a repository."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {}
