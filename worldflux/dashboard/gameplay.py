"""Frames of the environment, and pictures of what the model imagines."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from PIL import Image

from worldflux.dashboard.metrics import Sink

LONGEST_SIDE = 320  # pixels of a kept frame; smaller ones are not enlarged
ANSWER_FRAMES = 64  # newest frames that one answer holds
JPEG_QUALITY = 82
SMALL = 160  # pixels up to which a frame is shown enlarged, where artefacts would be seen


class GameplayBuffer:
    """The newest frames of the environment, scaled and compressed.

    max_frames: how many are kept. fps: at which rate they come and are to be shown. Once a server
    has attached itself, frames go to its process, which compresses them. They are scaled before:
    that costs the training less than sending what scaling leaves out.
    """

    def __init__(self, max_frames: int = 512, fps: int = 8) -> None:
        self.fps = fps
        self.max_frames = max_frames
        self._lock = threading.Lock()
        self._sink: Sink | None = None
        self._seq = 0
        self._frames: deque[dict[str, Any]] = deque(maxlen=max(1, max_frames))
        self._state: dict[str, Any] = {"status": "running", "phase": "starting", "detail": ""}

    def append_frame(
        self,
        frame: Any,
        *,
        episode: int = 0,
        episode_step: int = 0,
        reward: float = 0.0,
        done: bool = False,
    ) -> None:
        """Adds a frame `[H, W, 3]` uint8 (any array that supports the buffer protocol)."""
        height, width, channels = frame.shape
        if channels != 3 or frame.dtype != "uint8":
            raise ValueError(f"expected frames [H, W, 3] uint8, got {frame.shape} {frame.dtype}")
        content = frame if frame.flags.c_contiguous else frame.copy(order="C")
        pixels: Any = memoryview(content).cast("B")
        image = scaled(Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1))
        facts = {
            "event": "frame",
            "width": image.width,
            "height": image.height,
            "timestamp": time.time(),
            "episode": int(episode),
            "episode_step": int(episode_step),
            "reward": float(reward),
            "done": bool(done),
        }
        self.note(facts, pixels if image.size == (width, height) else image.tobytes())

    def set_phase(self, phase: str, detail: str = "") -> None:
        """What the run does now; ``unavailable`` when no frames come, and why."""
        self.set(phase=phase, detail=detail)

    def set_status(self, status: str) -> None:
        """``running``, ``finished``, ``error`` or ``unavailable``."""
        self.set(status=status)

    def set(self, **values: Any) -> None:
        self.note({"event": "gameplay", "values": values}, b"")

    def attach(self, sink: Sink) -> None:
        """From now on everything goes to `sink`; frames that are held stay here."""
        with self._lock:
            sink({"event": "gameplay", "values": dict(self._state)}, b"")
            self._sink = sink

    def note(self, event: Mapping[str, Any], payload: Any) -> None:
        """Keeps an event, or passes it on to the attached server."""
        with self._lock:
            sink = self._sink
        if sink is not None:
            sink(event, payload)
        elif event["event"] == "frame":
            kept = compressed(event, payload)
            with self._lock:
                self._seq += 1
                self._frames.append({**kept, "seq": self._seq})
        else:
            with self._lock:
                self._state.update(event["values"])

    def frames(self, since_seq: int = -1, *, jpeg: bool = False) -> dict[str, Any]:
        """Newest frames after `since_seq`: as ``rgb_b64``, raw RGB bytes in base64, or with `jpeg`
        as ``jpeg_b64``, about thirty times smaller."""
        with self._lock:
            newest = [frame for frame in self._frames if frame["seq"] > since_seq]
            answer = {**self._state, "latest_seq": self._seq, "fps": self.fps}
        if answer["status"] == "unavailable":
            return {**answer, "fps": 0, "frames": []}
        return {**answer, "frames": [_as_json(f, jpeg) for f in newest[-ANSWER_FRAMES:]]}


def scaled(image: Image.Image) -> Image.Image:
    """A picture of at most LONGEST_SIDE pixels."""
    factor = -(-max(image.size) // LONGEST_SIDE)
    # A whole factor takes a third of the time of any other.
    return image.reduce(factor) if factor > 1 else image


def compressed(event: Mapping[str, Any], payload: Any) -> dict[str, Any]:
    """A frame event with its picture as JPEG bytes."""
    size = event["width"], event["height"]
    image = Image.frombuffer("RGB", size, payload, "raw", "RGB", 0, 1)
    content = io.BytesIO()
    if max(image.size) <= SMALL:
        image.save(content, "JPEG", quality=95, subsampling=0)
    else:
        image.save(content, "JPEG", quality=JPEG_QUALITY)
    kept = {key: value for key, value in event.items() if key != "event"}
    return {**kept, "jpeg": content.getvalue()}


def _as_json(frame: Mapping[str, Any], jpeg: bool) -> dict[str, Any]:
    facts = {key: value for key, value in frame.items() if key != "jpeg"}
    if jpeg:
        return {**facts, "jpeg_b64": base64.b64encode(frame["jpeg"]).decode()}
    pixels = Image.open(io.BytesIO(frame["jpeg"])).convert("RGB").tobytes()
    return {**facts, "rgb_b64": base64.b64encode(pixels).decode()}


class PictureBuffer:
    """The newest open-loop pictures by name, each as one JPEG of its frames below each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pictures: dict[str, dict[str, Any]] = {}
        self._seq = 0

    def keep(self, event: Mapping[str, Any], payload: Any) -> None:
        """event: name, step, env_steps, frames T, height H and width W; payload `[T, H, W, 3]`."""
        size = event["width"], event["height"] * event["frames"]
        image = Image.frombuffer("RGB", size, payload, "raw", "RGB", 0, 1)
        content = io.BytesIO()
        # One picture of curves has thin lines and text, which JPEG would smear.
        image.save(content, "PNG" if event["frames"] == 1 else "JPEG", quality=90)
        with self._lock:
            self._seq += 1
            facts = {key: value for key, value in event.items() if key != "event"}
            self._pictures[event["name"]] = {
                **facts,
                "seq": self._seq,
                "content": content.getvalue(),
            }

    def index(self) -> dict[str, Any]:
        """What pictures there are, without their content."""
        with self._lock:
            items = [
                {key: value for key, value in picture.items() if key != "content"}
                for _, picture in sorted(self._pictures.items())
            ]
            return {"latest_seq": self._seq, "pictures": items}

    def content(self, name: str) -> bytes | None:
        """The JPEG or PNG bytes of one picture."""
        with self._lock:
            picture = self._pictures.get(name)
            return None if picture is None else picture["content"]
