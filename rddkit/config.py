"""What a run is asked to do: a plain Ultralytics argument file, checked, and `configs/safety.yaml` for what is ours."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rddkit import paths

DEFAULT_CONFIG = "configs/training_phase1_mps_safe.yaml"
STRIDE = 32  # the largest stride of every YOLO detection head; Ultralytics rounds other sizes up silently

# Arguments that another part of rddkit decides, each with the way to say it.
OURS = {
    "resume": "use --resume",
    "mode": "rddkit train always trains",
    "task": "rddkit trains detectors",
    "exist_ok": "folders are never numbered; use --name or --fresh",
    "cfg": "use --config",
    "save_dir": "use --name, or project=FOLDER",
}
PATHS = ("data", "project")  # resolved from the repository's root; `model` has its own rule
PLAN_KEYS = ("model", "batch", "imgsz", "workers", "cache", "plots", "amp", "multi_scale", "device")
# A resumed run may take these from the command line; anything else would be another run.
ALLOWED_ON_RESUME = frozenset(
    "batch imgsz device workers cache plots val patience save_period close_mosaic verbose".split()
)


AUTO = "auto"  # a batch of which the largest that fits is taken


class ConfigError(ValueError):
    """A setting that cannot be used; the text says which, where and what to write instead. Exit code 2."""


@dataclass(frozen=True)
class Config:
    """The arguments a person set: the file's, with the overrides on top; paths absolute."""

    args: dict[str, Any]
    source: str

    @property
    def folder(self) -> Path:
        """The run's folder, `<project>/<name>`."""
        return Path(self.args["project"]) / str(self.args["name"])


@dataclass(frozen=True)
class Kind:
    """What Ultralytics accepts for one argument, read from the comment beside its default."""

    default: Any
    types: frozenset[str]
    optional: bool


def ultralytics_folder() -> Path:
    """Where Ultralytics is installed, without importing it (an import costs 540 MiB)."""
    spec = importlib.util.find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise ConfigError("Ultralytics is not installed; run: make demo, or pip install -e .")
    return Path(spec.origin).parent


@functools.cache
def known_arguments() -> dict[str, Kind]:
    """Every Ultralytics argument with its default and types, from its own `cfg/default.yaml`."""
    text = (ultralytics_folder() / "cfg" / "default.yaml").read_text(encoding="utf-8")
    defaults = yaml.safe_load(text)
    kinds = {}
    for key, note in re.findall(r"^(\w+):[^#\n]*# \(([^)]*)\)", text, re.M):
        types = frozenset(re.findall(r"\b(int|float|bool|str|list|tuple)\b", note))
        kinds[key] = Kind(defaults[key], types, "optional" in note)
    return kinds


def nearest(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing where nothing is near."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def fits(value: Any, types: frozenset[str]) -> bool:
    """Whether a value is of one of the named types; a whole number counts as a float, a truth value as no number."""
    if isinstance(value, bool):
        return "bool" in types
    if isinstance(value, int):
        return bool({"int", "float"} & types)
    if isinstance(value, float):
        return "float" in types and math.isfinite(value)
    if isinstance(value, (list, tuple)):
        return bool({"list", "tuple"} & types)
    return isinstance(value, str) and "str" in types


def parse_value(text: str) -> Any:
    """The value typed behind `key=`: YAML, with `None` and `1e-3` read as people mean them."""
    if text == "None":
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """`["lr0=1e-3", "plots=False"]` as a dict; ConfigError for a word without `=`."""
    overrides = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r} is not key=value; any Ultralytics argument can follow, such as lr0=0.001")
        overrides[key] = parse_value(text)
    return overrides


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds keys and values; ConfigError says what is wrong with it and where."""
    if not path.is_file():
        raise ConfigError(f"no config file {path}{_configs_there(path.parent)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys and values, one `key: value` a line; it holds {content!r:.60}")
    return content


def _configs_there(folder: Path) -> str:
    """`; in FOLDER: a.yaml, b.yaml` for a folder, or for configs/ where it holds none."""
    for place in (folder, paths.root() / "configs"):
        if names := sorted(file.name for file in place.glob("*.yaml")):
            return f"; in {place}: {', '.join(names)}"
    return ""


def find_input(path: str | Path) -> Path:
    """A file named by a person: from the root, else from the current folder."""
    from_root = paths.resolve(path)
    here = Path(path).expanduser().absolute()
    return here if not from_root.exists() and here.exists() else from_root


def check_arguments(args: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for the first argument that Ultralytics would refuse, misread or silently change."""
    _check_types(args, where)
    _check_ranges(args, where)


def _check_types(args: Mapping[str, Any], where: str) -> None:
    known = known_arguments()
    for key, value in args.items():
        if key in OURS:
            raise ConfigError(f"{where}: {key!r} is not set here; {OURS[key]}")
        if key not in known:
            raise ConfigError(f"{where}: unknown setting {key!r}.{nearest(str(key), known)}")
        kind = known[key]
        if value is None:
            if not kind.optional and kind.default is not None:
                raise ConfigError(f"{where}: {key} must not be empty; the default is {kind.default!r}")
        elif not fits(value, kind.types) and (key, value) != ("batch", AUTO):
            wanted = " or ".join(sorted(kind.types)) + (
                f", such as {kind.default!r}" if kind.default is not None else ""
            )
            raise ConfigError(f"{where}: {key}={value!r} is a {type(value).__name__}; {key} takes {wanted}")


