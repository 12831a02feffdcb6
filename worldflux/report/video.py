"""Frames of observations, and videos of them without a codec: animated GIF and WebP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from worldflux.errors import ConfigurationError
from worldflux.run_folder.disk import disk_errors, replaced

LONGEST_SIDE = 400
FRAME_MILLISECONDS = 30
FORMATS = {".gif": "GIF", ".webp": "WEBP"}


def write_video(path: Path, frames: np.ndarray) -> None:
    """Writes frames `[T, H, W, 3]` uint8; the suffix says the format, large frames are scaled down.

    Raises ConfigurationError for another suffix, CheckpointError when the disk refuses.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigurationError(f"video {path}: expected a name ending in {' or '.join(FORMATS)}")
    height, width = frames.shape[1:3]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    if scale < 1:
        images = [image.resize(size, Image.Resampling.LANCZOS) for image in images]
    with disk_errors("video", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            images[0].save(
                temporary,
                FORMATS[path.suffix.lower()],
                save_all=True,
                append_images=images[1:],
                duration=FRAME_MILLISECONDS,
                loop=0,
            )


def rgb(picture: np.ndarray) -> np.ndarray:
    """`[H, W, 3]` uint8 of `[C, H, W]`, uint8 or in [0, 1]; of a frame stack the newest."""
    newest = picture[-3:] if picture.shape[0] % 3 == 0 else picture[-1:].repeat(3, 0)
    if newest.dtype != np.uint8:
        newest = (np.nan_to_num(newest) * 255).clip(0, 255).round().astype(np.uint8)
    return np.ascontiguousarray(newest.transpose(1, 2, 0))
