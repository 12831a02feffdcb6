"""Pictures that are logged, as frames and as image files."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldflux.run_folder.disk import disk_errors, replaced
from worldflux.run_folder.names import REPORT

GIF_MILLISECONDS = 100


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


def keep_newest(folder: Path, pictures: Mapping[str, np.ndarray]) -> None:
    """Writes pictures of a report into a run folder as PNG or GIF, `report/openloop_image.gif` of
    ``report/openloop/image``, in place of those that were there."""
    for name, picture in pictures.items():
        place, _, title = name.partition("/")
        if place != REPORT:
            continue
        frames = video_frames(picture)
        kind = "gif" if len(frames) > 1 else "png"
        path = folder / place / f"{re.sub('[^A-Za-z0-9._-]+', '_', title)}.{kind}"
        with disk_errors("picture", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(path) as temporary:
                temporary.write_bytes(encode(frames))
