"""The release by country: sizes first, out of the whole or by itself, unpacked or refused with nothing left behind."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import annotation, box, jpeg
from rich.console import Console
from server import Server

from rddkit import fetch, transfer
from rddkit.dataset import DatasetError, prepare, release, unpack
from rddkit.dataset.unpack import unpack as unpack_into

PHOTOS = 12


def zipped(files: dict[str, bytes], compress: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compress) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def country(name: str, folder: str = "") -> dict[str, bytes]:
    """The files of one country, below `folder`."""
    files: dict[str, bytes] = {}
    for number in range(PHOTOS):
        stem = f"{name}_{number:06d}"
        files[f"{folder}{name}/train/images/{stem}.jpg"] = jpeg()
        files[f"{folder}{name}/train/annotations/xmls/{stem}.xml"] = annotation(box("D00")).encode()
    files[f"{folder}{name}/test/images/{name}_000100.jpg"] = jpeg()
    return files


class World:
    """A release of two countries, its server, and the folder it is fetched into."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "RDD2022"
        self.archives = {
            "Japan": zipped(country("Japan")),
            "Norway": zipped(country("Norway", "Norway/")),
        }
        whole = zipped({f"RDD2022/{name}.zip": data for name, data in self.archives.items()}, zipfile.ZIP_STORED)
        self.server = Server({"whole": whole, **self.archives})
        address = self.server.address
        self.release: dict[str, Any] = {
            "whole": {
                "address": address + "whole",
                "name": "whole.zip",
                "bytes": len(whole),
                "checksum": f"md5:{hashlib.md5(whole).hexdigest()}",
            },
            "countries": {
                name: {"member": f"RDD2022/{name}.zip", "bytes": len(data), "address": address + name}
                for name, data in self.archives.items()
            },
        }
        self.said: list[str] = []

    def download(self, name: str) -> Path:
        return release.download(self.folder, name, self.release, self.said.append)

    def here(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    made = World(tmp_path)
    yield made
    made.server.close()


def test_a_country_is_a_piece_of_the_whole_cut_or_not_and_can_be_prepared(world: World, tmp_path: Path) -> None:
    world.server.cut = 2_000
    world.download("Norway")
    assert world.here() == ["Norway", "download.json"]
    assert sorted(path.name for path in (world.folder / "Norway").iterdir()) == ["test", "train"], "not doubled"
    assert {name for name, _ in world.server.asked} == {"whole"}
    assert world.server.sent < len(world.archives["Norway"]) * 1.5, "only its piece came"
    audit = prepare(world.folder, tmp_path / "out", leakage="none")
    assert audit["images"] == PHOTOS and audit["by_domain"]["Norway"]["unlabelled_test_images"] == 1


def test_where_no_pieces_are_given_its_own_address_is_taken(world: World) -> None:
    world.server.ranges = False
    world.download("Japan")
    assert (world.folder / "Japan" / "train").is_dir()
    assert "gives no ranges" in world.said[0] and world.server.asked[-1] == ("Japan", None)


def test_the_whole_put_there_by_hand_is_used_and_kept(world: World) -> None:
    world.folder.mkdir()
    (world.folder / "whole.zip").write_bytes(world.server.files["whole"])
    for name in world.archives:
        world.download(name)
    assert world.server.asked == [] and world.here() == ["Japan", "Norway", "download.json", "whole.zip"]


def test_an_archive_put_there_by_hand_is_used_and_kept(world: World) -> None:
    world.folder.mkdir()
    (world.folder / "Japan.zip").write_bytes(world.archives["Japan"])
    world.download("Japan")
    assert world.server.asked == [] and world.here() == ["Japan", "Japan.zip", "download.json"]


def test_where_nothing_can_be_fetched_every_reason_and_the_way_by_hand_is_told(world: World) -> None:
    world.server.files.clear()
    with pytest.raises(DatasetError) as caught:
        world.download("Japan")
    said = str(caught.value)
    assert said.count("404") == 2 and f"put the whole release at {world.folder}/whole.zip" in said
    assert world.here() == []


def test_a_whole_that_is_another_is_not_used(world: World) -> None:
    world.folder.mkdir()
    (world.folder / "whole.zip").write_bytes(b"something else")
    world.download("Japan")
    assert "is not the release: md5:" in world.said[0] and (world.folder / "Japan").is_dir()


def test_the_first_checksum_is_recorded_and_held_to(world: World) -> None:
    world.download("Japan")
    sums = json.loads((world.folder / "download.json").read_text())
    assert sums == {"Japan": f"sha256:{hashlib.sha256(world.archives['Japan']).hexdigest()}"}
    (world.folder / "Japan").rename(world.folder.parent / "aside")
    world.server.files = {"Japan": zipped({**country("Japan"), "Japan/train/more.txt": b"x"})}
    with pytest.raises(DatasetError, match=r"archive of Japan is not what it was the first time: .*remove that line"):
        world.download("Japan")
    assert world.here() == ["download.json"]


def test_a_damaged_piece_is_refused(world: World) -> None:
    whole = bytearray(world.server.files["whole"])
    whole[3000] ^= 1
    world.server.files = {"whole": bytes(whole)}
    with pytest.raises(DatasetError, match=r"Japan.zip from .*whole is damaged \(CRC\); nothing of it was kept"):
        world.download("Japan")
    assert world.here() == []


def test_sizes_and_room_come_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = release.plan(world.folder, [], world.release)
    assert list(plan.fetch) == ["Japan", "Norway"] and not world.folder.exists()
    assert plan.needed > sum(len(data) for data in world.archives.values())
    world.download("Japan")
    later = release.plan(world.folder, [], world.release)
    assert (later.there, list(later.fetch)) == (["Japan"], ["Norway"]) and later.needed < plan.needed
    assert "Japan            is there" in later.text(world.folder)
    with pytest.raises(DatasetError, match=r"needs .* GB in .*\nThat is not enough: free some, .*--country"):
        later._replace(free=10).check(world.folder)
    with pytest.raises(DatasetError, match="no country 'Norwegen'; did you mean 'Norway'"):
        release.plan(world.folder, ["Norwegen"], world.release)


def test_the_data_file_names_every_country_and_a_checksum_for_the_whole() -> None:
    known = release.read()
    assert len(known["countries"]) == 7 and known["whole"]["checksum"].startswith("md5:")
    parts = sum(own["bytes"] for own in known["countries"].values())
    assert abs(parts / known["whole"]["bytes"] - 1) < 0.01
    assert all(own["address"].endswith(f"RDD2022_{name}.zip") for name, own in known["countries"].items())


def test_the_command_asks_before_it_fetches_all(run_cli: Any, tmp_path: Path) -> None:
    done = run_cli("download", str(tmp_path / "RDD2022"))
    assert done.returncode == 2 and "Norway" in done.stdout + done.stderr
    assert not (tmp_path / "RDD2022").exists()
    done = run_cli("download", str(tmp_path / "RDD2022"), "--country", "Chech")
    assert done.returncode == 2 and "did you mean 'Czech'" in done.stderr


def test_what_came_of_the_whole_is_not_given_up_for_another_address(world: World) -> None:
    def fall_silent(what: str, have: int, size: int | None) -> None:
        if have > 3_000:
            world.server.cut = 0

    world.server.cut = 1_000
    with pytest.raises(DatasetError, match=r"Japan: .*5 times in a row; .* bytes are kept in .*: the same command"):
        release.download(world.folder, "Japan", world.release, world.said.append, fall_silent)
    assert ".Japan.zip.part" in world.here() and "Japan" not in {name for name, _ in world.server.asked}
    world.server.cut = None
    before = world.server.sent
    world.download("Japan")
    assert world.server.sent - before < len(world.archives["Japan"]) and world.here() == ["Japan", "download.json"]


def test_sizes_are_said_before_anything_is_fetched_and_the_next_command_after(world: World, tmp_path: Path) -> None:
    (tmp_path / "release.yaml").write_text(yaml.safe_dump(world.release))
    told = io.StringIO()
    with fetch.Bars(Console(file=told, width=200)) as bars:
        fetch.release(str(world.folder), ["Norway"], False, bars, tmp_path / "release.yaml")
    said = told.getvalue()
    assert said.index("Norway             0.00 GB") < said.index(f"Norway: {world.folder}/Norway")
    assert said.splitlines()[-1] == f"next: rddkit prepare {world.folder} data/rdd2022"


# What an archive may hold


def bomb() -> bytes:
    return zipped({"Japan/train/images/a.jpg": b"\0" * 30_000_000})


def linked() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        info = zipfile.ZipInfo("Japan/train/images/a.jpg")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return content.getvalue()


def encrypted() -> bytes:
    content = bytearray(zipped({"Japan/train/images/a.jpg": b"x"}, zipfile.ZIP_STORED))
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + at] |= 1
    return bytes(content)


