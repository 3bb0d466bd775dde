"""What only macOS can tell: physical footprint, pressure. Written from Apple's headers, not run on a Mac here."""

from __future__ import annotations

import ctypes
import subprocess

RUSAGE_INFO_V0 = 0
CRITICAL = 4  # the highest of kern.memorystatus_vm_pressure_level


class RUsageInfoV0(ctypes.Structure):
    """`struct rusage_info_v0` of <sys/resource.h>; ri_phys_footprint is what Activity Monitor shows as Memory."""

    _fields_ = [
        ("ri_uuid", ctypes.c_uint8 * 16),
        ("ri_user_time", ctypes.c_uint64),
        ("ri_system_time", ctypes.c_uint64),
        ("ri_pkg_idle_wkups", ctypes.c_uint64),
        ("ri_interrupt_wkups", ctypes.c_uint64),
        ("ri_pageins", ctypes.c_uint64),
        ("ri_wired_size", ctypes.c_uint64),
        ("ri_resident_size", ctypes.c_uint64),
        ("ri_phys_footprint", ctypes.c_uint64),
        ("ri_proc_start_abstime", ctypes.c_uint64),
        ("ri_proc_exit_abstime", ctypes.c_uint64),
    ]


def physical_footprint(pid: int) -> int:
    """Bytes a process costs the machine, GPU memory included. OSError if the process is gone or another user's."""
    info = RUsageInfoV0()
    library = ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)
    if library.proc_pid_rusage(pid, RUSAGE_INFO_V0, ctypes.byref(info)) != 0:
        raise OSError(ctypes.get_errno(), f"proc_pid_rusage of {pid}")
    return int(info.ri_phys_footprint)


def pressure_level() -> int | None:
    """1 normal, 2 warning, 4 critical (`kern.memorystatus_vm_pressure_level`); None where it cannot be read."""
    command = ["/usr/sbin/sysctl", "-n", "kern.memorystatus_vm_pressure_level"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return int(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
