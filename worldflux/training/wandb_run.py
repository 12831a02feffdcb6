"""The run at Weights & Biases; with WANDB_MODE=offline in ``wandb/`` of its folder, for `wandb sync`."""

from __future__ import annotations

import io
import json
import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb
from google.protobuf.message import DecodeError
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from worldflux.errors import ConfigurationError
from worldflux.run_folder.links import check_links
from worldflux.run_folder.names import WANDB
from worldflux.training.tracker import Entry, Tracker

PROJECT = "worldflux"


class WandbRun(Tracker):
    """Steps there are the numbers of the records in metrics.jsonl; every curve is drawn over
    environment steps (updates in runs on recorded data)."""

    name = "wandb"
    errors = (wandb.errors.Error, OSError)

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        """ConfigurationError where nobody is logged in and the run is not offline."""
        if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
            return
        try:
            known = wandb.login(prompt=False)
        except cls.errors:
            known = False
        if not known:
            text = "is on and nobody is logged in: run `wandb login`, or set WANDB_MODE=offline"
            raise ConfigurationError(text, key="logger.wandb")

    def begin(self) -> int | None:
        check_links(self.to.folder, (WANDB,))
        resumed = self.id is not None
        self.id = self.id or secrets.token_hex(4)
        project = self.settings.get("wandb_project") or os.environ.get("WANDB_PROJECT") or PROJECT
        self._run = wandb.init(
            id=self.id,
            resume="allow",
            reinit="create_new",
            project=project,
            entity=self.settings.get("wandb_entity"),
            dir=str(self.to.folder),
            name=self.title,
            group=self.labels.get("group"),
            tags=list(self.labels.get("tags") or ()),
            notes=self.labels.get("notes"),
            settings=wandb.Settings(console="off", silent=True, save_code=False, disable_git=True),
        )
        self._run.config.update(dict(self.to.config), allow_val_change=True)
        self._run.define_metric(self.to.x_axis)
        self._run.define_metric("*", step_metric=self.to.x_axis)
        if self._run.offline and resumed:
            return offline_records(self.to.folder / WANDB, self.id)
        return int(self._run.step)

    def send(self, entries: list[Entry]) -> None:
        for entry in entries:
            record = entry.record
            data: dict[str, Any] = {**entry.metrics}
            data |= {name: _media(content) for name, content in entry.pictures.items()}
            data |= {"env_steps": record["env_steps"], "updates": record["step"]}
            step = max(entry.number, self._run.step)  # it takes no step twice
            self._run.log(data, step=step, commit=True)

    def end(self) -> None:
        self._run.finish()


def offline_records(folder: Path, run_id: str) -> int | None:
    """How many records of a run its offline files hold: when a process is killed, Weights & Biases'
    own, which writes them, loses the newest. None: there are none, as after `wandb sync --clean`."""
    counts = [0]
    files = list(folder.glob(f"offline-run-*-{run_id}*/run-{run_id}.wandb"))
    for path in files:
        with suppress(DecodeError, ValueError):  # damaged: it counts as far as it can be read
            for row in history(path):
                counts.append(1 + int(row.get("_step", -1)))
    return max(counts) if files else None


def history(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of an offline file, a LevelDB log of protobuf messages: a header of 7 bytes, then
    blocks of 32 KiB with chunks of checksum, length and kind (1 whole, 2 first, 3 middle, 4 last)."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole = (b"" if kind in (1, 2) else whole) + data[at + 7 : at + 7 + length]
        at += 7 + length
        if at > len(data):
            return  # cut off
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            if record.HasField("history"):
                items = record.history.item
                yield {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}


def _media(content: bytes) -> Any:
    file = io.BytesIO(content)
    image = Image.open(file)
    if image.format != "GIF":
        return wandb.Image(image)
    file.seek(0)
    return wandb.Video(file, format="gif")
