"""metrics.jsonl and TensorBoard.

``metrics.jsonl`` is the truth: one object per record with ``step`` (gradient updates),
``env_steps``, ``timestamp`` (Unix seconds), ``speed`` (updates per second, null where none was
measured) and ``metrics``. TensorBoard has one x axis: environment steps in runs that collect
experience, as published curves have, gradient updates in the others; both counters are logged as
``counters/env_steps`` and ``counters/updates``. Pictures go to a separate event file under
``pictures/`` so that scalars stay quick to load.
"""

from __future__ import annotations

import errno
import io
import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from worldflux.run_folder.disk import disk_errors
from worldflux.run_folder.manifest import plain
from worldflux.run_folder.names import METRICS, PICTURES

if TYPE_CHECKING:
    from torch.utils.tensorboard import FileWriter, SummaryWriter

GIF_MILLISECONDS = 100


class Listener(Protocol):
    """Gets everything that is logged, as it is logged.

    phase: training pauses for something else, such as ``evaluating``.
    """

    def scalars(self, record: Mapping[str, Any]) -> None: ...

    def phase(self, phase: str) -> None: ...

    def pictures(
        self, pictures: Mapping[str, np.ndarray], *, step: int, env_steps: int
    ) -> None: ...


class MetricLogger:
    """Writes the metrics of one run.

    folder: the run folder. x_axis: ``env_steps`` or ``updates``, TensorBoard's step.
    resume_at: byte length of ``metrics.jsonl`` at the checkpoint a run continues from (records
        behind it are cut off), None for a fresh run. purge_from: TensorBoard hides older events
        from this x on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        x_axis: str = "env_steps",
        tensorboard: bool = True,
        resume_at: int | None = None,
        purge_from: int | None = None,
    ) -> None:
        self.folder = folder
        self.x_axis = x_axis
        self.path = folder / METRICS
        self._scalars: SummaryWriter | None = None
        self._pictures: FileWriter | None = None
        self._tensorboard = tensorboard
        self.listeners: list[Listener] = []
        with disk_errors("metrics", self.path):
            folder.mkdir(parents=True, exist_ok=True)
            if resume_at is not None and self.path.exists():
                os.truncate(self.path, min(resume_at, self.path.stat().st_size))
            self._file = open(self.path, "w" if resume_at is None else "a", encoding="utf-8")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._scalars = SummaryWriter(
                str(folder), purge_step=purge_from, filename_suffix=".scalars"
            )

    def scalars(
        self, metrics: Mapping[str, float], *, step: int, env_steps: int, speed: float | None = None
    ) -> None:
        """One record of named scalars at a point of the run."""
        record = {
            "step": step,
            "env_steps": env_steps,
            "timestamp": time.time(),
            "speed": speed,
            "metrics": metrics,
        }
        record = plain(record)
        with disk_errors("metrics", self.path):
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
            if os.fstat(self._file.fileno()).st_nlink == 0:
                raise FileNotFoundError(errno.ENOENT, "it was deleted while the run was writing it")
            if self._scalars is not None:
                x = self._x(step, env_steps)
                for name, value in metrics.items():
                    self._scalars.add_scalar(name, value, x)
        for listener in self.listeners:
            listener.scalars(record)

    @property
    def takes_pictures(self) -> bool:
        """Whether `pictures` shows them to anybody: TensorBoard or a listener."""
        return self._tensorboard or bool(self.listeners)

    def pictures(self, pictures: Mapping[str, np.ndarray], *, step: int, env_steps: int) -> None:
        """Images `[H, W, 3]` and videos `[T, H, W, 3]` or `[B, T, H, W, 3]` (rows below each
        other), uint8; videos become animated GIFs."""
        for listener in self.listeners:
            listener.pictures(pictures, step=step, env_steps=env_steps)
        if not self._tensorboard or not pictures:
            return
        with disk_errors("pictures", self.folder):
            self._write_pictures(pictures, self._x(step, env_steps))

    def _write_pictures(self, pictures: Mapping[str, np.ndarray], x: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
        from torch.utils.tensorboard import FileWriter

        if self._pictures is None:
            self._pictures = FileWriter(str(self.folder / PICTURES), filename_suffix=".pictures")
        for name, picture in pictures.items():
            frames = video_frames(picture)
            height, width = frames.shape[1:3]
            image = Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=encode(frames)
            )
            summary = Summary(value=[Summary.Value(tag=name, image=image)])
            self._pictures.add_summary(summary, x)
        self._pictures.flush()

    def phase(self, phase: str) -> None:
        """Passes on to the listeners what the training does now; nothing is written."""
        for listener in self.listeners:
            listener.phase(phase)

    def position(self) -> int:
        """Flushes everything to the disk and returns the byte length of ``metrics.jsonl``."""
        with disk_errors("metrics", self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            if self._scalars is not None:
                self._scalars.flush()
            return self.path.stat().st_size

    def close(self) -> None:
        with disk_errors("metrics", self.path), ExitStack() as stack:
            for writer in (self._file, self._scalars, self._pictures):
                if writer is not None:
                    stack.callback(writer.close)

    def _x(self, step: int, env_steps: int) -> int:
        return env_steps if self.x_axis == "env_steps" else step


def video_frames(picture: np.ndarray) -> np.ndarray:
    """`[T, H, W, 3]` frames of an image, a video or a batch of videos."""
    if picture.ndim == 3:
        return picture[None]
    if picture.ndim == 5:
        # [B, T, H, W, 3] -> [T, B*H, W, 3]
        batch, time_, height, width, channels = picture.shape
        return picture.swapaxes(0, 1).reshape(time_, batch * height, width, channels)
    return picture


def encode(frames: np.ndarray, milliseconds: int = GIF_MILLISECONDS) -> bytes:
    """PNG bytes of one frame, animated GIF bytes of several; frames `[T, H, W, 3]` uint8."""
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    buffer = io.BytesIO()
    if len(images) == 1:
        images[0].save(buffer, format="PNG")
    else:
        options: dict[str, Any] = {"duration": milliseconds, "loop": 0}
        images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], **options)
    return buffer.getvalue()