def broken() -> bytes:
    content = bytearray(zipped(country("Japan"), zipfile.ZIP_STORED))
    content[len(content) // 3] ^= 0xFF
    return bytes(content)


def many_bombs() -> bytes:
    return zipped({f"Japan/train/images/{number}.jpg": b"\0" * 3_000_000 for number in range(40)})


def deep() -> bytes:
    return zipped({"a.zip": zipped({"b.zip": zipped(country("Japan"))})})


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "upwards": (lambda: zipped({"Japan/train/../../../evil.txt": b"x"}), "leads out of its folder"),
    "absolute": (lambda: zipped({"/tmp/evil.txt": b"x"}), "leads out of its folder"),
    "backslash": (lambda: zipped({"..\\evil.txt": b"x"}), "leads out of its folder"),
    "drive": (lambda: zipped({"C:/evil.txt": b"x"}), "leads out of its folder"),
    "inside an archive inside": (lambda: zipped({"a.zip": zipped({"../evil.txt": b"x"})}), "leads out of its folder"),
    "link": (linked, "is a link"),
    "encrypted": (encrypted, "is encrypted"),
    "bomb": (bomb, "a bomb"),
    "many small bombs": (many_bombs, "a bomb"),
    "bomb in an archive": (lambda: zipped({"a.zip": bomb()}), "a bomb"),
    "three deep": (deep, "archive in an archive in an archive"),
    "broken contents": (broken, "is broken at"),
    "cut off": (lambda: zipped(country("Japan"))[:-40], "is no whole zip archive"),
    "no zip": (lambda: b"<html>", "is no whole zip archive"),
    "empty": (lambda: zipped({}), "holds no folder train or test"),
    "not of RDD2022": (lambda: zipped({"readme.txt": b"x"}), "holds no folder train or test"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_refused_and_nothing_left(world: World, name: str) -> None:
    make, reason = BAD[name]
    world.server.files = {"Japan": make()}
    before = sorted(world.folder.parent.rglob("*"))
    with pytest.raises(DatasetError, match=reason):
        world.download("Japan")
    assert sorted(world.folder.parent.rglob("*")) == [*before, world.folder] and world.here() == []


def test_a_bad_archive_put_there_by_hand_is_refused_and_kept(world: World) -> None:
    world.folder.mkdir()
    (world.folder / "Japan.zip").write_bytes(bomb())
    with pytest.raises(DatasetError, match="a bomb"):
        world.download("Japan")
    assert world.here() == ["Japan.zip"]


def test_an_archive_that_was_fetched_before_an_interruption_is_not_fetched_again(world: World) -> None:
    def stop(what: str, have: int, size: int | None) -> None:
        if what == "unpack Japan":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        release.download(world.folder, "Japan", world.release, world.said.append, stop)
    assert world.here() == [".Japan.zip"]
    asked = len(world.server.asked)
    world.download("Japan")
    assert len(world.server.asked) == asked and world.here() == ["Japan", "download.json"]


def test_archives_within_an_archive_and_what_systems_leave_there(tmp_path: Path) -> None:
    files = {"RDD/Norway/Norway.zip": zipped(country("Norway", "x/y/")), "__MACOSX/Norway/._a.jpg": b"x"}
    (tmp_path / "a.zip").write_bytes(zipped({**files, "RDD/Norway/.DS_Store": b"x"}))
    done = unpack_into(tmp_path / "a.zip", "Norway", tmp_path)
    assert len([path for path in done.rglob("*") if path.is_file()]) == 2 * PHOTOS + 1
    assert sorted(path.name for path in done.iterdir()) == ["test", "train"]


def test_an_interrupted_unpacking_begins_again(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(country("Japan")))

    def stop(done: int, whole: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack_into(tmp_path / "a.zip", "Japan", tmp_path, stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    (tmp_path / f"Japan{unpack.BEGINNING}").mkdir()
    (tmp_path / f"Japan{unpack.BEGINNING}" / "half.jpg").write_bytes(b"x")
    unpack_into(tmp_path / "a.zip", "Japan", tmp_path)
    assert not list(tmp_path.rglob("half.jpg")) and (tmp_path / "Japan" / "test").is_dir()


def test_places_that_count_from_zero_again_are_put_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As a maker without zip64 leaves an archive of more than 4 GiB; here the count ends at 64 KiB.
    wrap = 1 << 16
    monkeypatch.setattr(unpack, "WRAP", wrap)
    files = {f"Norway/train/images/{number}.jpg": bytes([number]) * 20_000 for number in range(12)}
    content = bytearray(zipped(files, zipfile.ZIP_STORED))
    at = end = content.index(b"PK\x05\x06")
    at = int.from_bytes(content[end + 16 : end + 20], "little")
    content[end + 16 : end + 20] = (at % wrap).to_bytes(4, "little")
    while content[at : at + 4] == b"PK\x01\x02":
        place = int.from_bytes(content[at + 42 : at + 46], "little")
        content[at + 42 : at + 46] = (place % wrap).to_bytes(4, "little")
        at += 46 + int.from_bytes(content[at + 28 : at + 30], "little")
    (tmp_path / "a.zip").write_bytes(content)
    done = unpack_into(tmp_path / "a.zip", "Norway", tmp_path)
    assert all((done / "train" / "images" / f"{n}.jpg").read_bytes() == bytes([n]) * 20_000 for n in range(12))


def test_zip64_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 5_000)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 5)
    (tmp_path / "a.zip").write_bytes(zipped(country("Norway")))
    assert (unpack_into(tmp_path / "a.zip", "Norway", tmp_path) / "train").is_dir()
