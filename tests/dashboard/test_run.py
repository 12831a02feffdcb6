"""Runs that are watched: the same training, told as it goes."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from tests.dashboard.conftest import Client
from tests.training.test_end_to_end_run import settings
from tests.training.test_resume_exact import assert_equal
from worldflux.config.page import Gameplay, Visualization
from worldflux.dashboard import DashboardCallback, MetricBuffer
from worldflux.dashboard.frames import FrameTap
from worldflux.dashboard.live import LiveDashboard
from worldflux.data.buffer import create_random_buffer
from worldflux.errors import ConfigurationError, TrainingError
from worldflux.models.factory import create_world_model
from worldflux.run_folder.checkpoint import read_checkpoint
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.runner.run import run
from worldflux.training import Trainer, TrainingConfig


class Blind(gym.Env):
    """An environment that has nothing to draw with."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), 1.0, False, self.t >= 10, {}


gym.register("Blind-v0", Blind)


class Seen:
    """What a visitor of a run's page saw; begins as soon as the page is there."""

    def __init__(self, port: int) -> None:
        self.client = Client(port)
        self.summaries: list[dict] = []
        self.gameplay: dict = {}
        self.points: dict[int, dict] = {}
        self.pictures: list[dict] = []
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            try:
                summary = self.client.json("/api/summary")
                for point in self.client.json("/api/metrics")["points"]:
                    self.points[point["seq"]] = point
                self.gameplay = self.client.json("/api/gameplay?encoding=jpeg")
                self.pictures = self.client.json("/api/imagination")["pictures"]
            except OSError:
                if self.summaries:
                    return
                time.sleep(0.05)
                continue
            self.summaries.append(summary)
            if summary["status"] != "running":
                return
            time.sleep(0.1)

    def done(self) -> Seen:
        self._thread.join(60)
        assert self.summaries
        return self


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def watched(port: int) -> dict:
    return {"visualization": Visualization(enabled=True, port=port), "gameplay": Gameplay(True)}


@pytest.mark.slow
def test_a_watched_run_is_the_same_run(tmp_path):
    port = free_port()
    run(settings("Cue-v0"), tmp_path / "alone")
    seen = Seen(port)
    run(replace(settings("Cue-v0"), **watched(port)), tmp_path / "watched")
    seen.done()
    plain, shown = (
        read_checkpoint(tmp_path / name / "checkpoints" / "step_000000014")
        for name in ("alone", "watched")
    )
    assert_equal(plain.agent, shown.agent)
    manifest = read_manifest(tmp_path / "watched")
    assert manifest["degraded_modes"] == []

    last = seen.summaries[-1]
    assert (last["status"], last["phase"], last["progress_percent"]) == ("finished",) * 2 + (100,)
    told = {"env_id": "Cue-v0", "latest_step": 14, "target_steps": 14, "seed": 3}
    assert {key: last[key] for key in told} == told
    assert last["best_return"] == manifest["scores"]["best"]
    records = read_metrics(tmp_path / "watched")
    assert [p["metrics"] for _, p in sorted(seen.points.items())] == [r["metrics"] for r in records]
    assert seen.gameplay["frames"], "no frame of the environment was seen"
    frame = seen.gameplay["frames"][0]
    image = Image.open(io.BytesIO(base64.b64decode(frame["jpeg_b64"])))
    assert image.size == (frame["width"], frame["height"]) == (125, 250)
    names = {picture["name"] for picture in seen.pictures}
    assert {"report/openloop/obs", "report/openloop/reward"} <= names


@pytest.mark.slow
def test_what_cannot_be_shown_is_named_and_the_run_goes_on(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = replace(settings("Blind-v0", total_steps=2), **watched(port))
        run(config, tmp_path)
    manifest = read_manifest(tmp_path)
    assert manifest["status"] == "completed"
    assert manifest["degraded_modes"] == ["gameplay_unavailable", "dashboard_port_taken"]
    assert manifest["run_classification"] == "meaningful_local_training"


def test_a_page_that_cannot_be_served(tmp_path, monkeypatch, caplog):
    asked = Visualization(enabled=True, host="192.0.2.1"), Gameplay(), tmp_path, None
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1"):
        LiveDashboard(*asked)
    live = LiveDashboard(*asked, strict=False)
    assert live.degraded_modes == ["dashboard_unavailable"] and not live.callbacks
    assert "training goes on without the page" in caplog.text


def test_a_failed_training_is_told(tmp_path, serve):
    metrics = MetricBuffer()
    _, client = serve(metrics=metrics)
    model = create_world_model("dreamerv3:ci", obs_shape=(3,), action_dim=2)
    data = create_random_buffer(capacity=100, obs_shape=(3,), action_dim=2)
    config = TrainingConfig(
        total_steps=5, batch_size=2, sequence_length=4, log_interval=1, output_dir=str(tmp_path)
    )
    callback = DashboardCallback(metrics, tmp_path / "copy.jsonl")
    trainer = Trainer(model, config, [callback], loggers=())
    trainer.train(data, num_steps=2)
    assert client.until("/api/summary", lambda s: s["status"] == "finished")["latest_step"] == 2
    copied = (tmp_path / "copy.jsonl").read_text().splitlines()
    assert copied == (tmp_path / "metrics.jsonl").read_text().splitlines()

    metrics.set_status("running")
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(TrainingError):
        trainer.train(data, num_steps=3)
    summary = client.until("/api/summary", lambda s: s["status"] == "error")
    assert "is not finite at update 3" in summary["error"]


class Clockwork:
    """A vector environment whose drawing costs as much as it is told."""

    obs_spaces: dict = {}  # noqa: RUF012
    raw_reward = np.zeros(1)

    def __init__(self, clock: list[float], cost: float) -> None:
        self.clock, self.cost = clock, cost

    def render(self):
        self.clock[0] += self.cost
        return np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("cost", "watching", "low", "high"),
    [(0.0001, True, 750, 801), (0.05, True, 14, 18), (0.0001, False, 49, 52)],
)
def test_frames_take_a_small_share_of_the_time(monkeypatch, cost, watching, low, high):
    clock, frames = [0.0], []
    monkeypatch.setattr("worldflux.dashboard.frames.time.perf_counter", lambda: clock[0])
    tap = FrameTap(lambda frame, **facts: frames.append(facts), fps=8, watched=lambda: watching)
    row = {"is_last": np.zeros(1, bool)}
    while clock[0] < 100:
        tap(Clockwork(clock, cost), row, 0, 0)
        clock[0] += 0.003
    assert low <= len(frames) <= high
