"""Accuracies for a sweep's trials, for tests: tiny runs all have an mAP of zero; here it is what a name ends with."""

import sys

if any("default_worker.py" in word for word in sys.orig_argv):
    from rddkit import status

    read_rows = status.read_rows

    def rated(path):
        value = float(path.parent.name.rpartition("_")[2])
        return [{**row, "metrics/mAP50(B)": value} for row in read_rows(path)]

    status.read_rows = rated
