"""Causes: every ending has one name, its evidence, and one step that follows."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rddkit import cause
from rddkit.cause import Cause, Ending, Step, name_cause, next_step, without_progress

ENDINGS = [
    (Ending(0, "done"), "done", "all epochs done, exit 0"),
    (Ending(0, "done", asked="asked to stop (SIGTERM)"), "done", "all epochs done, exit 0"),
    (Ending(75, "stopped", "asked to stop", "asked to stop (SIGTERM)"), "stopped", "asked to stop (SIGTERM)"),
    (Ending(75, "stopped", "the supervisor is gone"), "stopped", "the supervisor is gone"),
    (Ending(75, "stopped"), "stopped", "asked to stop"),
    (Ending(1, "crash", "ValueError: no images"), "crash", "ValueError: no images"),
    (Ending(1, "crash", "ValueError: no images", "asked to stop (SIGINT)"), "crash", "ValueError: no images"),
    (Ending(1, "crash"), "crash", "an exception without a text"),
    (Ending(-9), "killed", "SIGKILL from outside, no sign of memory"),
    (Ending(-15), "killed", "SIGTERM from outside, no sign of memory"),
    (Ending(-9, error="cuda:1"), "killed", "SIGKILL of cuda:1 from outside, no sign of memory"),
    (Ending(-9, asked="asked to stop (SIGTERM)"), "stopped", "asked to stop (SIGTERM); ended by SIGKILL"),
    (Ending(-9, "done"), "killed", "SIGKILL from outside, no sign of memory"),
    (Ending(143, asked="asked to stop (SIGTERM)"), "stopped", "asked to stop (SIGTERM); ended by a second SIGTERM"),
    (Ending(130), "stopped", "asked to stop; ended by a second SIGINT"),
    (Ending(-11, log_tail="Fatal"), "crash", "SIGSEGV: the interpreter or a library died; last log lines:\nFatal"),
    (Ending(-6, log_tail="x"), "crash", "SIGABRT: the interpreter or a library died; last log lines:\nx"),
    (Ending(-77), "crash", "signal 77: the interpreter or a library died; last log lines:\n"),
    (Ending(1, log_tail="ImportError: y"), "crash", "exit 1 without a last word; last log lines:\nImportError: y"),
    (Ending(0), "crash", "exit 0 without a last word; last log lines:\n"),
]


@pytest.mark.parametrize(("ending", "name", "evidence"), ENDINGS, ids=[str(row[0].exit) for row in ENDINGS])
def test_an_ending_has_one_cause_with_its_evidence(ending: Ending, name: str, evidence: str) -> None:
    assert name_cause(ending) == Cause(name, evidence)  # type: ignore[arg-type]
    assert name_cause(ending) == name_cause(ending)


@given(
    st.integers(-64, 255),
    st.sampled_from([None, "done", "stopped", "crash", "oom", "nonfinite"]),
    st.text(max_size=5),
    st.sampled_from([None, "asked to stop"]),
)
def test_any_ending_has_a_cause_with_words_and_a_step(
    exit_: int, outcome: str | None, error: str, asked: str | None
) -> None:
    why = name_cause(Ending(exit_, outcome, error, asked))
    assert why.evidence
    assert next_step(why, 1, 3, 10.0).action in ("finish", "stop", "retry", "fail")
    assert next_step(why, 1, 3, 10.0, lighter=True).action in ("finish", "stop", "retry", "fail", "fallback")
    if why.name == "done":
        assert exit_ == 0


@pytest.mark.parametrize(
    ("marks", "start", "stuck"),
    [
        ([], 0, 0),
        ([1], 0, 0),
        ([0], 0, 1),
        ([0, 0, 0], 0, 3),
        ([1, 1, 2], 0, 0),
        ([1, 2, 2, 2], 0, 2),
        ([3, 2], 0, 1),
        ([5], 5, 1),
        ([5, 6], 5, 0),
        ([5, 5], 5, 2),
    ],
)
def test_attempts_without_progress_are_counted_from_the_newest(marks: list[int], start: int, stuck: int) -> None:
    assert without_progress(marks, start) == stuck


@pytest.mark.parametrize(
    ("name", "stuck", "step"),
    [
        ("done", 0, Step("finish", "all epochs done")),
        ("stopped", 0, Step("stop", "why", exit=75)),
        ("crash", 0, Step("fail", "a crash is not a memory matter and would repeat itself", exit=1)),
        ("killed", 0, Step("retry", "same plan, a fresh process", wait_seconds=0.0)),
        ("killed", 1, Step("retry", "same plan, a fresh process", wait_seconds=0.0)),
        ("killed", 2, Step("retry", "same plan, a fresh process", wait_seconds=10.0)),
        ("killed", 3, Step("retry", "same plan, a fresh process", wait_seconds=20.0)),
        ("killed", 4, Step("fail", "4 attempts in a row without progress; 3 are allowed", exit=1)),
    ],
)
def test_what_follows_a_cause(name: cause.Name, stuck: int, step: Step) -> None:
    assert next_step(Cause(name, "why"), stuck, retries=3, backoff_seconds=10.0) == step


def test_without_retries_the_first_kill_without_progress_is_the_last() -> None:
    assert next_step(Cause("killed", ""), 1, 0, 1.0).action == "fail"
    assert next_step(Cause("killed", ""), 0, 0, 1.0).action == "retry"


def test_kills_without_progress_come_to_an_end() -> None:
    marks: list[int] = []
    while next_step(Cause("killed", ""), without_progress(marks), 3, 10.0).action == "retry":
        marks.append(0)
        assert len(marks) < 10
    assert len(marks) == 4


GUARD = "49 MiB free, 4.9% of the budget, below 5%"
HANG = "no word for 601 s in phase train at epoch 2, batch 5; 600 s are allowed"
CPU_ERROR = "torch on the CPU: RuntimeError: DefaultCPUAllocator: can't allocate memory"
LOADER = "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed. \nmore"
RUST = "memory allocation of 1520 bytes failed\nskipping backtrace printing to avoid potential recursion\n"
STACKS = f"Fatal Python error: Aborted\n{'stack ' * 500}end"
DUMPED = f"{STACKS}\nExtension modules: torch._C (total: 35)"
DIED = "the interpreter or a library died; last log lines:\n"
ABORTED = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"
COUNTER = "/sys/fs/cgroup/memory.events"
ASKED = "asked to stop (SIGTERM)"

MEMORY_ENDINGS = [
    # The allocator's own words.
    (Ending(1, "oom", CPU_ERROR, phase="the backward pass"), "oom", f"{CPU_ERROR} (in the backward pass)"),
    (Ending(1, "oom", CPU_ERROR), "oom", f"{CPU_ERROR} (in training)"),
    (Ending(1, "oom", CPU_ERROR, ASKED, phase="validation"), "oom", f"{CPU_ERROR} (in validation)"),
    # Our guard, unless a person asked first; a run that was done by then is done.
    (Ending(75, "stopped", "asked to stop", guard=GUARD), "oom", f"our guard: {GUARD}"),
    (Ending(-9, guard=GUARD), "oom", f"our guard: {GUARD}"),
    (Ending(75, "stopped", "asked to stop", ASKED, guard=GUARD), "stopped", ASKED),
    (Ending(0, "done", guard=GUARD), "done", "all epochs done, exit 0"),
    # The kernel's counter: its own cgroup's, or only the whole machine's.
    (
        Ending(-9, kernel_kills=1, kernel_source=COUNTER),
        "oom",
        f"SIGKILL, and the kernel's kill counter went up by 1 ({COUNTER})",
    ),
    (
        Ending(-9, kernel_kills=2, kernel_source="/proc/vmstat", kernel_own=False),
        "oom",
        "SIGKILL, and the whole machine's kill counter went up by 2 (/proc/vmstat)",
    ),
    (Ending(-9, asked=ASKED, kernel_kills=1), "stopped", f"{ASKED}; ended by SIGKILL"),
    (Ending(-15, kernel_kills=1), "killed", "SIGTERM from outside, no sign of memory"),
    (Ending(1, kernel_kills=1, log_tail="x"), "crash", "exit 1 without a last word; last log lines:\nx"),
    (Ending(0, "done", kernel_kills=1), "done", "all epochs done, exit 0"),
    (Ending(1, "crash", "ValueError: x", kernel_kills=1), "crash", "ValueError: x"),
    # A loader process is the kernel's victim; the worker only hears of it.
    (
        Ending(1, "crash", LOADER, kernel_kills=1, kernel_source=COUNTER),
        "oom",
        "the kernel killed a loader process: RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed.  "
        f"({COUNTER})",
    ),
    (Ending(1, "crash", LOADER), "crash", LOADER),
    # macOS: only pressure at its highest together with SIGKILL.
    (Ending(-9, pressure=4), "oom", "SIGKILL while macOS said memory pressure was critical"),
    (Ending(-9, pressure=2), "killed", "SIGKILL from outside, no sign of memory"),
    (Ending(-15, pressure=4), "killed", "SIGTERM from outside, no sign of memory"),
    # A library that aborts or falls over a null pointer after saying why.
    (Ending(-6, log_tail=ABORTED), "oom", "SIGABRT after the C++ library said that memory was out"),
    (Ending(-6, log_tail=RUST + DUMPED), "oom", "SIGABRT after a Rust library said that memory was out"),
    (Ending(-6, log_tail=f"x\n{DUMPED}"), "crash", f"SIGABRT: {DIED}x\n{STACKS}"),
    (Ending(-11, log_tail="Cannot allocate memory"), "oom", "SIGSEGV after the kernel said that memory was out"),
    (Ending(-9, log_tail=ABORTED), "killed", "SIGKILL from outside, no sign of memory"),
    (
        Ending(-6, log_tail=ABORTED + "." * 2000),
        "crash",
        "SIGABRT: the interpreter or a library died; last log lines:\n" + ABORTED + "." * 2000,
    ),
    # Last words count before what the system says about the exit.
    (Ending(-9, "stopped", "asked to stop", ASKED, kernel_kills=1), "stopped", ASKED),
    (Ending(-6, "crash", "ValueError: x", log_tail=ABORTED), "crash", "ValueError: x"),
    (Ending(0, asked=ASKED), "crash", "exit 0 without a last word; last log lines:\n"),
    # Not memory at all.
    (Ending(1, "nonfinite", "loss is nan at epoch 2, batch 5"), "nonfinite", "loss is nan at epoch 2, batch 5"),
    (Ending(1, "nonfinite"), "nonfinite", "loss or weights are not numbers"),
    (Ending(1, "nonfinite", "loss is nan", ASKED), "nonfinite", "loss is nan"),
    (Ending(-9, hang=HANG), "hang", HANG),
    (Ending(-9, hang=HANG, guard=GUARD, kernel_kills=1, asked=ASKED), "hang", HANG),
    (Ending(0, "done", hang=HANG), "done", "all epochs done, exit 0"),
]


@pytest.mark.parametrize(
    ("ending", "name", "evidence"), MEMORY_ENDINGS, ids=[f"{row[1]}: {row[2][:40]}" for row in MEMORY_ENDINGS]
)
def test_an_ending_with_or_without_a_sign_of_memory_is_named_by_it(ending: Ending, name: str, evidence: str) -> None:
    assert name_cause(ending) == Cause(name, evidence)  # type: ignore[arg-type]


def test_a_second_interrupt_on_a_mac_under_pressure_is_a_stop_and_no_reason_for_a_lighter_plan() -> None:
    asked = "ended at once (a second SIGINT)"
    assert name_cause(Ending(-9, asked=asked, pressure=4)) == Cause("stopped", f"{asked}; ended by SIGKILL")


MIB = 1 << 20


@pytest.mark.parametrize(
    ("epochs", "name"),
    [
        ((), "oom"),
        ((1000,), "oom"),
        ((1000, 1150), "oom"),
        ((1000, 1151), "leak"),
        ((500, 598), "oom"),
        ((500, 599), "leak"),
        ((1000, 1400, 1000), "oom"),
        ((1000, 1400, 1450), "oom"),
        ((1000, 1400, 1451), "leak"),
        ((1000, 900, 800), "oom"),
        ((1000, 1010, 1020, 1060), "oom"),
        ((1000, 1010, 1020, 1061), "leak"),
    ],
    ids=str,
)
def test_a_plan_whose_epochs_grew_has_a_leak_and_is_not_too_big(epochs: tuple[int, ...], name: str) -> None:
    footprints = tuple(count * MIB for count in epochs)
    assert name_cause(Ending(-9, kernel_kills=1, footprints=footprints)).name == name
    assert name_cause(Ending(1, "oom", CPU_ERROR, footprints=footprints)).name == name
    assert name_cause(Ending(-9, guard=GUARD, footprints=footprints)).name == name


def test_a_leak_says_from_where_to_where_and_over_how_many_epochs() -> None:
    why = name_cause(Ending(-9, guard=GUARD, footprints=(1000 * MIB, 1100 * MIB, 1536 * MIB)))
    assert why == Cause("leak", f"our guard: {GUARD}; its epochs' peaks grew from 1000 MB to 1.5 GB over 3 epochs")


def test_growth_without_a_sign_of_memory_is_no_leak() -> None:
    grew = (1000 * MIB, 2000 * MIB)
    assert name_cause(Ending(-9, footprints=grew)).name == "killed"
    assert name_cause(Ending(0, "done", footprints=grew)).name == "done"
    assert name_cause(Ending(-9, hang=HANG, footprints=grew)).name == "hang"


FRESH = "same plan, a fresh process"
AGAIN = "the lightest plan got further than the attempt before: the same in a fresh process"
LEAKED = "the same plan in a fresh process: the only sure way to get leaked memory back"
SNAPSHOT = "back to the last good snapshot, with other random numbers: the same would end the same"
NO_PLAN = Step("fail", "this plan was tried and ran out of memory; no lighter one is left", exit=69)
TOO_OFTEN = Step("fail", "4 attempts in a row without progress; 3 are allowed", exit=1)


@pytest.mark.parametrize(
    ("name", "stuck", "lighter", "step"),
    [
        ("oom", 0, True, Step("fallback", "why")),
        ("oom", 1, True, Step("fallback", "why")),
        ("oom", 99, True, Step("fallback", "why")),
        ("oom", 0, False, Step("retry", AGAIN)),
        ("oom", 1, False, NO_PLAN),
        ("oom", 4, False, NO_PLAN),
        ("leak", 0, True, Step("retry", LEAKED)),
        ("leak", 1, True, Step("retry", LEAKED)),
        ("leak", 2, False, Step("retry", LEAKED, wait_seconds=10.0)),
        ("leak", 4, True, TOO_OFTEN),
        ("nonfinite", 0, True, Step("retry", SNAPSHOT, reseed=True)),
        ("nonfinite", 3, True, Step("retry", SNAPSHOT, wait_seconds=20.0, reseed=True)),
        ("nonfinite", 4, True, TOO_OFTEN),
        ("hang", 0, True, Step("retry", FRESH)),
        ("hang", 2, True, Step("retry", FRESH, wait_seconds=10.0)),
        ("hang", 4, True, TOO_OFTEN),
        ("killed", 1, True, Step("retry", FRESH)),
        ("killed", 4, True, TOO_OFTEN),
        ("crash", 0, True, Step("fail", "a crash is not a memory matter and would repeat itself", exit=1)),
        ("done", 9, True, Step("finish", "all epochs done")),
        ("stopped", 9, True, Step("stop", "why", exit=75)),
    ],
)
def test_what_follows_a_cause_where_there_may_be_a_lighter_plan(
    name: cause.Name, stuck: int, lighter: bool, step: Step
) -> None:
    assert next_step(Cause(name, "why"), stuck, 3, 10.0, lighter) == step


def test_only_memory_takes_a_lighter_plan_and_only_what_is_not_a_number_other_random_numbers() -> None:
    names: list[cause.Name] = ["done", "stopped", "oom", "leak", "nonfinite", "hang", "killed", "crash"]
    for name in names:
        for stuck in range(6):
            step = next_step(Cause(name, "why"), stuck, 3, 10.0, lighter=True)
            assert (step.action == "fallback") == (name == "oom")
            assert step.reseed == (name == "nonfinite" and step.action == "retry")


def test_any_row_of_troubles_without_progress_comes_to_an_end() -> None:
    draw = random.Random(7)
    names: list[cause.Name] = ["oom", "leak", "nonfinite", "hang", "killed"]
    for _ in range(500):
        plans, retries, marks = draw.randint(0, 8), draw.randint(0, 5), [0]
        while True:
            step = next_step(Cause(draw.choice(names), "why"), without_progress(marks), retries, 1.0, plans > 0)
            if step.action == "fail":
                break
            plans -= step.action == "fallback"
            marks.append(0)
            assert len(marks) <= 8 + 5 + 2
        assert step.exit in (1, 69)
