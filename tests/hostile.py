"""Broken data sets on purpose: one defect a file, in RDD2022's own layout, each with the reason that has to be told."""

from __future__ import annotations

import io
import os
import random
import struct
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

SIZE = (100, 80)  # pixels of every image that is not itself the defect
DOMAIN = "Japan"


class Defect(NamedTuple):
    """What is broken: the file that the audit has to name, the words of its reason, and whether the image stays in."""

    name: str
    reason: str
    kept: bool
    make: Callable[[Place], str]  # breaks it; the name of the file that the audit shows


class Place:
    """Where one defect goes: a healthy image with one D00 box, to be broken."""

    def __init__(self, raw: Path, outside: Path, stem: str) -> None:
        train = raw / DOMAIN / "train"
        self.raw, self.outside, self.stem = raw, outside, stem
        self.image = train / "images" / f"{stem}.jpg"
        self.xml = train / "annotations" / "xmls" / f"{stem}.xml"
        self.image.parent.mkdir(parents=True, exist_ok=True)
        self.xml.parent.mkdir(parents=True, exist_ok=True)
        self.image.write_bytes(jpeg())
        self.xml.write_text(annotation(box("D00")))

    def write(self, xml: str | bytes) -> str:
        self.xml.write_bytes(xml.encode() if isinstance(xml, str) else xml)
        return self.xml.name

    def paint(self, content: bytes) -> str:
        self.image.write_bytes(content)
        return self.image.name

    def rename(self, stem: str | bytes) -> str:
        """Give both files another stem; the image's name as the audit shows it."""
        raw = os.fsencode(stem)
        for path in (self.image, self.xml):
            os.rename(path, os.fsencode(path.parent) + b"/" + raw + os.fsencode(path.suffix))
        return raw.decode("utf-8", "backslashreplace").replace("\n", "\\n") + ".jpg"


def box(label: str, x1: object = 10, y1: object = 20, x2: object = 50, y2: object = 60) -> str:
    corners = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>{label}</name><bndbox>{corners}</bndbox></object>"


def annotation(inside: str, width: object = SIZE[0], height: object = SIZE[1]) -> str:
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{inside}</annotation>"


def jpeg(mode: str = "RGB", size: tuple[int, int] = SIZE, kind: str = "JPEG", **more: object) -> bytes:
    content = io.BytesIO()
    picture = Image.radial_gradient("L").resize(size).convert("RGB").convert(mode)
    picture.save(content, kind, **more)
    return content.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return jpeg(exif=exif)


def huge_header() -> bytes:
    """A JPEG that says it has 60000 x 60000 pixels."""
    content = jpeg()
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", 60000, 60000) + content[at + 4 :]


def broken_header() -> bytes:
    """A JPEG whose frame header has no bytes."""
    content = jpeg()
    at = content.index(b"\xff\xc0") + 2
    return content[:at] + b"\x00\x02" + content[at + 2 :]


def replaced(path: Path, make: Callable[[Path], object]) -> str:
    path.unlink()
    make(path)
    return path.name


def twice(place: Place) -> str:
    (place.image.with_suffix(".png")).write_bytes(jpeg(kind="PNG"))
    return place.stem + ".png"


def two_xmls(place: Place) -> str:
    place.xml.with_suffix(".XML").write_text(annotation(box("D40")))
    return place.xml.name  # capitals sort first


def doubled_again(place: Place) -> str:
    folder = place.raw / DOMAIN / DOMAIN / "train"
    for path in (place.image, place.xml):
        copy = folder / path.relative_to(place.raw / DOMAIN / "train")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return place.image.name


def linked_out(place: Place) -> str:
    place.image.rename(place.outside / "elsewhere.jpg")
    place.image.symlink_to(place.outside / "elsewhere.jpg")
    return place.image.name


def without_labels(place: Place) -> str:
    place.image.unlink()
    place.xml.unlink()
    images = place.raw / "Atlantis" / "train" / "images"
    images.mkdir(parents=True)
    (images / "Atlantis_000001.jpg").write_bytes(jpeg())
    return "train"


