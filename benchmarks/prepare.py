"""How fast is `rddkit prepare` on the whole release? Time and peak memory on 38,385 pairs, and supervision beside it.

    python benchmarks/prepare.py /tmp/bench [--times 10] [--supervision DIR]

Builds the release's labelled domains with their true numbers, image sizes and about their numbers of boxes, from 64
painted images a domain (8 of Norway's size) under as many names as it takes: hard links, for `prepare` reads headers,
and hashes the frames that it looks at for twins. Repeated images are twins of each other, so that what the audit says
about leakage means nothing here. OUT is a new folder each time and stays: where tens of thousands of files were just
deleted, ext4 looks for a free inode among all of theirs, which makes the same conversion take 20 s more.
supervision is for comparison only: `pip install --no-deps --target DIR supervision pydeprecate`. It decodes and writes
every image, so it gets one of each twenty pairs of every domain.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from overhead import watch

from rddkit import clock
from rddkit.dataset.classes import CLASS_NAMES
from rddkit.dataset.road import Road

SHARE = 20  # supervision converts one of so many pairs


class Domain(NamedTuple):
    """One country of the release: labelled images, pixels, share without a box, boxes of the others on average."""

    name: str
    images: int
    width: int
    height: int
    negatives: float
    boxes: float
    quality: int  # of its JPEGs, so that files are as large as the release's: about 80 kB, Norway's 0.9 MB
    painted: int = 64  # different images


# Numbers of images: the release. Sizes: the most frequent of each country. Boxes: 65,712 in all.
DOMAINS = (
    Domain("Japan", 10506, 600, 600, 0.2, 2.6, 82),
    Domain("India", 7706, 720, 720, 0.5, 2.0, 70),
    Domain("Czech", 2829, 600, 600, 0.62, 1.7, 82),
    Domain("Norway", 8161, 3650, 2044, 0.64, 3.8, 52, 8),
    Domain("United_States", 4805, 640, 640, 0.1, 2.6, 82),
    Domain("China_MotorBike", 1977, 512, 512, 0.05, 2.5, 86),
    Domain("China_Drone", 2401, 512, 512, 0.1, 1.7, 84),
)

SUPERVISION = """
import sys, time
import supervision
start = time.perf_counter()
data = supervision.DetectionDataset.from_pascal_voc(sys.argv[1] + "/images", sys.argv[1] + "/annotations/xmls")
data.as_yolo(images_directory_path=sys.argv[2] + "/images", annotations_directory_path=sys.argv[2] + "/labels",
             data_yaml_path=sys.argv[2] + "/data.yaml")
