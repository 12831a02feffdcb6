"""Weights & Biases and MLflow, by their own libraries and without a network."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldflux.errors import ConfigurationError, MissingDependencyError
from worldflux.run_folder.manifest import plain
from worldflux.training.logger import MetricLogger
from worldflux.training.loggers import Destination, check_loggers

LABELS = {"name": "first try", "group": "sweep7", "tags": ["a", "b"], "notes": "why"}
CONFIG = {"run": LABELS, "logger": {"wandb_project": "p"}, "training": {"seed": 3}}
STILL = np.full((4, 6, 3), 9, np.uint8)
VIDEO = np.random.default_rng(0).integers(0, 255, (3, 4, 6, 3), np.uint8)


def fresh(folder: Path, name: str) -> MetricLogger:
    return MetricLogger(Destination(folder, config=CONFIG), [name])


def resumed(
    folder: Path, name: str, position: dict[str, Any], x: int, trusted: bool = True
) -> MetricLogger:
    return MetricLogger(
        Destination(folder, purge_from=x + 1, trusted=trusted, config=CONFIG),
        [name],
        resume_at=position["metrics_bytes"],
        positions=json.loads(json.dumps(plain(position["loggers"]))),
    )


def log(logger: MetricLogger, *steps: int) -> None:
    for step in steps:
        logger.scalars({"a": step, "bad": float("nan")}, step=step, env_steps=10 * step)


def killed_and_resumed(folder: Path, name: str) -> None:
    """Records 1 and 2 with pictures, a checkpoint, 3, killed; resumed, 4, a checkpoint, 5 and the end."""
    logger = fresh(folder, name)
    log(logger, 1, 2)
    logger.pictures({"report/still": STILL, "report/video": VIDEO}, step=2, env_steps=20)
    position = logger.position()
    logger.saved()
    log(logger, 3)
    (tracker,) = logger.listeners
    tracker.end()  # type: ignore[attr-defined]  # killed: what waits is not sent
    logger._file.close()
    logger = resumed(folder, name, position, 20)
    log(logger, 4)
    logger.position()
    logger.saved()
    log(logger, 5)
    logger.close()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="pip install 'worldflux[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def of_wandb(folder: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """Id and history of every offline part of a run, in their order."""
    import wandb

    from worldflux.training.wandb_run import history

    wandb.teardown()  # its process writes to the end
    paths = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.parent.name)
    return [(path.stem.removeprefix("run-"), list(history(path))) for path in paths]


@pytest.mark.usefixtures("offline")
def test_wandb_goes_on_with_its_run_and_repeats_nothing(tmp_path: Path) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), signal.getsignal(signal.SIGTERM)
    killed_and_resumed(tmp_path, "wandb")
    after = random.getstate(), np.random.get_state()[1].tolist(), signal.getsignal(signal.SIGTERM)
    assert after == states
    (first_id, first), (second_id, second) = of_wandb(tmp_path)
    assert first_id == second_id
    rows = [*first, *second]
    assert [row["a"] for row in rows] == [1, 2, 4, 5]
    assert [row["env_steps"] for row in rows] == [10, 20, 40, 50]
    assert [row["_step"] for row in rows] == [0, 1, 2, 3]
    assert rows[1]["report/video/path"].endswith(".gif")
    assert rows[1]["report/still/path"].endswith(".png")


@pytest.mark.usefixtures("offline")
def test_wandb_has_the_configuration_and_the_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    begun: list[Any] = []
    init = wandb.init
    monkeypatch.setattr("wandb.init", lambda **how: begun.append(init(**how)) or begun[-1])
    fresh(tmp_path, "wandb").close()
    (run,) = begun
    assert (run.project, run.name, run.group) == ("p", "first try", "sweep7")
    assert (run.tags, run.notes) == (("a", "b"), "why")
    assert run.config["training"] == {"seed": 3}


@pytest.mark.usefixtures("offline")
def test_wandb_gets_again_what_its_own_process_lost(tmp_path: Path) -> None:
    logger = fresh(tmp_path, "wandb")
    log(logger, 1, 2)
    position = logger.position()
    logger.saved()
    logger.close()
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    while len(of_wandb(tmp_path)[0][1]) == 2:
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size - 50)
    resumed(tmp_path, "wandb", position, 20).close()
    rows = [[(row["_step"], row["a"]) for row in part] for _, part in of_wandb(tmp_path)]
    assert rows == [[(0, 1)], [(1, 2)]]


@pytest.mark.usefixtures("offline")
def test_a_run_of_somebody_else_is_a_new_one_at_wandb(tmp_path: Path) -> None:
    logger = fresh(tmp_path, "wandb")
    log(logger, 1)
    position = logger.position()
    logger.saved()
    logger.close()
    logger = resumed(tmp_path, "wandb", position, 10, trusted=False)
    logger.close()
    (first, _), (second, rows) = of_wandb(tmp_path)
    assert first != second
    assert [row["a"] for row in rows] == [1], "with the whole run so far"


@pytest.mark.usefixtures("offline")
def test_wandb_wants_a_login_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    check_loggers(["wandb"], {})
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr("wandb.login", lambda **_: False)
    with pytest.raises(ConfigurationError, match="nobody is logged in: run `wandb login`"):
        check_loggers(["wandb"], {})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client of a folder that runs are sent to."""
    mlflow = pytest.importorskip("mlflow", reason="pip install 'worldflux[mlflow]'")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "ml runs"
    monkeypatch.setitem(CONFIG, "logger", {"mlflow_uri": str(folder), "mlflow_experiment": "e"})
    return mlflow.MlflowClient(tracking_uri=folder.as_uri())


