"""Which devices torch sees. Loads torch (540 MiB), so others ask it as a child: `python -m rddkit.device`."""

from __future__ import annotations

import json
from typing import Any


def look() -> dict[str, Any]:
    """Versions, devices, their memory in bytes, and what changes the bits of a result on this CPU."""
    import torch
    import torchvision

    found: dict[str, Any] = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cuda": [],
        "mps": torch.backends.mps.is_available(),
    }
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, whole = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            found["cuda"].append({"name": name, "free": free, "total": whole})
    if found["mps"]:
        found["mps_recommended_max"] = torch.mps.recommended_max_memory()
    return found


if __name__ == "__main__":
    print(json.dumps(look()))
