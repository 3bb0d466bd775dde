"""Ultralytics without the network: its settings, its font, and the switches it reads before it is imported."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from rddkit import durable, paths

# What talks to Ultralytics' own servers is off, and no key of the user's is copied. So is its Ray callback: it is for
# Ultralytics' own tuner, and where Ray is installed imports it for seconds at every start.
SILENT: dict[str, object] = {"sync": False, "vscode_msg": False, "openvino_msg": False, "raytune": False}
SILENT |= {"api_key": "", "openai_api_key": ""}
# These stay as the user set them; what is thrown away, such as a trial's training, tells none of them.
INTEGRATIONS = ("clearml", "comet", "dvc", "mlflow", "tensorboard", "wandb")


def home(kept: bool = True) -> Path:
    """The folder of Ultralytics' settings for our processes: the user's own is read, never written.

    `kept`: whether what the process makes will be kept, so that the user's integrations may tell of it.
    """
    return paths.cache() / ("ultralytics" if kept else "ultralytics-trials")


def environment(kept: bool = True) -> dict[str, str]:
    """What a process must have in its environment before it imports Ultralytics."""
    return {
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "False",
        "YOLO_CONFIG_DIR": str(home(kept)),
        "ULTRALYTICS_API_KEY": "",
    }


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


def prepare_home(kept: bool = True) -> Path:
    """Bring our copy of the settings up to the user's, and put a font where Ultralytics would fetch Arial; the folder.

    `kept`: as for `home`.
    """
    folder = home(kept) / "Ultralytics"
    folder.mkdir(parents=True, exist_ok=True)
    file, users = folder / "settings.json", users_settings()
    there = durable.read_json(file)
    mine = durable.read_json(users) if paths.cache() not in users.parents else {}
    # What Ultralytics has completed says which keys there are: it would tell at every start of a user's older ones.
    known = there.keys() - {"settings_version"} if "settings_version" in there else mine.keys()
    wanted = {**there, **{key: mine[key] for key in known & mine.keys()}, **SILENT}
    if not kept:
        wanted |= dict.fromkeys(INTEGRATIONS, False)
    if wanted != there:
        durable.write_json(file, wanted)
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        sans = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        for name in ("Arial.ttf", "Arial.Unicode.ttf"):
            if sans.is_file() and not (folder / name).exists():
                shutil.copyfile(sans, folder / name)
    return folder
