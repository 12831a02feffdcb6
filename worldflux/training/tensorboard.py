"""TensorBoard's events.

Pictures go to a separate event file under ``pictures/`` so that scalars stay quick to load; videos
become animated GIFs. Every process that trains a run has event files of its own; a checkpoint knows
how long each was, and a run that goes on from it cuts them there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams

from worldflux.config.files import check_yaml
from worldflux.config.groups import is_machine
from worldflux.run_folder.disk import disk_errors
from worldflux.run_folder.metrics import read_metrics
from worldflux.run_folder.names import PICTURES, SAVED_OVERRIDES, TENSORBOARD
from worldflux.training.loggers import Destination, Listener
from worldflux.training.pictures import encode, video_frames

OF_SCALARS, OF_PICTURES = ".scalars", ".pictures"  # how the names of event files end
COMPARED = ("eval/return", "episode/return")


class TensorBoard(Listener):
    """Writes scalars and pictures of one run for TensorBoard. Scalars that an earlier process logged
    elsewhere only, or without a position, are written from metrics.jsonl."""

    def __init__(self, destination: Destination) -> None:
        self._to = destination
        resumed = destination.purge_from is not None
        known = isinstance(destination.position, dict)
        with disk_errors("metrics", destination.folder):
            if resumed:
                self._cut(destination.position if known else self._pictures_only())
            self._scalars = SummaryWriter(
                str(destination.folder),
                purge_step=destination.purge_from,
                filename_suffix=OF_SCALARS,
            )
        self._pictures: FileWriter | None = None
        if not (resumed and known):
            self._describe()
        if resumed and not known:
            for record in read_metrics(destination.folder):
                self.scalars(record)

    def _describe(self) -> None:
        """What the command line set, for the tab that compares the runs of a sweep."""
        if values := hyperparameters(self._to.folder / SAVED_OVERRIDES):
            for summary in hparams(values, dict.fromkeys(COMPARED, 0.0)):
                self._scalars._get_file_writer().add_summary(summary)

    def scalars(self, record: Mapping[str, Any]) -> None:
        x = self._to.x(record["step"], record["env_steps"])
        with disk_errors("metrics", self._to.folder):
            for name, value in record["metrics"].items():
                number = math.nan if value is None else value
                self._scalars.add_scalar(name, number, x, walltime=record.get("timestamp"))

    def pictures(self, pictures: Mapping[str, np.ndarray], *, step: int, env_steps: int) -> None:
        with disk_errors("pictures", self._to.folder):
            if self._pictures is None:
                self._pictures = self._picture_writer()
            for name, picture in pictures.items():
                frames = video_frames(picture)
                height, width = frames.shape[1:3]
                image = Summary.Image(
                    height=height, width=width, colorspace=3, encoded_image_string=encode(frames)
                )
                summary = Summary(value=[Summary.Value(tag=name, image=image)])
                self._pictures.add_summary(summary, self._to.x(step, env_steps))
            self._pictures.flush()

    def position(self) -> dict[str, int]:
        """The length in bytes of every event file of the run."""
        self._scalars.flush()  # pictures are flushed as they come
        return {name: path.stat().st_size for name, path in self._files()}

    def close(self) -> None:
        self._scalars.close()
        if self._pictures is not None:
            self._pictures.close()

    def _picture_writer(self) -> FileWriter:
        writer = FileWriter(str(self._to.folder / PICTURES), filename_suffix=OF_PICTURES)
        if self._to.purge_from is not None:
            # For a TensorBoard that runs already: it has read what was cut.
            start = SessionLog(status=SessionLog.START)
            writer.add_event(Event(step=self._to.purge_from, session_log=start))
        return writer

    def _files(self) -> Iterator[tuple[str, Path]]:
        """The event files of runs of ours, with their names in the run folder."""
        for pattern in (f"{TENSORBOARD}{OF_SCALARS}", f"{PICTURES}/{TENSORBOARD}{OF_PICTURES}"):
            for path in self._to.folder.glob(pattern):
                yield path.relative_to(self._to.folder).as_posix(), path

    def _pictures_only(self) -> dict[str, int]:
        return {
            name: path.stat().st_size
            for name, path in self._files()
            if path.parent.name == PICTURES
        }

    def _cut(self, lengths: Mapping[str, Any]) -> None:
        """Event files get the lengths that they have here; those that are not named go."""
        for name, path in self._files():
            length = lengths.get(name)
            if not isinstance(length, int):
                path.unlink()
            elif 0 <= length < path.stat().st_size:
                descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
                try:
                    os.ftruncate(descriptor, length)
                finally:
                    os.close(descriptor)


def hyperparameters(overrides: Path) -> dict[str, float | str]:
    """Key -> value of what Hydra saved of a command line, but for what concerns the machine; nothing
    where there is no such file."""
    if not overrides.is_file():
        return {}
    check_yaml(overrides)
    values: dict[str, float | str] = {}
    for word in yaml.safe_load(overrides.read_text(encoding="utf-8")) or ():
        key, _, text = str(word).lstrip("+").partition("=")
        if is_machine(key) or key in ("resume", "init_from"):
            continue
        try:
            values[key] = float(text)
        except ValueError:
            values[key] = text
    return values
