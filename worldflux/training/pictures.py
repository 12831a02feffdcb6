"""Pictures that are logged, as frames and as image files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

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
