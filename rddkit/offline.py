"""Ultralytics without the network: its settings, its font, and the switches it reads before it is imported."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

from rddkit import durable, paths

# Integrations stay as the user set them; what talks to Ultralytics' own servers is off, and so is its Ray callback: it
# is for Ultralytics' own tuner, and where Ray is installed imports it for seconds at every start.
SILENT = {"sync": False, "vscode_msg": False, "openvino_msg": False, "raytune": False}


def home() -> Path:
    """The folder of Ultralytics' settings for our processes: the user's own is read, never written."""
    return paths.root() / ".cache" / "ultralytics"


def environment() -> dict[str, str]:
    """What a process must have in its environment before it imports Ultralytics."""
    return {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "False", "YOLO_CONFIG_DIR": str(home())}


def child_environment() -> dict[str, str]:
    """The environment of a child that loads Ultralytics: offline, with our own settings folder, which is made."""
    prepare_home()
    return {**os.environ, **environment()}


def users_settings() -> Path:
    """Where a plain Ultralytics keeps this user's settings (ultralytics/utils/__init__.py, get_user_config_dir)."""
    if chosen := os.environ.get("YOLO_CONFIG_DIR"):
        return Path(chosen).expanduser() / "Ultralytics" / "settings.json"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Ultralytics" / "settings.json"
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "Ultralytics" / "settings.json"


def prepare_home() -> Path:
    """Write our copy of the settings, and put a font where Ultralytics would fetch Arial; the folder."""
    folder = home() / "Ultralytics"
    folder.mkdir(parents=True, exist_ok=True)
    mine = users_settings()
    settings = durable.read_json(mine) if mine.parent != folder else {}
    text = json.dumps({**settings, **SILENT}, indent=2)
    file = folder / "settings.json"
    there = durable.read_json(file)
    if any(there.get(key) != value for key, value in SILENT.items()):
        durable.write(file, text)
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        sans = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        for name in ("Arial.ttf", "Arial.Unicode.ttf"):
            if sans.is_file() and not (folder / name).exists():
                shutil.copyfile(sans, folder / name)
    return folder
