"""What a run asks of the machine around it: to stay awake, to tell somebody; and what it warns of before a night."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import psutil

from rddkit.memory import human

NOTIFY_SECONDS = 30.0


def keep_awake(wanted: bool) -> subprocess.Popen[bytes] | None:
    """Keep a Mac awake as long as this process lives (caffeinate -i: idle sleep; a closed lid still sleeps)."""
    if not wanted or sys.platform != "darwin" or not shutil.which("caffeinate"):
        return None
    command = ["caffeinate", "-i", "-w", str(os.getpid())]
    null = subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
    except OSError:
        return None


def notify(command: Sequence[str], what: str, run: str, sentence: str) -> str:
    """Run the user's command about `what` (fallback, done, failed); what became of it, in words. Never raises.

    It gets RDDKIT_WHAT, RDDKIT_RUN and RDDKIT_SENTENCE in its environment, and is ended after half a minute.
    """
    told = {"RDDKIT_WHAT": what, "RDDKIT_RUN": run, "RDDKIT_SENTENCE": sentence}
    try:
        answer = subprocess.run(
            list(command),
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=NOTIFY_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"{command[0]} could not be run: {error}"
    return "told" if answer.returncode == 0 else f"{command[0]} exited with {answer.returncode}"


def look() -> dict[str, Any]:
    """Power as far as the system tells: `plugged` (None: unknown), `percent` of the battery."""
    battery = None
    with contextlib.suppress(AttributeError, OSError):
        battery = psutil.sensors_battery()
    if battery is None:
        return {"plugged": None, "percent": None}
    return {"plugged": battery.power_plugged, "percent": battery.percent}


def warnings(power: dict[str, Any], free_disk: int, needed_disk: int, system: str) -> list[str]:
    """What a person should know before leaving the machine alone for a night; pure.

    Args:
        power: as `look` gives it.
        free_disk: bytes free where the run is written.
        needed_disk: bytes below which the run would stop soon.
        system: `sys.platform`.
    """
    found = []
    if power.get("plugged") is False:
        percent = power.get("percent")
        charge = f" ({percent:.0f} %)" if percent is not None else ""
        found.append(f"on battery{charge}: plug the machine in, or the run ends when it is empty")
    if system == "darwin":
        found.append("leave the lid open: a closed lid sleeps even when told to stay awake")
    if free_disk < needed_disk:
        found.append(
            f"{human(free_disk)} free on the disk, {human(needed_disk)} are wanted for checkpoints and snapshots"
        )
    return found
