"""The self-test's verdicts: from what was seen to a row of its table. Pure decisions."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from rddkit import allocators, journal
from rddkit.memory import MIB, Reading, human

TOLERANCE = 0.15  # of what a child takes, for what it holds besides

Result = Literal["pass", "FAIL", "skipped"]
Values = list[dict[str, float]]


class Row(NamedTuple):
    """One line of the table: what was tried, how it went, the figure (or the reason), and where that comes from."""

    what: str
    result: Result
    figure: str
    source: str


def verdict(what: str, good: bool, figure: str, source: str) -> Row:
    """A row that passes or fails."""
    return Row(what, "pass" if good else "FAIL", figure, source)


# -- readings ----------------------------------------------------------------------------------------------------------


def moved(what: str, change: int, taken: int, source: str) -> Row:
    """Whether a reading grew by what a child took.

    Args:
        what: the reading.
        change: bytes by which it grew.
        taken: bytes that the child took.
        source: where it was read.
    """
    figure = f"{change / MIB:+.0f} MB when a child took {human(taken)}"
    return verdict(what, abs(change - taken) <= TOLERANCE * taken, figure, source)


def left_out(what: str, change: int, shown: int, read: int, source: str) -> Row:
    """Whether a reading did not grow by the file that a child mapped and read, though its resident size did.

    Args:
        what: the file.
        change: bytes by which the reading grew.
        shown: bytes by which its resident size grew.
        read: bytes of the file.
        source: where the reading is from.
    """
    figure = f"{change / MIB:+.0f} MB held, {shown / MIB:+.0f} MB resident when a child read {human(read)} of it"
    return verdict(what, abs(change) <= TOLERANCE * read and shown >= (1 - TOLERANCE) * read, figure, source)


def bounds(whole: Reading, free: Reading, budget: Reading, machine: int) -> list[Row]:
    """Whether budget <= free <= all <= what the machine has."""
    order = 0 < budget.bytes <= free.bytes <= whole.bytes
    figure = " <= ".join(human(reading.bytes) for reading in (budget, free, whole))
    inside = 0 < whole.bytes <= machine
    return [
        verdict("memory in all", inside, f"{human(whole.bytes)}, the machine has {human(machine)}", whole.source),
        verdict("budget <= free <= all", order, figure if order else f"not true: {figure}", budget.source),
    ]


def raised(told: dict[str, Any]) -> list[Row]:
    """Whether a cap made an exception that is known for what it is, in a process that lives on.

    `told` is as `rddkit.probe` tells it; on a device it also holds what was read for the memory taken.
    """
    owner, taken = allocators.who_ran_out(told["kind"], told["text"]), told["taken"]
    if not told["kind"]:
        figure = f"nothing was raised, and {human(taken)} were taken beside torch"
    elif owner is None:
        figure = f"raised, but not known as memory: {told['kind']}: {told['text'][:200]}"
    elif not told["works"]:
        figure = f"{owner} raised {told['kind']}, and could not be used afterwards"
    else:
        figure = f"{owner} raised {told['kind']} after {human(taken)}; the process lives on"
    rows = [verdict("cap raises", owner is not None and told["works"], figure, told["cap"])]
    if told["device_memory"] is None:
        return rows
    return [moved("device memory", told["device_memory"], taken, "torch's allocator"), *rows]


# -- killed and resumed ------------------------------------------------------------------------------------------------


def killed(events: list[journal.Event], batches: int) -> list[Row]:
    """What the journal tells of a kill in the middle of the second epoch, and of the resume.

    Args:
        events: the journal.
        batches: an epoch's.
    """
    ends = [event for event in events if event["event"] == "attempt_ended"]
    causes = [str(event.get("cause")) for event in ends]
    if causes != ["killed", "done"]:
        said = "; ".join(str(event.get("evidence")) for event in ends)
        figure = f"attempts ended as {', '.join(causes) or 'none'}, not as killed, done: {said}"
        return [Row("killed mid-epoch", "FAIL", figure, "journal")]
    resumed = journal.last(events, "resumed") or {}
    epoch, batch = resumed.get("epoch"), resumed.get("batch") or 0
    lost = f"batches done again: {resumed.get('lost_batches')} ({resumed.get('lost_seconds')} s)"
    exact = "exact" if resumed.get("exact") else "inexact"
    figure = f"at epoch {epoch}, batch {batch} of {batches}; {lost}; {exact}: {resumed.get('reason')}"
    return [
        verdict("killed mid-epoch", True, str(ends[0].get("evidence")), "journal"),
        verdict("resumed mid-epoch", epoch == 2 and 0 < batch < batches, figure, str(resumed.get("source"))),
    ]


def same_weights(told: dict[str, Any], exact: bool) -> Row:
    """Whether the weights are equal: to the bit where `exact`, elsewhere the difference is a figure.

    `told` is what `rddkit.checkpoint.compare` tells.
    """
    figure = f"{told['same']} of {told['of']} tensors equal to the bit"
    if told["same"] < told["of"]:
        largest = "not comparable" if told["largest"] is None else f"largest difference {told['largest']:.2g}"
        figure += f"; {largest} ({told['where']})"
    good = told["of"] > 0 and (told["same"] == told["of"] if exact else told["largest"] is not None)
    return verdict("weights as if never killed", good, figure, "weights/last.pt")


def same_rows(whole: Values, killed: Values, epochs: int, exact: bool) -> Row:
    """Whether results.csv has one row an epoch, equal but for the times; NaN equals NaN."""
    what, source = "rows as if never killed", "results.csv"
    numbers = [[int(row.get("epoch", 0)) for row in rows] for rows in (whole, killed)]
    wanted = list(range(1, epochs + 1))
    if numbers != [wanted, wanted] or [*map(set, whole)] != [*map(set, killed)]:
        return Row(what, "FAIL", f"epochs {numbers[0]}, and {numbers[1]} when killed, or other columns", source)
    pairs = [(key, a[key], b[key]) for a, b in zip(whole, killed, strict=True) for key in a if key != "time"]
    apart = [(abs(a - b), key) for key, a, b in pairs if a != b and not (math.isnan(a) and math.isnan(b))]
    if not apart:
        return verdict(what, True, f"{epochs} rows equal but for their time", source)
    good = not exact and all(math.isfinite(gap) for gap, _ in apart)
    return verdict(what, good, "largest difference {:.2g} ({})".format(*max(apart)), source)


# -- the table ---------------------------------------------------------------------------------------------------------


def summary(rows: list[Row]) -> str:
    """`passed, 1 skipped`, or `2 of 14 FAILED`."""
    results = [row.result for row in rows]
    failed, skipped = results.count("FAIL"), results.count("skipped")
    said = f"{failed} of {len(results)} FAILED" if failed else "passed"
    return said + (f", {skipped} skipped" if skipped else "")


def table(rows: list[Row]) -> str:
    """The rows in Markdown, their columns aligned for a terminal."""
    lines = [("what", "result", "figure", "source"), *rows]
    clean = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in clean) for column in range(4)]
    clean.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))} |" for line in clean)
