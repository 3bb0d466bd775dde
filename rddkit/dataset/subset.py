"""A few images of a prepared dataset as a dataset of its own, so that trying something out leaves the whole alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from rddkit.dataset.labels import label_file, read_data_yaml, split_images


def write_subset(data_yaml: Path, folder: Path, train: int, val: int) -> tuple[Path, int]:
    """A dataset of `train` and `val` images below `folder`; its YAML, and how many training images the whole has.

    Images are links and labels copies, evenly spread over the whole; where that has fewer, some come again. Nothing
    is written beside the originals, not even Ultralytics' cache of labels. Raises DatasetError as `read_data_yaml`.
    """
    data = read_data_yaml(data_yaml)
    whole = {split: split_images(data, split) for split in ("train", "val")}
    for split, count in {"train": train, "val": val}.items():
        images = whole[split]
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            image = images[number * len(images) // count]
            link = folder / "images" / split / f"{number:03d}-{image.name}"
            link.symlink_to(image.resolve())
            if label_file(image).is_file():
                shutil.copyfile(label_file(image), label_file(link))
    content = {"path": str(folder), "train": "images/train", "val": "images/val", "names": data.names}
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return file, len(whole["train"])
