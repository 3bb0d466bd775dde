"""Take more memory than a cap allows, and tell what came of it: `python -m rddkit.probe DEVICE BYTES`.

The self-test asks this of a child process, which holds torch and may die of it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from rddkit import caps, memory

PIECE = 32 << 20
BEYOND = 512 << 20  # a cap that has not raised by then does not bind


def overdraw(device: str, budget: int) -> dict[str, Any]:
    """Cap this process as a worker is capped, and allocate piece by piece until it raises.

    MPS takes its cap from the environment (`caps.environment`), set by whoever starts this process.

    Returns `cap` (what was set), `taken` (bytes got), `device_memory` (bytes read for them; None on the CPU), `kind`
    and `text` of the exception (empty if none came), and `works`: whether tensors can be made and counted afterwards.
    """
    caps.before_torch(budget, wanted=device == "cpu")
    import torch

    most = budget + BEYOND
    if device == "mps":
        said = f"high watermark {os.environ.get('PYTORCH_MPS_HIGH_WATERMARK_RATIO')} of recommended_max_memory"
    elif device == "cpu":
        said = caps.with_model(budget, wanted=True).reason
    else:
        cap = caps.on_device(device, budget)
        said, most = cap.reason, max(budget, cap.limit or 0) + BEYOND  # a whole hundredth of the GPU at least
    held: list[Any] = []
    kind = text = ""
    try:
        while len(held) * PIECE < most:
            held.append(torch.ones(PIECE // 4, dtype=torch.float32, device=device))
    except Exception as error:
        kind, text = type(error).__name__, str(error)
    told = {"cap": said, "taken": len(held) * PIECE, "device_memory": memory.device_memory(device)}
    held.clear()
    memory.clear_cache(device)
    works = float(torch.ones(1024, device=device).sum()) == 1024
    return {**told, "kind": kind, "text": text, "works": works}


if __name__ == "__main__":
    print(json.dumps(overdraw(sys.argv[1], int(sys.argv[2]))))
