"""The dashboard's own process, over HTTP."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import uvicorn

from tests.dashboard.conftest import Client
from worldflux.dashboard import GameplayBuffer, MetricBuffer, MetricsDashboardServer
from worldflux.dashboard import serve as serve_module
from worldflux.dashboard import server as server_module
from worldflux.errors import ConfigurationError, MissingDependencyError

SUMMARY = (
    "status phase phase_message gameplay_available started_at ended_at elapsed_seconds latest_step "
    "target_steps progress_percent latest_metrics latest_speed error host port total_points "
    "gameplay_fps refresh_ms"
).split()


def test_summary_and_points_are_what_was_told(serve):
    metrics = MetricBuffer(max_points=100)
    metrics.append(1, {"loss": 3.0})  # before the server is there
    metrics.set_target_steps(40)
    server, client = serve(metrics=metrics, refresh_ms=700)
    metrics.append(10, {"loss": 2.0, "odd": float("nan")}, env_steps=80, speed=5.0, timestamp=9.0)
    metrics.set_phase("training", "as usual")
    metrics.set_gameplay_available(True)
    summary = client.until("/api/summary", lambda s: s["phase_message"] == "as usual")
    assert set(SUMMARY) <= set(summary)
    assert summary["latest_metrics"] == {"loss": 2.0, "odd": None}
    told = {"latest_step": 10, "target_steps": 40, "progress_percent": 25, "latest_speed": 5}
    told |= {"status": "running", "total_points": 2, "refresh_ms": 700, "port": server.port}
    assert {key: summary[key] for key in told} == told
    everything = client.json("/api/metrics")
    assert [point["step"] for point in everything["points"]] == [1, 10]
    newer = client.json("/api/metrics?since_step=1")
    assert newer["latest_step"] == 10
    stream = client.json("/api/gameplay")
    assert (stream["status"], stream["phase"]) == ("running", "training")
    (point,) = newer["points"]
    assert point["metrics"] == {"loss": 2.0, "odd": None}
    assert (point["speed"], point["timestamp"]) == (5.0, 9.0)
    assert client.json("/api/metrics?since_step=nonsense")["points"] == everything["points"]
    assert client.json(f"/api/metrics?since_seq={newer['latest_seq']}")["points"] == []


def test_only_get_for_our_own_names(serve):
    _, client = serve()
    assert client.ask("/healthz") == (200, b"ok")
    for name in ("127.0.0.1", "localhost", f"localhost:{client.port}", "[::1]:80"):
        assert client.ask("/api/summary", host=name)[0] == 200
    for name in ("evil.example", f"evil.example:{client.port}", "127.0.0.1.evil.example", ""):
        assert client.ask("/api/summary", host=name)[0] == 421
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.ask("/api/summary", method)[0] == 405
    assert client.ask("/nothing")[0] == 404
    assert client.ask("/assets/../server.py")[0] == 404


def test_the_page_needs_nothing_from_elsewhere(serve):
    _, client = serve()
    status, page = client.ask("/")
    assert status == 200 and page == client.ask("/index.html")[1]
    shared = server_module.STATIC.parents[1] / "report" / "static"
    folders = (server_module.STATIC, shared)
    names = {path.name for folder in folders for path in folder.iterdir()} - {"index.html"}
    for name in names:
        status, content = client.ask(f"/assets/{name}")
        assert status == 200
        page += content
    for scheme in (b"https://", b"//cdn", b"@import"):
        assert scheme not in page
    own = page.replace(b'"http://www.w3.org/2000/svg"', b"")  # a namespace, never fetched
    assert b"http://" not in own


def test_frames_are_scaled_compressed_and_bounded(serve):
    gameplay = GameplayBuffer(max_frames=5, fps=4)
    _, client = serve(gameplay=gameplay)
    for step in range(12):
        frame = np.zeros((400, 600, 3), np.uint8)
        frame[:, :300] = (200, 30, 20 * step)
        gameplay.append_frame(frame, episode=2, episode_step=step, reward=0.5, done=step == 11)
        client.until("/api/gameplay", lambda a, n=step: a["latest_seq"] == n + 1)
    answer = client.json("/api/gameplay?since_seq=-1")
    assert (answer["fps"], len(answer["frames"])) == (4, 5)
    last = answer["frames"][-1]
    told = {"seq": 12, "episode": 2, "episode_step": 11, "reward": 0.5, "done": True}
    assert {key: last[key] for key in told} == told
    assert (last["width"], last["height"]) == (300, 200)
    pixels = np.frombuffer(base64.b64decode(last["rgb_b64"]), np.uint8).reshape(200, 300, 3)
    assert np.abs(pixels[100, 50].astype(int) - (200, 30, 220)).max() < 12
    assert pixels[100, 250].max() < 12
    small = client.json("/api/gameplay?since_seq=11&encoding=jpeg")["frames"]
    assert [frame["seq"] for frame in small] == [12]
    assert len(base64.b64decode(small[0]["jpeg_b64"])) < pixels.size / 20
    assert client.json("/api/gameplay?since_seq=x")["frames"] == answer["frames"]


def test_without_gameplay_the_stream_is_unavailable(serve):
    _, client = serve(gameplay=None)
    answer = client.json("/api/gameplay")
    assert (answer["status"], answer["phase"], answer["fps"]) == ("unavailable", "unavailable", 0)
    assert answer["frames"] == [] and answer["detail"] == "gameplay stream disabled"


def test_pictures_of_the_imagination(serve):
    metrics = MetricBuffer()
    _, client = serve(metrics=metrics)
    film = np.random.default_rng(0).integers(0, 255, (4, 30, 20, 3), np.uint8)
    metrics.picture("report/openloop/image", film, step=7, env_steps=70)
    metrics.picture("report/openloop/obs", film[:1], step=7, env_steps=70)
    index = client.until("/api/imagination", lambda a: len(a["pictures"]) == 2)["pictures"]
    assert [(p["frames"], p["height"], p["width"], p["step"]) for p in index] == [
        (4, 30, 20, 7),
        (1, 30, 20, 7),
    ]
    status, content = client.ask("/api/imagination/report/openloop/obs")
    assert status == 200 and content.startswith(b"\x89PNG")
    assert client.ask("/api/imagination/report/openloop/image")[1].startswith(b"\xff\xd8")
    assert client.ask("/api/imagination/other")[0] == 404


def test_history_is_bounded_and_keeps_its_beginning():
    metrics = MetricBuffer(max_points=100)
    for step in range(5000):
        metrics.append(step, {"loss": 1.0})
        if step % 500 == 0:
            metrics.append(step, {"eval/return": float(step)})
    points = metrics.points()["points"]
    assert 50 <= len(points) <= 100
    losses = [p["step"] for p in points if "loss" in p["metrics"]]
    assert (losses[0], losses[-1]) == (0, 4999) and losses == sorted(losses)
    evaluations = [p["step"] for p in points if "eval/return" in p["metrics"]]
    assert evaluations == list(range(0, 5000, 500))


def test_the_next_free_port_is_taken_and_named(serve):
    first, _ = serve()
    second, client = serve(start_port=first.port)
    assert second.port > first.port
    assert second.degraded_modes == ["dashboard_port_taken"]
    assert client.json("/api/summary")["port"] == second.port
    assert first.degraded_modes == []


def test_no_port_and_no_address_are_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = MetricsDashboardServer(MetricBuffer(), start_port=port, max_port_tries=1)
        with pytest.raises(ConfigurationError, match=f"visualization.port={port}: none"):
            server.start()
    server = MetricsDashboardServer(MetricBuffer(), host="192.0.2.1", start_port=0)
    with pytest.raises(ConfigurationError, match=r"visualization.host=192.0.2.1"):
        server.start()


def test_a_missing_library_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(server_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'worldflux\[dashboard\]'"):
        MetricsDashboardServer(MetricBuffer()).start()


def policy_of(client: Client) -> str:
    with urlopen(f"http://127.0.0.1:{client.port}/") as answer:
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        return str(answer.headers["Content-Security-Policy"])


def test_the_page_runs_its_own_files_only(serve):
    _, client = serve()
    assert "script-src 'self';" in policy_of(client) and "unsafe" not in policy_of(client)
    assert b"<style" not in client.ask("/")[1] and b"<script>" not in client.ask("/")[1]


def test_a_client_that_never_finishes_is_cut_off(monkeypatch):
    """One that sends half a request, and one that does not read its answer."""
    monkeypatch.setattr(serve_module, "SLOWEST", 0.3)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(40):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})

    async def cut(request: bytes) -> bool:
        config = uvicorn.Config(app, log_level="critical", lifespan="off", http=serve_module.Hasty)
        server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(request)
        while not server.server_state.connections:
            await asyncio.sleep(0.01)
        for _ in range(1000):
            if not server.server_state.connections:
                break
            await asyncio.sleep(0.02)
        gone = not server.server_state.connections
        writer.close()
        server.should_exit = True
        await task
        return gone

    assert asyncio.run(cut(b"GET / HTTP/1.1\r\nX-Slow: "))
    assert asyncio.run(cut(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))


def test_a_root_of_ones_own(serve, tmp_path: Path):
    (tmp_path / "index.html").write_text("<h1>mine</h1>")
    _, client = serve(dashboard_root=tmp_path)
    assert client.ask("/")[1] == b"<h1>mine</h1>"
    assert client.ask("/assets/dashboard.js")[0] == 200
    assert "script-src 'self' 'unsafe-inline'" in policy_of(client), "it has no other place"
    with pytest.raises(ConfigurationError, match=r"index\.html"):
        MetricsDashboardServer(MetricBuffer(), dashboard_root=tmp_path / "none").start()


def test_the_training_goes_on_when_the_dashboard_dies(serve, caplog):
    metrics, gameplay = MetricBuffer(), GameplayBuffer()
    server, client = serve(metrics=metrics, gameplay=gameplay)
    client.json("/api/summary")
    os.kill(server._process.pid, signal.SIGKILL)
    frame = np.zeros((200, 300, 3), np.uint8)
    deadline = time.monotonic() + 120
    while not server.degraded_modes and time.monotonic() < deadline:
        metrics.append(1, {"loss": 1.0})
        gameplay.append_frame(frame)
        time.sleep(0.01)
    for step in range(10_000):  # more than any queue holds
        metrics.append(step, {"loss": 1.0})
    assert server.degraded_modes == ["dashboard_unavailable"]
    assert "training goes on" in caplog.text
    server.stop()


def test_the_training_is_told_whether_somebody_looks(serve):
    server, client = serve()
    assert not server.watched
    client.json("/api/gameplay")
    deadline = time.monotonic() + 120
    while not server.watched:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_training_is_told():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = (
        "import time; from worldflux.dashboard import MetricBuffer, MetricsDashboardServer\n"
        f"server = MetricsDashboardServer(MetricBuffer(), start_port={port}); server.start()\n"
        "print(server._process.pid, flush=True); time.sleep(600)"
    )
    training = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    page = int(training.stdout.readline())
    try:
        client = Client(port)
        assert client.json("/api/summary")["status"] == "running"
        training.kill()
        summary = client.until("/api/summary", lambda s: s["status"] == "error")
        assert "gone without a word" in summary["error"] and summary["ended_at"] is not None
    finally:
        training.kill()
        training.communicate()
        os.kill(page, signal.SIGTERM)


def test_the_page_answers_a_little_longer_and_the_process_ends(serve):
    metrics = MetricBuffer()
    server, client = serve(metrics=metrics, linger_seconds=5.0)
    client.ask("/healthz")
    metrics.set_phase("finished")
    metrics.set_status("finished")
    server.stop()
    client.until("/api/summary", lambda s: s["status"] == "finished")
    server._process.wait(120)


def test_a_new_project_gets_the_same_page():
    scaffold = Path(server_module.__file__).parents[1] / "project" / "scaffold"
    page = (server_module.STATIC / "index.html").read_bytes()
    assert (scaffold / "dashboard" / "index.html").read_bytes() == page