def stray(place: Place) -> str:
    (place.image.parent / "Thumbs.db").write_bytes(b"\x00")
    return "Thumbs.db"


ENTITIES = "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 10 if n else "ha"}">' for n in range(12))
BOMB = f"<!DOCTYPE a [{ENTITIES}]><annotation>&x11;</annotation>"
DEEP = f"<annotation>{'<object>' * 20_000}{'</object>' * 20_000}</annotation>"
LISTED = annotation(f"<objects>{box('D00')}</objects>")
READER = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'
A_NAME = "<object><name>D00</name></object>"
TWO = annotation("<object><name>D00</name><bndbox><xmin>1</xmin><xmin>9</xmin><ymin>1</ymin><xmax>50</xmax>"
                 "<ymax>60</ymax></bndbox></object>")  # fmt: skip


def xml(name: str, reason: str, content: str | bytes, kept: bool = True) -> Defect:
    return Defect(name, reason, kept, lambda place: place.write(content))


def image(name: str, reason: str, content: Callable[[], bytes], kept: bool = False) -> Defect:
    return Defect(name, reason, kept, lambda place: place.paint(content()))


DEFECTS: tuple[Defect, ...] = (
    # The XML as a file
    xml("empty XML", "XML is empty", "", kept=False),
    xml("blank XML", "XML is empty", " \n\t", kept=False),
    xml("XML cut off", "XML is broken", annotation(box("D00"))[:60], kept=False),
    xml("XML of nulls", "XML is broken", b"\x00" * 900, kept=False),
    xml("XML with a bad byte", "XML is broken", annotation(box("D00")).encode() + b"\xff\xfe", kept=False),
    xml("unknown encoding", "XML is broken", "<?xml version='1.0' encoding='nobody'?><annotation/>", kept=False),
    xml("entity bomb", "declares a DTD or entities", BOMB, kept=False),
    xml("entity reads a file", "declares a DTD or entities", READER, kept=False),
    xml("other root", "its root is <html>", "<html/>", kept=False),
    xml("other name space", "its root is <{x}annotation>", "<annotation xmlns='x'/>", kept=False),
    xml(
        "very deep",
        "objects of the XML lie where",
        DEEP,
        kept=False,
    ),
    xml("objects in a list", "objects of the XML lie where", LISTED, kept=False),
    xml("tags in capitals", "objects of the XML lie where", annotation("<OBJECT/>"), kept=False),
    Defect("huge XML", "64 MiB is no annotation", False, lambda p: (os.truncate(p.xml, 64 << 20), p.xml.name)[1]),
    Defect("no XML", "has no XML", False, lambda p: (p.xml.unlink(), p.image.name)[1]),
    Defect("XML is a folder", "XML is a folder", False, lambda p: replaced(p.xml, lambda x: x.mkdir())),
    Defect("XML is a pipe", "XML is a pipe", False, lambda p: replaced(p.xml, os.mkfifo)),
    Defect("XML link loop", "leads in a circle", False, lambda p: replaced(p.xml, lambda x: x.symlink_to(x))),
    Defect("two XMLs", "has the same name as", True, two_xmls),
    # What it says of the image
    xml("size of another image", "another aspect", annotation(box("D00"), 300, 90)),
    xml("size of a resized copy", "the image is 100x80", annotation(box("D00"), 200, 160)),
    xml("size zero", "gives no image size", annotation(box("D00"), 0, 0)),
    xml("size negative", "gives no image size", annotation(box("D00"), -100, -80)),
    xml("size not a number", "gives no image size", annotation(box("D00"), "nan", "many")),
    xml("size missing", "gives no image size", f"<annotation>{box('D00')}</annotation>"),
    xml("size beyond counting", "gives no image size", annotation(box("D00"), "9e999", "9e999")),
    xml("names another image", "XML names another image", annotation("<filename>Japan_777777.jpg</filename>")),
    # Labels
    xml("misspelt class", "no class of the release is called 'D0w0'; the nearest is D00", annotation(box("D0w0"))),
    xml("unknown class", "no class of the release is called 'kangaroo'", annotation(box("kangaroo"))),
    xml("class in small letters", "is called 'd00'", annotation(box("d00"))),
    xml("class in other digits", "is called 'D\\uff10\\uff10'", annotation(box("D\uff10\uff10"))),
    xml("endless class", "is called 'DDDDDDDD", annotation(box("D" * 100_000))),
    xml("no class", "object 1 has no name", annotation(box(" "))),
    # Corners
    xml("swapped corners", "swapped corners", annotation(box("D00", 50, 60, 10, 20))),
    xml("float corners", "fractional corners", annotation(box("D00", 10.25))),
    xml("reaches outside", "reaches outside the image", annotation(box("D00", 10, 20, 5000, 60))),
    xml("negative corners", "reaches outside the image", annotation(box("D00", -10, -20))),
    xml("wholly outside", "lies outside the image", annotation(box("D00", 500, 500, 600, 600))),
    xml("beyond counting", "reaches outside the image", annotation(box("D00", "-1e300", 20, "1e300", 60))),
    xml("zero width", "has no area", annotation(box("D20", 10, 20, 10, 60))),
    xml("less than a pixel", "has no area", annotation(box("D20", 10, 20, 10.5, 60))),
    xml("NaN corner", "no usable corners (xmin nan", annotation(box("D00", "nan"))),
    xml("infinite corner", "no usable corners (xmin 10, ymin 20, xmax inf", annotation(box("D00", 10, 20, "inf"))),
    xml("overflowing corner", "no usable corners", annotation(box("D00", 10, 20, "9e999"))),
    xml("thousands separator", "no usable corners (xmin 1,024", annotation(box("D00", "1,024"))),
    xml("underscore in a number", "no usable corners (xmin 1_0", annotation(box("D00", "1_0"))),
    xml("digits of another script", "no usable corners", annotation(box("D00", "\u0661\u0660"))),
    xml("word for a number", "no usable corners (xmin ten", annotation(box("D00", "ten"))),
    xml("corner missing", "xmax missing", annotation(box("D00").replace("<xmax>50</xmax>", ""))),
    xml("no box at all", "xmin missing", annotation(A_NAME)),
    xml("corner given twice", "gives a corner twice", TWO),
    xml("box twice", "is there twice", annotation(box("D00") * 2)),
    # Images
    image("image of no bytes", "image is empty (0 bytes)", lambda: b""),
    image("text named jpg", "not a JPEG or PNG", lambda: b"no image"),
    image("GIF named jpg", "not a JPEG or PNG", lambda: jpeg("L", kind="GIF")),
    image("WebP named jpg", "not a JPEG or PNG", lambda: jpeg(kind="WEBP")),
    image("PNG named jpg", "is a PNG named .jpg", lambda: jpeg(kind="PNG"), kept=True),
    image("JPEG cut off", "truncated", lambda: jpeg()[:-200]),
    image("PNG cut off", "image cannot be read", lambda: jpeg(kind="PNG")[:-300]),
    image("only a start", "image cannot be read", lambda: b"\xff\xd8\xff"),
    image("broken header", "its header is broken", broken_header),
    image("huge dimensions", "60000x60000 pixels", huge_header),
    image("tiny", "too small to train on", lambda: jpeg(size=(6, 80))),
    image("CMYK", "image is CMYK", lambda: jpeg("CMYK"), kept=True),
    Defect("EXIF turned", "by EXIF orientation 6", True, lambda p: (p.paint(turned(6)), p.xml.name)[1]),
    Defect("EXIF upside down", "sizes do not tell", True, lambda p: (p.paint(turned(3)), p.xml.name)[1]),
    Defect("no image", "has no image", False, lambda p: (p.image.unlink(), p.xml.name)[1]),
    Defect("image is a folder", "image is a folder", False, lambda p: replaced(p.image, lambda x: x.mkdir())),
    Defect("image is a pipe", "image is a pipe", False, lambda p: replaced(p.image, os.mkfifo)),
    Defect(
        "image is a device",
        "is a pipe or a device",
        False,
        lambda p: replaced(p.image, lambda x: x.symlink_to("/dev/zero")),
    ),  # fmt: skip
    Defect("image link loop", "leads in a circle", False, lambda p: replaced(p.image, lambda x: x.symlink_to(x))),
    Defect(
        "image link to nothing", "link to nothing", False, lambda p: replaced(p.image, lambda x: x.symlink_to("no"))
    ),
    Defect("link out of RAW", "is a link to outside RAW", True, linked_out),
    # Names and folders
    Defect("same stem twice", "has the same name as", True, twice),
    Defect("doubled folder", "has the same name as", True, doubled_again),
    Defect("line break in a name", "has a line break", False, lambda p: p.rename(f"{p.stem}\nx")),
    Defect("name not UTF-8", "is not UTF-8", False, lambda p: p.rename(p.stem.encode() + b"\xe9")),
    Defect("endless name", "longer than 200 bytes", False, lambda p: p.rename(p.stem + "x" * 220)),
    Defect("stray file", "is no image", True, stray),
    Defect("country without XML", "images without annotations/xmls", False, without_labels),
)


