"""Do the tests pass whatever the processor can do? What a training ends with depends on it; no test may.

`python benchmarks/instruction_sets.py`: some 20 minutes on two idle cores. Runs the tests that look at what a training
came to under each pair of instruction sets that oneDNN and ATen can be held to, with one and with two threads, and
prints a table. `--busy 2` keeps two cores busy meanwhile; `--only "AVX2 1"` takes the settings with these words; what
follows `--` is given to pytest in place of the usual tests. A setting that the processor does not have counts as the
best that it has.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rddkit import clock

ROOT = Path(__file__).resolve().parent.parent
ONEDNN = ("SSE41", "AVX2", "DEFAULT")
ATEN = ("default", "avx2", "avx512")
THREADS = (1, 2)
# Early stopping against a plain run, and everything that is said of the model that learned the blocks.
WORDS = "early_stopping or test_evaluate and not notebook or test_predict or agrees_with_best_pt or has_its_results"
FILES = ("test_evaluate.py", "test_predict.py", "test_export.py", "test_writeup.py", "faults/test_edges.py")
TESTS = [*(f"tests/{name}" for name in FILES), "-k", WORDS]


@contextmanager
def busy(jobs: int) -> Iterator[None]:
    """Processes that do nothing, as fast as they can."""
    with ExitStack() as stack:
        for _ in range(jobs):
            job = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(job.kill)
        yield


def run(onednn: str, aten: str, threads: int, tests: list[str]) -> tuple[bool, str, str]:
    """Whether the tests passed under a setting, pytest's last line, and all that it said."""
    with tempfile.TemporaryDirectory() as folder:
        # As many threads as on a machine with a core more: Ultralytics and rddkit count the cores.
        Path(folder, "sitecustomize.py").write_text(f"import os\nos.cpu_count = lambda: {threads + 1}\n")
        path = os.pathsep.join([folder, str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "ATEN_CPU_CAPABILITY": aten, "OMP_NUM_THREADS": str(threads)}
        environment["ONEDNN_MAX_CPU_ISA"] = onednn
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    return done.returncode == 0, re.sub(r" in [\d.]+s.*", "", said.strip().rpartition("\n")[2]), said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=0, metavar="JOBS")
    parser.add_argument("--only", default="", metavar="WORDS")
    parser.add_argument("tests", nargs="*", default=TESTS)
    words = parser.parse_args()
    table = Table("oneDNN", "ATen", "threads", "tests", "seconds")
    good = True
    for onednn, aten, threads in itertools.product(ONEDNN, ATEN, THREADS):
        setting = f"{onednn} {aten} {threads}"
        if not set(words.only.split()) <= set(setting.split()):
            continue
        began = clock.monotonic()
        with busy(words.busy):
            passed, line, said = run(onednn, aten, threads, words.tests)
        good &= passed
        table.add_row(onednn, aten, str(threads), line, f"{clock.monotonic() - began:.0f}")
        print(f"{setting}: {line}" if passed else f"{setting}:\n{said}", flush=True)
    Console(width=110).print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
