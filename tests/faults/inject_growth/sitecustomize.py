"""A leak in a real worker, for tests: with this folder on PYTHONPATH it holds RDDKIT_GROW_MIB more after each epoch."""

import os
import sys

MIB = int(os.environ.get("RDDKIT_GROW_MIB") or 0)
held = []

if MIB and "rddkit.worker" in sys.orig_argv:
    from rddkit import faults

    point = faults.point

    def grow(name):
        if name == "checkpoint":
            held.append(b"\1" * (MIB << 20))  # not zeros: every page is touched
        point(name)

    faults.point = grow
