"""What a plain Ultralytics checkpoint holds. Loading one runs what is pickled in it, so others ask this as a child."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def look(path: Path) -> dict[str, Any]:
    """Whole epochs done (0: stripped, nothing to resume), epochs asked, the version that wrote it."""
    import torch

    content = torch.load(path, map_location="cpu", weights_only=False)
    asked = content.get("train_args") or {}
    return {
        "epochs_done": int(content.get("epoch", -1)) + 1,
        "epochs": int(asked.get("epochs") or 0),
        "resumable": content.get("optimizer") is not None,
        "version": content.get("version"),
    }


if __name__ == "__main__":
    print(json.dumps(look(Path(sys.argv[1]))))
