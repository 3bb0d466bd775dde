"""What plain Ultralytics checkpoints hold. Loading one runs what is pickled in it, so others ask this as a child.

`python -m rddkit.checkpoint PATH` looks at one, `python -m rddkit.checkpoint PATH PATH` compares two.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def look(path: Path) -> dict[str, Any]:
    """Whole epochs done (0: stripped, nothing to resume), epochs and batch asked, the version that wrote it."""
    import torch

    content = torch.load(path, map_location="cpu", weights_only=False)
    asked = content.get("train_args") or {}
    return {
        "epochs_done": int(content.get("epoch", -1)) + 1,
        "epochs": int(asked.get("epochs") or 0),
        "batch": asked.get("batch"),
        "resumable": content.get("optimizer") is not None,
        "version": content.get("version"),
    }


def compare(one: Path, other: Path) -> dict[str, Any]:
    """How far two checkpoints' weights agree.

    Returns `of`, the tensors that either has; `same`, those equal to the bit; `largest`, the largest difference of a
    value, None where a tensor is missing, of another shape or not finite in one of them; and `where` that is.
    """
    import torch

    def weights(path: Path) -> dict[str, torch.Tensor]:
        content = torch.load(path, map_location="cpu", weights_only=False)
        return dict((content.get("model") or content["ema"]).state_dict())

    first, second = weights(one), weights(other)
    same, largest, where = 0, 0.0, ""
    for key in sorted(first.keys() | second.keys()):
        mine, theirs = first.get(key), second.get(key)
        if mine is None or theirs is None or mine.shape != theirs.shape:
            largest, where = float("inf"), key
        elif torch.equal(mine, theirs):
            same += 1
        else:
            apart = float((mine.double() - theirs.double()).abs().nan_to_num(nan=float("inf")).max())
            largest, where = max((largest, where), (apart, key))
    told = largest if largest != float("inf") else None
    return {"of": len(first.keys() | second.keys()), "same": same, "largest": told, "where": where}


if __name__ == "__main__":
    paths = [Path(word) for word in sys.argv[1:]]
    print(json.dumps(look(paths[0]) if len(paths) == 1 else compare(*paths)))