def _check_ranges(args: Mapping[str, Any], where: str) -> None:
    batch, imgsz = args.get("batch", 1), args.get("imgsz", STRIDE)
    if batch != AUTO and (not isinstance(batch, int) or batch < 1):
        raise ConfigError(f"{where}: batch={batch!r}; batch is a whole number of images, 1 or more, or auto")
    if not isinstance(imgsz, int) or imgsz < STRIDE or imgsz % STRIDE:
        near = max(STRIDE, round(imgsz / STRIDE) * STRIDE) if isinstance(imgsz, (int, float)) else 640
        raise ConfigError(f"{where}: imgsz={imgsz!r} must be a multiple of {STRIDE}; the nearest is {near}")
    for key, least in {"epochs": 1, "workers": 0, "seed": 0, "nbs": 1, "patience": 0}.items():
        if key in args and args[key] < least:
            raise ConfigError(f"{where}: {key}={args[key]} must be {least} or more")
    name = args.get("name")
    if name is not None and (not str(name).strip() or Path(str(name)).name != str(name) or str(name).startswith(".")):
        raise ConfigError(f"{where}: name={name!r} must be one folder's name, without / and not starting with a dot")
    if args.get("time") is not None:
        raise ConfigError(
            f"{where}: time={args['time']} would cut epochs off the run; keep hours by --for 9h or --until 07:00"
        )
    if args.get("save") is False:
        raise ConfigError(f"{where}: save=False would leave nothing to resume from; leave `save` out")


def load_config(source: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config file (default: the seed's) with overrides on top, checked, its paths absolute.

    Overrides of None are as if not given. Raises ConfigError; touches nothing.
    """
    path = find_input(source or DEFAULT_CONFIG)
    settings = read_yaml(path)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    return from_settings({"name": path.stem, **settings}, given, str(path))


def from_settings(settings: Mapping[str, Any], given: Mapping[str, Any], source: str) -> Config:
    """Settings with what was given on top, checked, as a config. `source` is named in errors."""
    _check_types(settings, source)  # its ranges with what was given in its place
    check_arguments(given, "given setting")
    args = {"project": "results", **settings, **given}
    _check_ranges(args, source)
    for key in PATHS:
        if args.get(key) is not None:
            args[key] = str(paths.resolve(args[key]))
    if isinstance(args.get("device"), int):
        args["device"] = str(args["device"])  # as a terminal gives it, so that both are the same run
    if args.get("model") is None:
        raise ConfigError(
            f"{source} names no model; add `model: yolov8s.pt`, or `model: yolov8s.yaml` for untrained weights"
        )
    if args.get("data") is None:
        raise ConfigError(f"{source} names no data; add `data: data/rdd2022/rdd2022.yaml` (made by rddkit prepare)")
    return Config(args, source)


def find_model(model: str) -> str:
    """The model a run starts from: an absolute path, or the name of an architecture that Ultralytics ships.

    Raises ConfigError for weights that are not there: nothing is fetched unasked.
    """
    path = paths.resolve(model)
    if path.is_file():
        return str(path)
    if model.endswith((".yaml", ".yml")):
        shipped = {p.name for p in (ultralytics_folder() / "cfg" / "models").rglob("*.yaml")}
        family = re.sub(r"(\d+)([nstmlxbce])(?=[.-])", r"\1", Path(model).name)
        if Path(model).name == model and family in shipped:
            return model
        raise ConfigError(
            f"no model {model!r}: neither {path} nor an architecture that Ultralytics ships.{nearest(family, shipped)}"
        )
    if not model.endswith(".pt"):
        raise ConfigError(f"model={model!r} is neither weights (.pt) nor an architecture (.yaml), such as yolov8s.pt")
    name = Path(model).name
    raise ConfigError(
        f"the weights {model!r} are not here (looked for {path}), and nothing is fetched unasked. One of:\n"
        f"  rddkit download {name}\n"
        f"  put the file at {path}\n"
        f"  train from scratch: model={Path(name).stem}.yaml"
    )


def find_data(data: str) -> str:
    """The data set's YAML, which must exist. ConfigError names the command that makes it."""
    if Path(data).is_file():
        return data
    raise ConfigError(
        f"no data set at {data}. From the official release: rddkit download RDD2022 (13 GB, or --country Czech), then "
        f"rddkit prepare RDD2022 {Path(data).parent}; "
        f"to try without it: rddkit sample data/raw-sample && rddkit prepare data/raw-sample data/sample"
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configs differ, as {key: (old, new)}; one left out counts as Ultralytics' default."""
    known = known_arguments()

    def value(args: Mapping[str, Any], key: str) -> Any:
        return args.get(key, known[key].default if key in known else None)

    return {
        key: (value(old, key), value(new, key))
        for key in sorted(old.keys() | new.keys())
        if value(old, key) != value(new, key)
    }