def of_mlflow(store: Any) -> list[Any]:
    experiment = store.get_experiment_by_name("e")
    return store.search_runs([experiment.experiment_id], order_by=["start_time ASC"])


def history(store: Any, run: Any) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in store.get_metric_history(run.info.run_id, "a")]


def test_mlflow_goes_on_with_its_run_and_repeats_nothing(store: Any, tmp_path: Path) -> None:
    killed_and_resumed(tmp_path / "run", "mlflow")
    (run,) = of_mlflow(store)
    assert history(store, run) == [(10, 1), (20, 2), (40, 4), (50, 5)]
    assert (run.info.run_name, run.info.status) == ("first try", "FINISHED")
    tags = run.data.tags
    assert (tags["group"], tags["a"], tags["mlflow.note.content"]) == ("sweep7", "true", "why")
    assert run.data.params["training.seed"] == "3"
    files = {item.path for item in store.list_artifacts(run.info.run_id)}
    assert files == {"config.json", "report"}
    pictures = [item.path for item in store.list_artifacts(run.info.run_id, "report/video")]
    assert pictures == ["report/video/000000020.gif"]


def test_mlflow_gets_what_a_kill_kept_from_it(
    store: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = fresh(tmp_path / "run", "mlflow")
    log(logger, 1)
    first = logger.position()
    logger.saved()
    log(logger, 2)
    second = logger.position()  # killed when the checkpoint was complete, before `saved`
    (tracker,) = logger.listeners
    tracker.end()  # type: ignore[attr-defined]
    logger._file.close()
    logger = resumed(tmp_path / "run", "mlflow", second, 20)
    log(logger, 3)
    logger.close()
    (run,) = of_mlflow(store)
    assert history(store, run) == [(10, 1), (20, 2), (30, 3)]
    # What an orderly end has sent cannot be taken back, and a line says so.
    logger = resumed(tmp_path / "run", "mlflow", first, 10)
    assert "mlflow has 2 records from after the checkpoint" in caplog.text
    log(logger, 7)
    logger.close()
    assert history(store, run)[-1] == (70, 7)
    logger = resumed(tmp_path / "run", "mlflow", first, 10, trusted=False)
    logger.close()
    assert [history(store, run) for run in of_mlflow(store)][1] == [(10, 1)]


@pytest.mark.usefixtures("store")
def test_a_server_that_does_not_answer_is_named_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings = {"mlflow_uri": "http://me:secret@127.0.0.1:9"}
    with pytest.raises(ConfigurationError, match=r"MLflow at 127\.0\.0\.1 does not answer$"):
        check_loggers(["mlflow"], settings)
    check_loggers(["mlflow"], CONFIG["logger"])


def test_a_tracker_that_cannot_be_reached_ends_no_training(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = fresh(tmp_path / "run", "mlflow")
    log(logger, 1)

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    with monkeypatch.context() as cut:
        cut.setattr("mlflow.MlflowClient.log_batch", refuse)
        logger.saved()
    assert "mlflow cannot be reached" in caplog.text and "no route" in caplog.text
    assert logger.degraded_modes == ["tracker_unavailable"]
    log(logger, 2)
    logger.close()
    (run,) = of_mlflow(store)
    assert history(store, run) == [(10, 1), (20, 2)]


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'worldflux\[wandb\]'"):
        check_loggers(["wandb"], {})
    check_loggers(["tensorboard", "csv"], {})
