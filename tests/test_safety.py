"""The safety file: defaults without one, and mistakes named with their neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from workshop import REPOSITORY

from rddkit import safety
from rddkit.config import ConfigError
from rddkit.safety import Safety, load_safety


def written(root: Path, text: str) -> Path:
    file = root / "configs" / "safety.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_without_a_file_the_built_in_values_hold() -> None:
    assert load_safety() == Safety()


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing set\n"])
def test_an_empty_file_means_the_defaults(root: Path, text: str) -> None:
    written(root, text)
    assert load_safety() == Safety()


def test_values_are_taken_from_the_file_and_whole_numbers_count_as_seconds(root: Path) -> None:
    written(root, "budget: 4000000000\nretries: 5\nbackoff_seconds: 3\nclear_cache: false\n")
    assert load_safety() == Safety(budget=4_000_000_000, retries=5, backoff_seconds=3.0, clear_cache=False)


def test_a_named_file_that_is_missing_is_an_error_with_what_is_there(root: Path) -> None:
    written(root, "retries: 5\n")
    with pytest.raises(ConfigError) as caught:
        load_safety("configs/none.yaml")
    assert str(caught.value) == f"no config file {root}/configs/none.yaml; in {root}/configs: safety.yaml"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("retrys: 3", "unknown setting 'retrys'. Did you mean 'retries'?"),
        ("bugdet: auto", "unknown setting 'bugdet'. Did you mean 'budget'?"),
        ("3: 4", "unknown setting '3'."),
        (
            "retries: many",
            "retries='many': input should be a valid integer (attempts without progress before giving up)",
        ),
        ("retries: true", "retries=True: input should be a valid integer (attempts"),
        ("retries: -1", "retries=-1: input should be greater than or equal to 0 (attempts"),
        ("clear_cache: 1", "clear_cache=1: input should be a valid boolean (empty the device's cache: before training"),
        ("backoff_seconds: .nan", "backoff_seconds=nan: input should be"),
        ("budget: lots", "budget='lots': input should be a valid integer or should be 'auto' (bytes the run may use; "),
        ("budget: -5", "budget=-5: input should be greater than 0 or should be 'auto' ("),
        ("budget: 0", "budget=0: "),
        ("reserve: -5", "reserve=-5: "),
        ("hang_seconds: 0", "hang_seconds=0: input should be greater than 0 or should be 'auto' ("),
        ("snapshot_seconds: .nan", "snapshot_seconds=nan: "),
        ("guard_stop: 0.2", "guard_stop=0.2: input should be less than guard_warn=0.1 (snapshot and leave"),
        ("guard_end: 0.06", "guard_end=0.06: input should be less than guard_stop=0.05 (end the worker"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_its_right_form(root: Path, line: str, text: str) -> None:
    file = written(root, line + "\n")
    with pytest.raises(ConfigError) as caught:
        load_safety()
    assert str(caught.value).startswith(f"{file}: ")
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_two_mistakes_are_two_lines(root: Path) -> None:
    written(root, "retrys: 3\nclear_cache: 7\n")
    with pytest.raises(ConfigError) as caught:
        load_safety()
    assert len(str(caught.value).splitlines()) == 2


def test_a_list_is_refused(root: Path) -> None:
    written(root, "- 1\n")
    with pytest.raises(ConfigError, match="must hold keys and values"):
        load_safety()


def test_the_shipped_file_is_the_defaults_each_with_its_meaning() -> None:
    shipped = (REPOSITORY / safety.DEFAULT_SAFETY).read_text(encoding="utf-8")
    assert shipped == safety.describe()
    assert Safety(**yaml.safe_load(shipped)) == Safety()
