"""RDD2022 from its archives to what a trainer reads: sample, conversion, split, audit, identity."""

import os
from typing import Any

from rddkit.dataset.audit import summary
from rddkit.dataset.classes import CLASS_NAMES, OFFICIAL, chosen_classes, described
from rddkit.dataset.labels import DataYaml, fingerprint, labelled_images, named_images, read_data_yaml, split_images
from rddkit.dataset.measures import warnings
from rddkit.dataset.prepare import prepare
from rddkit.dataset.problems import DatasetError
from rddkit.dataset.subset import write_subset

__all__ = [
    "CLASS_NAMES",
    "OFFICIAL",
    "DataYaml",
    "DatasetError",
    "chosen_classes",
    "described",
    "fingerprint",
    "labelled_images",
    "named_images",
    "prepare",
    "read_data_yaml",
    "split_images",
    "summary",
    "warnings",
    "write_sample",
    "write_subset",
]


def write_sample(folder: str | os.PathLike[str], images: int = 48, seed: int = 42) -> dict[str, Any]:
    """See `rddkit.dataset.sample.write_sample`; numpy, which paints, is not for the supervisor to hold."""
    from rddkit.dataset import sample

    return sample.write_sample(folder, images, seed)
