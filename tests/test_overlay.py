"""A sweep's figures and tables, from runs that were made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fabricate import fabricate_run

from rddkit import lock, overlay, sweep, sweeping
from rddkit.standings import Standing, Standings


def made_up(root: Path, *names: str, **settings: object) -> Standings:
    trials = []
    for number, name in enumerate(names):
        run = fabricate_run(root / "results" / name, epochs=5 + number, memory_rows=200, **settings)  # type: ignore[arg-type]
        lines = [json.loads(line) for line in run.journal.read_text().splitlines()]
        for line in lines:
            if line["event"] == "attempt_started":
                line["node"] = f"node-{'ab'[line['attempt'] % 2]}"
        run.journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
        trials.append(Standing(name, str(run.folder), {"seed": number}))
        trials[-1].settle()
    return Standings(root / "results" / "s" / "sweep.json", "s", "mAP50", trials)


def test_each_trial_is_a_line_the_best_one_first_and_thicker(root: Path) -> None:
    figure = overlay.curves(made_up(root, "one", "two"))
    assert [trace.name for trace in figure.data] == ["two (done)", "one (done)"]
    assert figure.data[0].line.width > figure.data[1].line.width
    assert len(figure.data[0].x) == 6


def test_without_an_epoch_the_figures_say_so(root: Path) -> None:
    told = Standings(root / "sweep.json", "s", "mAP50", [Standing("one", str(root / "results" / "one"))])
    assert "No trial has validated" in overlay.curves(told).layout.annotations[0].text
    assert "No memory reading" in overlay.memory(told).layout.annotations[0].text


def test_memory_is_summed_over_the_trials_of_a_node(root: Path) -> None:
    trials = made_up(root, "one").trials
    alone, both = overlay.held_by_node(trials), overlay.held_by_node(trials * 2)
    assert set(alone) == {"node-a", "node-b"}
    for node, held in both.items():
        assert held.max() == pytest.approx(2 * alone[node].max()), "the same run twice holds twice as much"
    assert [trace.name for trace in overlay.memory(made_up(root, "one")).data] == ["node-a", "node-b"]


def test_the_winner_is_named_with_what_it_changed_and_a_word_about_seeds(
    root: Path, make_root: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_root(root)
    file = root / "configs" / "s.yaml"
    file.write_text(yaml.safe_dump({"config": "configs/tiny.yaml", "grid": {"lr0": [0.1, 0.2]}}))
    asked = sweep.read(file)
    sweeping.show_winner(asked, sweeping.look(asked))
    assert "No winner yet" in capsys.readouterr().out
    told = made_up(root, "s-lr0_0.1", "s-lr0_0.2")
    for trial in told.trials:
        trial.overrides = {"lr0": float(trial.run.rpartition("_")[2])}
    told.write()
    sweeping.show_winner(asked, sweeping.look(asked))
    shown = capsys.readouterr().out
    assert "s-lr0_0.2" in shown and "lr0=0.2" in shown and "ahead of the next by" in shown
    assert "One seed each" in shown
    sweeping.show_trials(told)
    assert "2 of 2 done; best mAP50" in capsys.readouterr().out


def test_stopping_a_sweep_that_does_not_run_says_so(root: Path, make_root: Callable[..., Path]) -> None:
    make_root(root)
    file = root / "configs" / "s.yaml"
    file.write_text(yaml.safe_dump({"config": "configs/tiny.yaml", "grid": {"seed": [1]}}))
    asked = sweep.read(file)
    assert not lock.is_held(asked.lock) and sweeping.stop(asked) is False