def _upper_case(place: Place) -> None:
    for path in (place.image, place.xml):
        path.rename(path.with_suffix(path.suffix.upper()))


def _umlaut(place: Place) -> None:
    name = f"{place.stem}_Straße_ü"
    place.image.rename(place.image.with_stem(unicodedata.normalize("NFC", name)))
    place.xml.rename(place.xml.with_stem(unicodedata.normalize("NFD", name)))


def _marked(place: Place) -> None:
    place.write(b"\xef\xbb\xbf" + annotation(box("D00")).encode())


HARMLESS: dict[str, Callable[[Place], object]] = {
    "UTF-16 XML": lambda place: place.write(annotation(box("D00")).encode("utf-16")),
    "byte order mark": _marked,
    "damaged EXIF": lambda place: place.paint(jpeg(exif=b"Exif\x00\x00rubbish")),
    "grey image": lambda place: place.paint(jpeg("L")),
    "progressive image": lambda place: place.paint(jpeg(progressive=True)),
    "padding after the end": lambda place: place.paint(jpeg() + b"\x00" * 8),
    "endings in capitals": _upper_case,
    "umlauts, written in two ways": _umlaut,
    "leading dash": lambda place: place.rename("-rf"),
    "spaces, commas, quotes, stars": lambda place: place.rename('a, "b" [1]*?; $(c)'),
    "folder link in a circle": lambda place: (place.raw / DOMAIN / "again").symlink_to(place.raw),
    "hidden file": lambda place: (place.image.parent / f"._{place.image.name}").write_bytes(b"\x00"),
}


def build(raw: Path, outside: Path) -> dict[str, tuple[str, str, bool]]:
    """Write every defect and every harmless oddity; the defects' (file, reason, kept) by name.

    `outside` is a folder that links lead to. Needs a file system with links, pipes and any bytes as a name.
    """
    outside.mkdir(parents=True)
    expected = {}
    for number, defect in enumerate(DEFECTS, start=1):
        file = defect.make(Place(raw, outside, f"{DOMAIN}_{number:06d}"))
        expected[defect.name] = (file, defect.reason, defect.kept)
    for number, make in enumerate(HARMLESS.values(), start=len(DEFECTS) + 1):
        make(Place(raw, outside, f"{DOMAIN}_{number:06d}"))
    return expected


class Shuffled:
    """What `os.scandir` gives, in another order."""

    def __init__(self, folder: object, seed: int) -> None:
        with SCANDIR(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        self._entries = iter(random.Random(seed).sample(found, len(found)))

    def __enter__(self) -> Shuffled:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Shuffled:
        return self

    def __next__(self) -> os.DirEntry[str]:
        return next(self._entries)

    def close(self) -> None:
        pass


SCANDIR: Any = os.scandir
