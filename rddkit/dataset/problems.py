"""What can be wrong with a dataset: what stops a command, and what is only listed in the audit."""

from __future__ import annotations

from typing import NamedTuple


class DatasetError(Exception):
    """A dataset command cannot go on; the message says what, where, and what to do. Nothing has been harmed."""


class Problem(NamedTuple):
    """One line of the audit's `problems`: the file (relative to RAW), what is wrong with it, and what was done."""

    file: str
    problem: str
    action: str


class Finding(NamedTuple):
    """A problem before it is known which file it belongs to."""

    problem: str
    action: str
