"""The one place for paths: the repository's root, and every file of a run's folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def root() -> Path:
    """The repository's root, from which relative paths in settings resolve.

    `RDDKIT_ROOT` chooses another; an installed package without a repository around it uses the current folder.
    """
    if chosen := os.environ.get("RDDKIT_ROOT"):
        return Path(chosen).expanduser().resolve()
    repository = Path(__file__).resolve().parent.parent
    return repository if (repository / "configs").is_dir() else Path.cwd()


def resolve(path: str | os.PathLike[str]) -> Path:
    """`path` as an absolute path, relative ones from the root, whatever the caller's folder."""
    return Path(os.path.normpath(root() / Path(path).expanduser()))


def results() -> Path:
    """Where runs live unless a config names another `project`."""
    return root() / "results"


def cache() -> Path:
    """Where what was found out about models and this machine is kept; it can be deleted at any time."""
    return root() / ".cache"


def traits_file(model: str, about: str) -> Path:
    """The kept traits of a model; `about` tells versions and files apart."""
    return cache() / "traits" / f"{model}-{about}.json"


def calibration_file(model: str, about: str) -> Path:
    """The kept trials of a model on this machine."""
    return cache() / "calibration" / f"{model}-{about}.json"


@dataclass(frozen=True)
class RunPaths:
    """Every file of one run, by the names the design gives them."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def run_yaml(self) -> Path:
        return self.folder / "run.yaml"

    @property
    def args_yaml(self) -> Path:
        return self.folder / "args.yaml"

    @property
    def results_csv(self) -> Path:
        return self.folder / "results.csv"

    @property
    def journal(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def steps_csv(self) -> Path:
        return self.folder / "steps.csv"

    @property
    def memory_csv(self) -> Path:
        return self.folder / "memory.csv"

    @property
    def progress(self) -> Path:
        return self.folder / "progress.json"

    @property
    def lock(self) -> Path:
        return self.folder / ".lock"

    @property
    def starting(self) -> Path:
        """There from a first start until run.yaml is: what lies in such a folder is only what that start put there."""
        return self.folder / ".starting"

    def is_vacant(self) -> bool:
        """Whether a run may begin here: nothing is in the folder, or only what a start that was killed left."""
        if not self.folder.exists() or (self.starting.exists() and not self.run_yaml.exists()):
            return True
        return self.folder.is_dir() and not any(self.folder.iterdir())

    @property
    def fence(self) -> Path:
        return self.folder / ".fence"

    @property
    def weights(self) -> Path:
        return self.folder / "weights"

    @property
    def last(self) -> Path:
        return self.weights / "last.pt"

    @property
    def best(self) -> Path:
        return self.weights / "best.pt"

    @property
    def snapshots(self) -> Path:
        return self.folder / "snapshots"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, attempt: int) -> Path:
        return self.logs / f"attempt-{attempt:03d}.log"

    @property
    def supervisor_log(self) -> Path:
        return self.logs / "supervisor.log"

    @property
    def report_html(self) -> Path:
        return self.folder / "report.html"

    @property
    def report(self) -> Path:
        return self.folder / "report"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation"

    @property
    def evaluation_json(self) -> Path:
        return self.evaluation / "evaluation.json"

    @property
    def truth_json(self) -> Path:
        return self.evaluation / "truth.json"

    def found_json(self, weights: str) -> Path:
        """What `best` or `last` found on the validation images."""
        return self.evaluation / f"{weights}.json"

    def misses(self, weights: str) -> Path:
        """A picture of the worst of it."""
        return self.evaluation / f"misses-{weights}.jpg"

    @property
    def submission(self) -> Path:
        return self.evaluation / "submission.csv"

    @property
    def exports(self) -> Path:
        return self.folder / "exports"

    def predictions(self, name: str) -> Path:
        return self.folder / "predictions" / name

    @property
    def sample_predictions(self) -> Path:
        """The picture of some validation images in the report: labels beside what the model finds."""
        return self.report / "predictions.jpg"


def runs(project: Path | None = None) -> list[RunPaths]:
    """The runs in `project` (default `results/`), the most recently active last."""
    project = project or results()
    if not project.is_dir():
        return []
    found = [RunPaths(folder) for folder in project.iterdir() if (folder / "run.yaml").is_file()]

    def last_active(run: RunPaths) -> float:
        return max(p.stat().st_mtime for p in (run.run_yaml, run.journal, run.progress) if p.exists())

    return sorted(found, key=last_active)


def find_run(name_or_path: str | os.PathLike[str] | None) -> RunPaths:
    """The run of that name or path; None means the newest. FileNotFoundError says what was looked for and is there."""
    if name_or_path is None or str(name_or_path) == "":
        known = runs()
        if not known:
            raise FileNotFoundError(f"no run in {results()} yet; start one with: rddkit train")
        return known[-1]
    text = str(name_or_path)
    candidates = [results() / text, resolve(text), Path(text).expanduser().absolute()]
    for folder in candidates:
        if (folder / "run.yaml").is_file():
            return RunPaths(folder)
    names = ", ".join(run.name for run in runs()) or "none"
    raise FileNotFoundError(f"no run {text!r}: no run.yaml in {candidates[0]}; runs there: {names}")
