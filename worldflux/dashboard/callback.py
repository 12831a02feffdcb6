"""Passes what a training does on to a dashboard."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from worldflux.dashboard.metrics import MetricBuffer
from worldflux.run_folder.manifest import plain
from worldflux.run_folder.metrics import read_metrics
from worldflux.training.loggers import Listener
from worldflux.training.pictures import video_frames
from worldflux.training.session import Callback, TrainingSession

STATUS_SECONDS = 0.5


class DashboardCallback(Callback, Listener):
    """Passes every logged record and open-loop picture, and the progress, to a MetricBuffer.

    jsonl_path: where records are also appended as JSON lines; the run's own ``metrics.jsonl``,
    which the trainer writes in any case, is left to it. A resumed run shows its earlier curves too.
    """

    def __init__(self, buffer: MetricBuffer, jsonl_path: str | Path | None = None) -> None:
        self.buffer = buffer
        self.jsonl_path = None if jsonl_path is None else Path(jsonl_path)
        self._file: TextIO | None = None
        self._next = 0.0
        self._phase = ""

    def on_train_begin(self, trainer: TrainingSession) -> None:
        logger = trainer.folder.logger
        for record in read_metrics(trainer.folder.path):
            self._append(record)
        if self.jsonl_path is not None and self.jsonl_path.resolve() != logger.path.resolve():
            self.jsonl_path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.jsonl_path, "a", encoding="utf-8")
        logger.listeners.append(self)
        self.buffer.set(**run_facts(trainer))
        self._send_progress(trainer)
        collects = trainer.source and not trainer.state.global_step
        self._enter("collecting" if collects else "training")

    def on_step_begin(self, trainer: TrainingSession) -> None:
        if self._phase == "evaluating":
            self._enter("training")

    def on_step_end(self, trainer: TrainingSession) -> None:
        if self._phase != "training":
            self._enter("training")
        if time.perf_counter() >= self._next:
            self._send_progress(trainer)

    def on_train_end(self, trainer: TrainingSession) -> None:
        self._send_progress(trainer)
        if trainer.status == "failed":
            self._enter("error")
            self.buffer.set_status("error", str(trainer.error))
        else:
            self._enter("finished" if trainer.status == "completed" else "stopped")
            self.buffer.set_status("finished")
        if self._file is not None:
            self._file.close()
            self._file = None

    # From the run's logger

    def scalars(self, record: Mapping[str, Any]) -> None:
        self._append(record)
        if self._file is not None:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()

    def phase(self, phase: str) -> None:
        self._enter(phase)

    def pictures(self, pictures: Mapping[str, np.ndarray], *, step: int, env_steps: int) -> None:
        for name, picture in pictures.items():
            frames = np.ascontiguousarray(video_frames(picture))
            self.buffer.picture(name, frames, step=step, env_steps=env_steps)

    def _append(self, record: Mapping[str, Any]) -> None:
        at = {key: record[key] for key in ("env_steps", "speed", "timestamp")}
        self.buffer.append(record["step"], record["metrics"], **at)

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self.buffer.set_phase(phase)

    def _send_progress(self, trainer: TrainingSession) -> None:
        self._next = time.perf_counter() + STATUS_SECONDS
        status, state = trainer.progress(), trainer.state
        facts = {
            "latest_step": status.step,
            "target_steps": status.total_steps,
            "env_steps": status.env_steps,
            "target_env_steps": status.total_env_steps,
            "fraction": status.fraction,
            "eta_seconds": status.eta,
            "latest_speed": status.rate,
            "episodes": state.episodes,
            "mean_return": state.mean_return,
            "best_return": state.best_score,
            "best_step": state.best_step,
            "degraded_modes": trainer.all_degraded_modes(),
        }
        self.buffer.set(**plain(facts))


def run_facts(trainer: TrainingSession) -> dict[str, Any]:
    """What the page's head shows of a run."""
    facts, config = trainer.facts, getattr(trainer.model, "config", None)
    model = facts.get("model_config", {})
    head = {
        "run": str(trainer.folder.path.resolve()),
        "env_id": facts.get("env", {}).get("id"),
        **{k: model.get(k) or getattr(config, k, None) for k in ("model_type", "model_name")},
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "seed": trainer.config.seed,
        "device": str(trainer.device),
        "eval_interval": trainer.config.eval_interval if trainer.evaluator else None,
        "solved_return": trainer.solved_return,
        "version": facts.get("versions", {}).get("worldflux"),
    }
    return plain(head)
