"""The run at MLflow: a tracking server, or a folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from worldflux.errors import ConfigurationError
from worldflux.training.tracker import Entry, Tracker

EXPERIMENT, FOLDER = "worldflux", "mlruns"
RECORDS = "worldflux.records"  # a tag: how many records of metrics.jsonl MLflow has
# Limits of MLflow for one call, and for a value.
METRICS, PARAMS, LETTERS = 1_000, 100, 500


class MlflowRun(Tracker):
    """Steps there are environment steps (updates in runs on recorded data). The configuration is its
    parameters, and whole in the artifact ``config.json``; pictures are artifacts."""

    name = "mlflow"
    errors = (MlflowException, OSError)

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        """ConfigurationError where its server does not answer."""
        uri = settings.get("mlflow_uri") or os.environ.get("MLFLOW_TRACKING_URI") or ""
        if not uri.startswith(("http:", "https:")):
            return
        try:
            client_of(uri).search_experiments(max_results=1)
        except cls.errors as error:
            # Neither the address nor MLflow's text: a password may stand in them.
            text = f"is on and MLflow at {urlsplit(uri).hostname} does not answer"
            raise ConfigurationError(text, key="logger.mlflow") from error

    def begin(self) -> int | None:
        settings, labels = self.settings, self.labels
        uri = settings.get("mlflow_uri") or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            outputs = (self.to.config.get("training") or {}).get("output_dir") or "."
            uri = str(Path(outputs, FOLDER))
        self._client = client = client_of(uri)
        if self.id is not None:
            client.update_run(self.id, status="RUNNING")
            return int(client.get_run(self.id).data.tags.get(RECORDS, 0))
        name = settings.get("mlflow_experiment") or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        experiment = client.get_experiment_by_name(name or EXPERIMENT)
        number = experiment.experiment_id if experiment else None
        tags = {tag: "true" for tag in labels.get("tags") or ()}
        tags |= {"group": labels["group"]} if labels.get("group") else {}
        tags |= {"mlflow.note.content": labels["notes"]} if labels.get("notes") else {}
        run = client.create_run(
            number or client.create_experiment(name or EXPERIMENT), tags=tags, run_name=self.title
        )
        self.id = run.info.run_id
        client.log_dict(self.id, dict(self.to.config), "config.json")
        params = [Param(key, str(value)[:LETTERS]) for key, value in _leaves("", self.to.config)]
        for at in range(0, len(params), PARAMS):
            client.log_batch(self.id, params=params[at : at + PARAMS])
        return 0

    def send(self, entries: list[Entry]) -> None:
        assert self.id is not None
        metrics: list[Metric] = []
        for entry in entries:
            record = entry.record
            x = self.to.x(record["step"], record["env_steps"])
            milliseconds = int(1000 * record.get("timestamp", 0))
            metrics += [Metric(key, value, milliseconds, x) for key, value in entry.metrics.items()]
        for at in range(0, len(metrics), METRICS):
            self._client.log_batch(self.id, metrics=metrics[at : at + METRICS])
        for entry in entries:
            x = self.to.x(entry.record["step"], entry.record["env_steps"])
            for name, content in entry.pictures.items():
                self._send_picture(name, x, content)
        self._client.set_tag(self.id, RECORDS, str(entries[-1].number + 1))

    def _send_picture(self, name: str, x: int, content: bytes) -> None:
        ending = "gif" if content.startswith(b"GIF") else "png"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{x:09d}.{ending}")
            path.write_bytes(content)
            self._client.log_artifact(str(self.id), str(path), name)

    def end(self) -> None:
        self._client.set_terminated(str(self.id))


def client_of(uri: str) -> MlflowClient:
    """The client of a server, a database or a folder."""
    # A training waits for it: not four minutes, as by default.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    if "://" not in uri and not uri.startswith("databricks"):
        uri = Path(uri.removeprefix("file:")).resolve().as_uri()
    if uri.startswith("file:"):  # MLflow 3 writes to a folder only where that is said
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return MlflowClient(tracking_uri=uri)


def _leaves(prefix: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value
