"""Frames of the environment, and pictures of what the model imagines."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from worldflux.dashboard.events import Buffer, Event, Payload

if TYPE_CHECKING:
    import numpy as np

LONGEST_SIDE = 320  # pixels of a kept frame; smaller ones are not enlarged
ANSWER_FRAMES = 64  # newest frames that one answer holds
JPEG_QUALITY = 82
SMALL = 160  # pixels up to which a frame is shown enlarged, where artefacts would be seen


class GameplayBuffer(Buffer):
    """The newest frames of the environment, scaled and compressed.

    max_frames: how many are kept. fps: at which rate they come and are to be shown. An attached
    server's process compresses them. They are scaled before: that costs the training less than
    sending what scaling leaves out.
    """

    state_event = "gameplay"

    def __init__(self, max_frames: int = 512, fps: int = 8) -> None:
        super().__init__(detail="")
        self.fps = fps
        self.max_frames = max_frames
        self._frames: deque[dict[str, Any]] = deque(maxlen=max(1, max_frames))

    def append_frame(
        self,
        frame: np.ndarray,
        *,
        episode: int = 0,
        episode_step: int = 0,
        reward: float = 0.0,
        done: bool = False,
    ) -> None:
        """Adds a frame `[H, W, 3]` uint8."""
        height, width, channels = frame.shape
        if channels != 3 or frame.dtype != "uint8":
            raise ValueError(f"expected frames [H, W, 3] uint8, got {frame.shape} {frame.dtype}")
        content = frame if frame.flags.c_contiguous else frame.copy(order="C")
        pixels = content.data.cast("B")
        image = scaled(_image((width, height), pixels))
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

    def _keep(self, event: Event, payload: Payload) -> None:
        self._seq += 1
        self._frames.append({**_facts(event), "jpeg": compressed(event, payload), "seq": self._seq})

    def frames(self, since_seq: int = -1, *, jpeg: bool = False) -> dict[str, Any]:
        """Newest frames after `since_seq`: as ``rgb_b64``, raw RGB bytes in base64, or with `jpeg`
        as ``jpeg_b64``, about thirty times smaller."""
        with self._lock:
            newest = [frame for frame in self._frames if frame["seq"] > since_seq]
            answer = {**self._state, "latest_seq": self._seq, "fps": self.fps}
        if answer["status"] == "unavailable":
            return {**answer, "fps": 0, "frames": []}
        return {**answer, "frames": [_as_json(f, jpeg) for f in newest[-ANSWER_FRAMES:]]}


class PictureBuffer:
    """The newest open-loop pictures by name, each as one image of its frames below each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pictures: dict[str, dict[str, Any]] = {}
        self._seq = 0

    def keep(self, event: Event, payload: Payload) -> None:
        """event: name, step, env_steps, frames T, height H and width W; payload `[T, H, W, 3]`."""
        image = _image((event["width"], event["height"] * event["frames"]), payload)
        # One picture of curves has thin lines and text, which JPEG would smear.
        content = _encoded(image, "PNG" if event["frames"] == 1 else "JPEG", quality=90)
        with self._lock:
            self._seq += 1
            facts = {**_facts(event), "seq": self._seq}
            self._pictures[event["name"]] = {**facts, "content": content}

    def index(self) -> dict[str, Any]:
        """What pictures there are, without their content."""
        with self._lock:
            pictures = [_facts(picture) for _, picture in sorted(self._pictures.items())]
            return {"latest_seq": self._seq, "pictures": pictures}

    def content(self, name: str) -> bytes | None:
        """The JPEG or PNG bytes of one picture."""
        with self._lock:
            picture = self._pictures.get(name)
            return None if picture is None else picture["content"]


def scaled(image: Image.Image) -> Image.Image:
    """A picture of at most LONGEST_SIDE pixels."""
    factor = -(-max(image.size) // LONGEST_SIDE)
    # A whole factor takes a third of the time of any other.
    return image.reduce(factor) if factor > 1 else image


def compressed(event: Event, payload: Payload) -> bytes:
    """The JPEG bytes of a frame."""
    image = _image((event["width"], event["height"]), payload)
    if max(image.size) <= SMALL:
        return _encoded(image, "JPEG", quality=95, subsampling=0)
    return _encoded(image, "JPEG", quality=JPEG_QUALITY)


def _image(size: tuple[int, int], pixels: Payload) -> Image.Image:
    return Image.frombuffer("RGB", size, pixels, "raw", "RGB", 0, 1)  # type: ignore[arg-type]


def _encoded(image: Image.Image, form: str, **options: int) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def _facts(event: Event) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("event", "jpeg", "content")}


def _as_json(frame: Mapping[str, Any], jpeg: bool) -> dict[str, Any]:
    if jpeg:
        return {**_facts(frame), "jpeg_b64": base64.b64encode(frame["jpeg"]).decode()}
    pixels = Image.open(io.BytesIO(frame["jpeg"])).convert("RGB").tobytes()
    return {**_facts(frame), "rgb_b64": base64.b64encode(pixels).decode()}
