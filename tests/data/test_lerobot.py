"""LeRobot folders: tables and videos made here, read row by row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_recorded import read
from worldflux.config.spaces import Space
from worldflux.data.recorded.encoding import View
from worldflux.data.recorded.opening import open_recorded
from worldflux.envs.spaces import ImageFormat
from worldflux.errors import BufferError

FPS, SIDE, LENGTHS = 10, 32, (5, 7, 4)
CAMERA = "observation.images.top"


@pytest.fixture
def robot(tmp_path: Path) -> Path:
    """Three episodes; the first two share a table and a video, the third has its own. The shade of a
    frame is ten times its row."""
    av = pytest.importorskip("av", reason="videos need av")
    pa = pytest.importorskip("pyarrow", reason="tables need pyarrow")
    import pyarrow.parquet as pq

    total = sum(LENGTHS)
    episode = np.repeat(np.arange(3), LENGTHS)
    state = np.stack([episode, np.arange(total)], 1).astype(np.float32)
    columns = {
        "observation.state": list(state),
        "action": list((state * 2 + 1).astype(np.float32)),
        "next.reward": np.arange(total, dtype=np.float32),
        "episode_index": episode,
    }
    offset, rows = 0, []
    for number, held in enumerate(((0, 1), (2,))):
        chosen = np.isin(episode, held)
        name = f"chunk-000/file-{number:03d}"
        for folder in ("data", f"videos/{CAMERA}", "meta/episodes"):
            (tmp_path / folder / "chunk-000").mkdir(parents=True, exist_ok=True)
        part = {
            key: [value[row] for row in np.flatnonzero(chosen)] for key, value in columns.items()
        }
        pq.write_table(pa.table(part), tmp_path / "data" / f"{name}.parquet")
        with av.open(str(tmp_path / "videos" / CAMERA / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=FPS, options={"qscale": "1"})
            stream.width = stream.height = SIDE
            stream.pix_fmt = "yuv420p"
            for row in np.flatnonzero(chosen):
                shade = np.full((SIDE, SIDE, 3), 10 * row, np.uint8)
                for packet in stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        begin = 0
        for one in held:
            rows.append((one, number, begin / FPS))
            begin += LENGTHS[one]
            offset += LENGTHS[one]
    table = {
        "episode_index": [one for one, _, _ in rows],
        f"videos/{CAMERA}/chunk_index": [0] * 3,
        f"videos/{CAMERA}/file_index": [file for _, file, _ in rows],
        f"videos/{CAMERA}/from_timestamp": [begin for _, _, begin in rows],
    }
    pq.write_table(pa.table(table), tmp_path / "meta/episodes/chunk-000/file-000.parquet")
    features = {
        "observation.state": {"dtype": "float32", "shape": [2]},
        "action": {"dtype": "float32", "shape": [2]},
        "next.reward": {"dtype": "float32", "shape": [1]},
        CAMERA: {"dtype": "video", "shape": [SIDE, SIDE, 3]},
    }
    info = {"codebase_version": "v3.0", "fps": FPS, "features": features}
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    stats = {"action": {"min": [1, 1], "max": [5, 2 * total - 1]}}
    (tmp_path / "meta/stats.json").write_text(json.dumps(stats))
    return tmp_path


def test_rows_and_frames(robot: Path) -> None:
    recorded = open_recorded([str(robot)])
    assert dict(recorded.obs_spaces) == {
        "state": Space((2,)),
        "images.top": Space((3, SIDE, SIDE), "uint8"),
    }
    first = 0
    for number, (steps, length) in enumerate(zip(read(recorded), LENGTHS, strict=True)):
        rows = np.arange(first, first + length)
        np.testing.assert_array_equal(steps["state"], np.stack([0 * rows + number, rows], 1))
        shade = steps["images.top"].mean((1, 2, 3))
        np.testing.assert_allclose(shade, 10 * rows, atol=3)
        np.testing.assert_array_equal(steps["reward"][1:], rows[:-1])
        scaled = np.stack([0 * rows + number - 1, rows / (sum(LENGTHS) - 1) * 2 - 1], 1)
        np.testing.assert_allclose(steps["action"][:-1], scaled[:-1], atol=1e-5)
        assert not steps["is_terminal"].any() and steps["is_last"][-1]
        first += length
    small = open_recorded([str(robot)], View(image=ImageFormat((16, 16))))
    assert small.obs_spaces["images.top"] == Space((3, 16, 16), "uint8")


def test_damages_are_one_line(robot: Path) -> None:
    video = robot / "videos" / CAMERA / "chunk-000" / "file-001.mp4"
    cases = {
        "file-001.mp4: damaged or no mp4": (video, b"nothing"),
        "stats.json: action: no bounds": (robot / "meta/stats.json", b"{}"),
        "meta/info.json: codebase_version 'v2.1' is not read": (
            robot / "meta/info.json",
            b'{"codebase_version": "v2.1", "features": {}}',
        ),
    }
    for line, (path, content) in cases.items():
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(BufferError, match=line) as caught:
            open_recorded([str(robot)])
        assert "\n" not in str(caught.value)
        path.write_bytes(before)
    (robot / "data/chunk-000/file-001.parquet").unlink()
    with pytest.raises(BufferError, match="3 episodes, and the tables of steps have 2"):
        open_recorded([str(robot)])