print(time.perf_counter() - start)
"""


def xml(domain: Domain, name: str, draw: random.Random) -> str:
    """An annotation in the release's tabbed dialect."""
    count = 0 if draw.random() < domain.negatives else 1 + int(draw.expovariate(1 / max(0.5, domain.boxes - 0.5)))
    objects = ""
    for label in draw.choices(list(CLASS_NAMES), weights=[26, 12, 11, 7, 1, 1, 2, 5, 4, 2, 1], k=count):
        x, y = draw.randrange(domain.width - 60), draw.randrange(domain.height - 60)
        right, bottom = x + draw.randrange(8, domain.width - x), y + draw.randrange(8, domain.height - y)
        objects += (
            f"\t<object>\n\t\t<name>{label}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
            f"\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>{x}</xmin>\n\t\t\t<ymin>{y}</ymin>\n"
            f"\t\t\t<xmax>{right}</xmax>\n\t\t\t<ymax>{bottom}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        )
    return (
        f"<annotation>\n\t<folder>images</folder>\n\t<filename>{name}.jpg</filename>\n\t<size>\n"
        f"\t\t<width>{domain.width}</width>\n\t\t<height>{domain.height}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{objects}</annotation>"
    )


def build(raw: Path, times: int) -> int:
    """The release below `raw`, `times` over; how many pairs."""
    for domain in DOMAINS:
        images, xmls = raw / domain.name / "train" / "images", raw / domain.name / "train" / "annotations" / "xmls"
        images.mkdir(parents=True)
        xmls.mkdir(parents=True)
        originals = []
        for number in range(domain.painted):
            content = io.BytesIO()
            road = Road(np.random.default_rng(number), domain.width, domain.height, "Drone" in domain.name)
            road.image().save(content, "JPEG", quality=domain.quality)
            originals.append(raw / f"{domain.name}-{number}.bytes")
            originals[-1].write_bytes(content.getvalue())
        draw = random.Random(domain.name)
        for number in range(domain.images * times):
            name = f"{domain.name}_{number:06d}"
            os.link(originals[number % domain.painted], images / f"{name}.jpg")
            (xmls / f"{name}.xml").write_text(xml(domain, name, draw))
    return times * sum(domain.images for domain in DOMAINS)


def prepared(raw: Path, out: Path) -> tuple[float, float, int]:
    """Seconds, seconds of all cores together, and peak bytes of `rddkit prepare` with its helpers, Python included.

    Not the kernel's own peak of a child: that begins with its parent's.
    """
    start = clock.monotonic()
    command = [sys.executable, "-m", "rddkit.cli", "prepare", str(raw), str(out)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = watch(child.pid)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"failed with {status}: {' '.join(command)}")
    return clock.monotonic() - start, usage.ru_utime + usage.ru_stime, peak


def compared(raw: Path, out: Path, packages: Path) -> dict[str, tuple[int, float]]:
    """Pairs and seconds of supervision's own conversion of a share of each domain, its import not counted."""
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    found = {}
    for domain in DOMAINS:
        part, whole = out / f"{domain.name}-part", raw / domain.name / "train"
        for folder in ("images", "annotations/xmls"):
            (part / folder).mkdir(parents=True)
            for file in sorted((whole / folder).iterdir())[::SHARE]:
                os.link(file, part / folder / file.name)
        command = [sys.executable, "-c", SUPERVISION, str(part), str(out / domain.name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found[domain.name] = len(list((part / "images").iterdir())), float(done.stdout.split()[-1])
    return found


def unused(folder: Path, name: str) -> Path:
    """The first of folder/name-1, folder/name-2, ... that is not there."""
    return next(path for number in itertools.count(1) if not (path := folder / f"{name}-{number}").exists())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to build it: 0.5 GB, and 4 GB for ten times")
    parser.add_argument("--times", type=int, default=1, help="also so many times as many images")
    parser.add_argument("--supervision", type=Path, help="where that package was installed")
    given = parser.parse_args()
    found: dict[str, float] = {}
    for times in dict.fromkeys((1, given.times)):
        raw, out = given.folder / f"raw{times}", unused(given.folder, f"out{times}")
        pairs = build(raw, times) if not raw.exists() else times * sum(domain.images for domain in DOMAINS)
        seconds, busy, peak = prepared(raw, out)
        audit = json.loads((out / "audit.json").read_text())
        assert audit["images"] == pairs, f"{audit['images']} of {pairs} images"
        boxes = sum(audit["boxes"].values()) + sum(audit["left_out"].values())
        each = f"{seconds / pairs * 1e3:.2f} ms a pair, {busy:.1f} s of all cores together, {peak >> 20} MiB"
        print(f"{pairs} pairs, {boxes} boxes: {seconds:.1f} s, {each}")
        again, *_ = prepared(raw, out)
        print(f"  again, everything there: {again:.1f} s")
        found[f"{times}"] = seconds / pairs
    if given.times > 1:
        ratio = found[str(given.times)] / found["1"] * given.times
        print(f"{given.times} times the images take {ratio:.1f} times as long")
    if given.supervision:
        parts = compared(given.folder / "raw1", unused(given.folder, "supervision"), given.supervision)
        for name, (pairs, seconds) in parts.items():
            print(f"supervision, {name}: {seconds / pairs * 1e3:.2f} ms a pair")
        each = sum(seconds for _, seconds in parts.values()) / sum(pairs for pairs, _ in parts.values())
        print(f"supervision: {each * 1e3:.2f} ms a pair, {each / found['1']:.1f} times ours")
    return 0


if __name__ == "__main__":
    sys.exit(main())
