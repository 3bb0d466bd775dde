"""When silence means that a worker hangs: deadlines by phase, and a clock that neither sleep nor a pause moves."""

from __future__ import annotations

from dataclasses import dataclass

# Scanning a large data set for the first time, or a slow disk, may take this long without a word.
DEADLINES = {"start": 1800.0}
DEADLINE = 600.0
LONGEST_STEP = 2.0  # a poll that comes later than this was itself asleep or stopped; only this much counts
SLEPT = 30.0


def deadline(phase: str, asked: float | str) -> float:
    """Seconds of silence allowed in a phase (`start`, `train`, `validate`)."""
    return float(asked) if asked != "auto" else DEADLINES.get(phase, DEADLINE)


@dataclass
class Silence:
    """Seconds without a word from the worker, counted poll by poll; a machine asleep or stopped processes add none."""

    seconds: float = 0.0
    last_poll: float | None = None
    last_wall: float | None = None

    def heard(self) -> None:
        """The worker said something."""
        self.seconds = 0.0

    def poll(self, now: float, wall: float, paused: bool) -> float:
        """Count the time since the last poll; the seconds that this process itself slept or was stopped, else 0.

        Args:
            now: monotonic seconds.
            wall: wall-clock seconds.
            paused: whether the worker is stopped (SIGSTOP), as a debugger or a person does.
        """
        passed = 0.0 if self.last_poll is None else now - self.last_poll
        passed_wall = 0.0 if self.last_wall is None else wall - self.last_wall
        self.last_poll, self.last_wall = now, wall
        if not paused:
            self.seconds += min(passed, LONGEST_STEP)
        gap = max(passed, passed_wall)
        return gap if gap > SLEPT else 0.0
