"""Links of a run folder that leave it: nothing behind them is read, written or deleted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch

from worldflux.errors import CheckpointError
from worldflux.report.curves import draw_run
from worldflux.run_folder.checkpoint import Checkpoint, write_checkpoint
from worldflux.run_folder.disk import replaced
from worldflux.run_folder.links import check_links
from worldflux.run_folder.state import claim, claimed_by
from worldflux.training.logger import MetricLogger
from worldflux.training.loggers import Destination

ENTRIES = [
    "run.lock",
    "run.log",
    "metrics.jsonl",
    "run_manifest.json",
    "report",
    "report/learning_curve.png",
    "videos/eval_best.gif",
    "pictures",
    "replay",
    "replay_1/steps-00000-000009.npz",
    "checkpoints",
    "checkpoints/.tmp-step_000000001",
    "checkpoints/step_000000001/state.json",
    "events.out.tfevents.1",
    ".hydra/config.yaml",
    "previous",
]


@pytest.mark.parametrize("name", ENTRIES)
def test_a_link_out_of_the_folder_is_named(tmp_path: Path, name: str) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    victim.mkdir()
    (run / name).parent.mkdir(parents=True)
    (run / name).symlink_to(victim)
    with pytest.raises(CheckpointError, match="is a link out of the run folder") as caught:
        with claim(run):
            pass
    assert str(run / name) in str(caught.value)
    assert not (run / "run.lock").is_file()


def test_links_inside_and_entries_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "run/replay").mkdir(parents=True)
    (tmp_path / "run/replay/old").symlink_to("new")
    (tmp_path / "run/notes").symlink_to(tmp_path)
    check_links(tmp_path / "run")
    (tmp_path / "run/videos").symlink_to("videos")
    with pytest.raises(CheckpointError, match="videos is a link that leads to itself"):
        check_links(tmp_path / "run")
    (tmp_path / "run/videos").unlink()
    os.mkfifo(tmp_path / "run/run.lock")
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        claimed_by(tmp_path / "run")


def test_what_is_written_replaces_links_with_the_mode_of_the_umask(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "report").mkdir()
    (tmp_path / "report/learning_curve.png").symlink_to(tmp_path / "victim")
    line = '{"step": 1, "env_steps": 1, "metrics": {"episode/return": 1.0}}\n'
    (tmp_path / "metrics.jsonl").write_text(line * 2)
    assert draw_run(tmp_path) is not None
    assert (tmp_path / "victim").read_text() == "precious"
    with replaced(tmp_path / "file") as temporary:
        temporary.write_text("new")
    write_checkpoint(tmp_path / "step", Checkpoint({"model": {"w": torch.ones(1)}}))
    umask = os.umask(0)
    os.umask(umask)
    for path in (tmp_path / "file", *(tmp_path / "step").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path


def test_metrics_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "victim")
    for resume_at in (None, 0):
        with pytest.raises(CheckpointError, match="metrics"):
            MetricLogger(Destination(tmp_path, "updates", None), (), resume_at=resume_at)
    assert (tmp_path / "victim").read_text() == "precious"
