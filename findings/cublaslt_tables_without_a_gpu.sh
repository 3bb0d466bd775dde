#!/usr/bin/env bash
# nvidia-cublas 13.1.1.3 (what torch 2.14.1 from PyPI installs on Linux x86-64), Python 3.11.
#
# The natural guess: a library of GPU kernels that is loaded on a machine without a GPU costs address space and, while
# it is read, file cache, which the kernel drops when memory is short. Nothing of it is used.
#
# What it does: loading libcublasLt.so.13 alone runs constructors that fill tables of some 84 MiB in its zero-initialized
# data. That is private anonymous memory: it counts against a container's limit and cannot be dropped. Of the 281 MiB of
# anonymous memory that `import torch` (2.14.1, the default wheel) holds on a machine without a GPU they are three tenths.
#
# Output seen:
#   anonymous memory before 4 MiB, after loading libcublasLt.so.13 96: 92 more
#   82 MiB of it lie in the library's zero-initialized data
set -euo pipefail
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "for Linux x86-64"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "nvidia-cublas==13.1.1.3"
"$work/venv/bin/python" - <<'PY'
import ctypes
import glob
import os
import sys


def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024


pattern = os.path.join(sys.prefix, "lib", "python*", "site-packages", "nvidia", "*", "lib", "libcublasLt.so.13")
(path,) = glob.glob(pattern)
before = anonymous()
ctypes.CDLL(path)
after = anonymous()
print(f"anonymous memory before {before:.0f} MiB, after loading libcublasLt.so.13 {after:.0f}: {after - before:.0f} more")
rows, tables = open("/proc/self/smaps").read().splitlines(), 0
mappings = []
for row in rows:
    words = row.split()
    if "-" in words[0] and not words[0].endswith(":"):
        mappings.append([words[5] if len(words) > 5 else "", 0])
    elif words[0] == "Anonymous:":
        mappings[-1][1] += int(words[1])
for last, this, following in zip(mappings, mappings[1:], mappings[2:]):
    if last[0].endswith("libcublasLt.so.13") and following[0] == last[0] and not this[0]:
        tables += this[1]
print(f"{tables / 1024:.0f} MiB of it lie in the library's zero-initialized data")
sys.exit(not (60 < tables / 1024 < 120 and after - before > 60))
PY
