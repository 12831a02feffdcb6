"""The run at Weights & Biases; with WANDB_MODE=offline in ``wandb/`` of its folder, for `wandb sync`."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Mapping
from typing import Any

import wandb
from PIL import Image

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
            return None
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


def _media(content: bytes) -> Any:
    file = io.BytesIO(content)
    image = Image.open(file)
    if image.format != "GIF":
        return wandb.Image(image)
    file.seek(0)
    return wandb.Video(file, format="gif")
