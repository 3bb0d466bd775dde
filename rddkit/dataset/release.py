"""Fetch RDD2022 by country: what it takes first, then piece by piece, each unpacked and its archive gone again."""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rddkit import durable, paths, transfer
from rddkit.dataset.problems import DatasetError
from rddkit.dataset.unpack import PARTS, unpack

RELEASE = Path(__file__).with_name("release.yaml")
SUMS = "download.json"  # checksums of what was fetched, held to when it is fetched again
ROOM = 1.02  # unpacked to packed: photos do not shrink

Say = Callable[[str], None]
Progress = Callable[[str, int, "int | None"], None]


class Plan(NamedTuple):
    """What there is to do: countries that are there already, those to fetch with their bytes, and the room for it."""

    there: list[str]
    fetch: dict[str, int]
    needed: int
    free: int

    def check(self, folder: Path) -> None:
        """DatasetError if there is not room enough."""
        if self.needed > self.free:
            raise DatasetError(
                f"{self.text(folder)}\nThat is not enough: free some, choose another folder, or fewer countries: "
                "--country Czech,India"
            )

    def text(self, folder: Path) -> str:
        """Sizes and room in a few lines."""
        lines = [f"{country:16} {size / 1e9:6.2f} GB" for country, size in self.fetch.items()]
        lines += [f"{country:16} is there" for country in self.there]
        lines.append(f"needs {self.needed / 1e9:.1f} GB in {folder}, which has {self.free / 1e9:.1f} GB free")
        return "\n".join(lines)


def read(file: Path = RELEASE) -> dict[str, Any]:
    """The release's addresses, sizes and checksums."""
    return dict(yaml.safe_load(file.read_text(encoding="utf-8")))


def plan(folder: Path, countries: Sequence[str], release: dict[str, Any]) -> Plan:
    """What fetching `countries` (none: all) into `folder` takes. Raises DatasetError for an unknown one.

    The room is that of all the images and of the largest archive: one after the other is fetched and unpacked.
    """
    known: dict[str, Any] = release["countries"]
    for country in countries:
        if country not in known:
            near = difflib.get_close_matches(country, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DatasetError(f"RDD2022 has no country {country!r}{hint} (it has {', '.join(known)})")
    wanted = [country for country in known if country in countries] if countries else list(known)
    there = [country for country in wanted if any((folder / country / part).is_dir() for part in PARTS)]
    sizes = {country: int(known[country]["bytes"]) for country in wanted if country not in there}
    begun = sum(part.stat().st_size for part in folder.glob(f".*.zip{transfer.PART}"))
    needed = max(0, int(sum(sizes.values()) * ROOM) + max(sizes.values(), default=0) - begun)
    return Plan(there, sizes, needed, shutil.disk_usage(_nearest(folder)).free)


def download(
    folder: Path, country: str, release: dict[str, Any], say: Say, on_progress: Progress | None = None
) -> Path:
    """Fetch and unpack one country; its folder. Raises DatasetError where no address gives a whole archive of it.

    What is fetched is held to the checksum of the first time (`folder`/download.json), and its archive removed once
    unpacked; one put there by hand, as `Japan.zip`, is used instead and kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = on_progress or _silent
    by_hand, archive = folder / f"{country}.zip", folder / f".{country}.zip"
    if by_hand.exists():
        archive = by_hand
    elif not archive.exists():
        _fetch(archive, country, release, say, lambda have, size: report(f"fetch {country}", have, size))
    sums = _sums(folder)
    found = transfer.digest(archive, "sha256:")
    try:
        if sums.setdefault(country, found) != found:
            raise DatasetError(
                f"the archive of {country} is not what it was the first time: {found}, {folder / SUMS} says "
                f"{sums[country]}. If the release itself has changed, remove that line"
            )
        done = unpack(archive, country, folder, lambda have, size: report(f"unpack {country}", have, size))
    except DatasetError:
        if archive != by_hand:
            archive.unlink()
        raise
    durable.write_json(folder / SUMS, sums)
    if archive != by_hand:
        archive.unlink()
    say(f"{country}: {done}")
    return done


def _fetch(archive: Path, country: str, release: dict[str, Any], say: Say, on_progress: transfer.Progress) -> None:
    """Bring a country's archive here: out of the whole, if that is here or its server gives pieces, else by itself."""
    failed: list[str] = []
    for way in (_from_whole_here, _from_whole, _from_its_own):
        try:
            if way(archive, country, release, on_progress):
                return
        except transfer.TransferError as error:
            if archive.with_name(archive.name + transfer.PART).exists():  # another way would begin again
                raise DatasetError(f"{country}: {error}") from error
            failed.append(str(error))
            say(f"{country}: {error}")
    where = archive.parent / release["whole"]["name"]
    raise DatasetError(
        f"{country} could not be fetched ({'; '.join(failed)}). With a browser, put the whole release at {where} or "
        f"the country's archive at {archive.parent / archive.name[1:]}, and give the same command again"
    )


def _from_whole_here(archive: Path, country: str, release: dict[str, Any], on_progress: transfer.Progress) -> bool:
    whole = release["whole"]
    here = archive.parent / whole["name"]
    if not here.is_file():
        return False
    found = _digest(here, whole["checksum"], here.stat().st_mtime_ns)
    if found != whole["checksum"]:
        raise transfer.TransferError(f"{here} is not the release: {found}, expected {whole['checksum']}; not used")
    with zipfile.ZipFile(here) as zipped, durable.replacing(archive) as file:
        with zipped.open(release["countries"][country]["member"]) as source:
            shutil.copyfileobj(source, file, 1 << 20)
    return True


@functools.lru_cache(maxsize=1)
def _digest(path: Path, like: str, _time: int) -> str:
    return transfer.digest(path, like)  # a minute or two for the whole: once, not for every country


def _from_whole(archive: Path, country: str, release: dict[str, Any], on_progress: transfer.Progress) -> bool:
    whole, name = release["whole"], release["countries"][country]["member"]
    try:
        with zipfile.ZipFile(transfer.Remote(whole["address"], whole["bytes"])) as zipped:
            member = zipped.getinfo(name)
    except (zipfile.BadZipFile, KeyError) as error:
        raise transfer.TransferError(f"{whole['address']} is not the archive it was ({error})") from error
    if member.compress_type != zipfile.ZIP_STORED:
        raise transfer.TransferError(f"{name} lies compressed in {whole['address']}: no piece of it can be fetched")
    head = transfer.read_span(whole["address"], transfer.Span(member.header_offset, 30))
    names, extra = struct.unpack("<HH", head[26:30])
    first = member.header_offset + 30 + names + extra
    span = transfer.Span(first, member.file_size)
    transfer.fetch(whole["address"], archive, span=span, on_progress=on_progress)
    if _crc(archive) != member.CRC:
        archive.unlink()
        raise transfer.TransferError(f"{name} from {whole['address']} is damaged (CRC); nothing of it was kept")
    return True


def _from_its_own(archive: Path, country: str, release: dict[str, Any], on_progress: transfer.Progress) -> bool:
    own = release["countries"][country]
    transfer.fetch(own["address"], archive, own.get("checksum"), on_progress=on_progress)
    return True


def _sums(folder: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((folder / SUMS).read_text(encoding="utf-8")))
    return {}


def _crc(path: Path) -> int:
    found = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found = zlib.crc32(block, found)
    return found


def _nearest(folder: Path) -> Path:
    return next(path for path in _upwards(paths.resolve(folder)) if path.is_dir())


def _upwards(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.parents


def _silent(what: str, have: int, size: int | None) -> None:
    return None
