"""TensorBoard's events.

Pictures go to a separate event file under ``pictures/`` so that scalars stay quick to load; videos
become animated GIFs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch.utils.tensorboard import FileWriter, SummaryWriter

from worldflux.run_folder.disk import disk_errors
from worldflux.run_folder.names import PICTURES
from worldflux.training.loggers import Destination, Listener
from worldflux.training.pictures import encode, video_frames


class TensorBoard(Listener):
    """Writes scalars and pictures of one run for TensorBoard, which hides older events from
    `purge_from` on."""

    def __init__(self, destination: Destination) -> None:
        self._to = destination
        self._scalars = SummaryWriter(
            str(destination.folder), purge_step=destination.purge_from, filename_suffix=".scalars"
        )
        self._pictures: FileWriter | None = None

    def scalars(self, record: Mapping[str, Any]) -> None:
        x = self._to.x(record["step"], record["env_steps"])
        with disk_errors("metrics", self._to.folder):
            for name, value in record["metrics"].items():
                self._scalars.add_scalar(name, math.nan if value is None else value, x)

    def pictures(self, pictures: Mapping[str, np.ndarray], *, step: int, env_steps: int) -> None:
        with disk_errors("pictures", self._to.folder):
            if self._pictures is None:
                folder = str(self._to.folder / PICTURES)
                self._pictures = FileWriter(folder, filename_suffix=".pictures")
            for name, picture in pictures.items():
                frames = video_frames(picture)
                height, width = frames.shape[1:3]
                image = Summary.Image(
                    height=height, width=width, colorspace=3, encoded_image_string=encode(frames)
                )
                summary = Summary(value=[Summary.Value(tag=name, image=image)])
                self._pictures.add_summary(summary, self._to.x(step, env_steps))
            self._pictures.flush()

    def flush(self) -> None:
        self._scalars.flush()

    def close(self) -> None:
        self._scalars.close()
        if self._pictures is not None:
            self._pictures.close()
