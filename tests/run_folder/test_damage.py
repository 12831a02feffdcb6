"""Files of a wrong kind, damaged, too deep or too large: one line that names file and key."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import TinyAgent, TinySource
from worldflux.config.base import read_json, read_yaml
from worldflux.config.files import parsed, read_text
from worldflux.config.training import TrainingConfig
from worldflux.data.replay_files import check_index, index_checksum
from worldflux.errors import BufferError, CheckpointError, ConfigurationError
from worldflux.run_folder.checkpoint import CheckpointStore
from worldflux.run_folder.checkpoints import CheckpointFolder, read_state
from worldflux.run_folder.disk import read_sealed, seal
from worldflux.run_folder.manifest import (
    SCHEMA,
    is_as_written,
    manifest_or_copy,
    read_manifest,
    warn_once,
    write_manifest,
)
from worldflux.run_folder.metrics import has_damage, read_metrics
from worldflux.run_folder.trust import is_signed
from worldflux.training.trainer import Trainer

LINE = '{"step": 1, "env_steps": 2, "metrics": {"a": 1.0}}\n'


FACTS = {
    "config": {"env": {"id": "X-v0", "time_limit": 25}, "data": {"rate": 0.1}},
    "model_config": {"model_type": "dreamer"},
}


def train(folder: Path, steps: int, resume: bool = False, facts: Any = None) -> Trainer:
    config = TrainingConfig(total_steps=steps, save_interval=2, log_interval=1, device="cpu")
    trainer = Trainer(TinyAgent(), config, run_dir=folder, loggers=(), facts=facts)
    trainer.train(TinySource(), resume_from=folder if resume else None)
    return trainer


def reseal(path: Path, key: str, value: Any) -> None:
    document = read_sealed(path)
    *groups, name = key.split(".")
    inner = document
    for group in groups:
        inner = inner[group]
    inner[name] = value
    path.write_text(seal(document))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", 3),
        ("config", []),
        ("scores", "none"),
        ("global_step", "16"),
        ("global_step", True),
        ("degraded_modes", {}),
        ("env", {"id": 4}),
    ],
)
def test_a_manifest_key_of_a_wrong_kind_is_named(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "run_manifest.json"
    path.write_text(json.dumps({"schema_version": SCHEMA, key: value}))
    with pytest.raises(CheckpointError, match=rf"run_manifest.json: {key}[.a-z]* must be"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content", [b"\xff", b"[" * 100_000, b"[" * 100 + b"]" * 100, b"{", b'"', b"\0" * 9]
)
def test_what_is_no_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    for name in ("run_manifest.json", "config.json"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"run_manifest\.json"):
        read_manifest(tmp_path)
    with pytest.raises(ConfigurationError, match=r"config\.json is not valid"):
        read_json(tmp_path / "config.json")


def test_sizes_pipes_and_aliases_are_limited(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_text(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_text(Path("/dev/zero"))
    (tmp_path / "long").write_text("x" * 11)
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        read_text(tmp_path / "long", 10)
    assert parsed("[" * 60 + "]" * 60)
    rows = ["a0: &a0 [x, x]"]
    rows += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (tmp_path / "laugh.yaml").write_text("\n".join(rows))
    with pytest.raises(ConfigurationError, match="more than 16 aliases"):
        read_yaml(tmp_path / "laugh.yaml")


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b'{"a": 1}\n',
        b"\xff\xfe\n",
        b"[1]\n",
        b"[" * 9999 + b"\n",
        b"x" * 2**21 + b"\n",
    ],
)
def test_a_damaged_metrics_line_costs_that_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(LINE.encode() + line + LINE.encode() + b'{"step"')
    assert read_metrics(tmp_path) == [json.loads(LINE)] * 2
    assert has_damage(tmp_path)
    path.write_bytes(LINE.encode() + b'{"step"')
    assert not has_damage(tmp_path)


@pytest.mark.parametrize("damaged", ["line", "gone", "zeros", "digit"])
def test_a_resume_names_what_the_curve_lost(tmp_path: Path, damaged: str) -> None:
    train(tmp_path, 4)
    path = tmp_path / "metrics.jsonl"
    if damaged == "line":
        path.write_bytes(b"garbage\n" + path.read_bytes())
    elif damaged == "zeros":
        path.write_bytes(bytes(path.stat().st_size))
    elif damaged == "digit":
        path.write_text(path.read_text().replace('"step": 1', '"step": 3', 1))
    else:
        path.unlink()
    trainer = train(tmp_path, 6, resume=True)
    assert "damaged_metrics" in trainer.all_degraded_modes()
    assert read_metrics(tmp_path)[-1]["step"] == 6


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("state", []),
        ("files", {"../../x": {}}),
        ("groups", 1),
        ("state.trainer", {"global_step": "4"}),
        ("state.trainer.recent_returns", 3),
        ("state.rng", {}),
        ("state.rng.numpy.position", "x"),
        ("state.source", {}),
        ("state.meter", None),
    ],
)
def test_any_damage_of_a_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, key: str, value: Any
) -> None:
    train(tmp_path, 4)
    newest = CheckpointFolder(tmp_path / "checkpoints").folders()[-1]
    reseal(newest / "state.json", key, value)
    trainer = train(tmp_path, 6, resume=True)
    assert trainer.state.global_step == 6
    assert trainer.state.damaged_checkpoints == [newest.name]


def test_the_best_checkpoint_is_found_without_its_pointer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, 4)
    store = CheckpointFolder(tmp_path / "checkpoints")
    first, newest = store.folders()
    reseal(newest / "state.json", "state.trainer.best_step", 2)
    for damage in (lambda path: path.write_text("x"), lambda path: path.unlink(missing_ok=True)):
        damage(store.folder / "best")
        caplog.clear()
        assert store.best() == first
        assert "best names no checkpoint" in caplog.text
    (first / "model.safetensors").write_bytes(b"")
    trainer = train(tmp_path, 6, resume=True)
    assert "damaged_best_checkpoint" in trainer.all_degraded_modes()


def test_a_pointer_to_another_checkpoint_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, 4)
    store = CheckpointStore(tmp_path / "checkpoints")
    first, newest = store.folders()
    reseal(newest / "state.json", "state.trainer.best_step", 2)
    store.mark_best(2)
    pointer = store.folder / "best"
    written = pointer.read_text()
    latest = (store.folder / "latest").read_text()
    swapped = written.replace(first.name, newest.name)
    for text in (latest, swapped, f"{newest.name}\n", f"{newest.name}\nbest {'0' * 64}\n"):
        pointer.write_text(text)
        caplog.clear()
        assert store.best() == first
        assert "the best is step_000000002" in caplog.text
    caplog.clear()
    for text in (written, f"{first.name}\n"):  # the second as older versions wrote it
        pointer.write_text(text)
        assert store.best() == first
    assert not caplog.text


def test_a_checkpoint_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    train(tmp_path, 4)
    first, newest = CheckpointFolder(tmp_path / "checkpoints").folders()
    shutil.rmtree(newest)
    shutil.copytree(first, newest)
    with pytest.raises(CheckpointError, match="it is that of step_000000002"):
        read_state(newest)


def test_a_damaged_pointer_and_manifest_are_no_end(tmp_path: Path) -> None:
    train(tmp_path, 4)
    (tmp_path / "checkpoints/best").write_bytes(b"\xff")
    (tmp_path / "run_manifest.json").write_bytes(b"\xff")
    assert CheckpointFolder(tmp_path / "checkpoints").best() is None
    train(tmp_path, 6, resume=True)
    assert read_manifest(tmp_path)["global_step"] == 6
    (tmp_path / "checkpoints/best").write_text("../..")
    assert CheckpointFolder(tmp_path / "checkpoints").best() is None


def test_an_index_of_another_save_is_refused(tmp_path: Path) -> None:
    for tag in ("000001", "000002"):
        (tmp_path / f"replay-{tag}.json").write_text(seal({"tag": tag}))
    checksum = index_checksum(tmp_path, "000002")
    check_index(tmp_path, "000002", checksum)
    check_index(tmp_path, "000002", None)
    (tmp_path / "replay-000002.json").write_bytes((tmp_path / "replay-000001.json").read_bytes())
    with pytest.raises(BufferError, match="index of another save"):
        check_index(tmp_path, "000002", checksum)


def test_an_old_pickle_is_one_line(tmp_path: Path) -> None:
    import pickle

    from worldflux import create_world_model

    model = create_world_model("tdmpc2:ci", obs_shape=(3,), action_dim=1)
    (tmp_path / "model.pt").write_bytes(pickle.dumps(os.getcwd))
    with pytest.raises(CheckpointError, match=r"model\.pt holds no weights alone"):
        model.load_weights(tmp_path)
    torch.save([1], tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="no weights by name"):
        model.load_weights(tmp_path)


def test_a_model_that_no_memory_holds_is_one_line(tmp_path: Path) -> None:
    from worldflux import create_world_model

    model = create_world_model("tdmpc2:ci", obs_shape=(3,), action_dim=1)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    width = 2**20  # terabytes
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_dim": width}))
    with pytest.raises(ConfigurationError, match="needs more memory than this machine has"):
        type(model).from_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="needs more memory"):
        create_world_model("tdmpc2:ci", obs_shape=(3,), action_dim=1, hidden_dim=width)


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    from worldflux.project.schema import load_config

    train(tmp_path, 4)
    newest = CheckpointFolder(tmp_path / "checkpoints").folders()[-1]
    os.truncate(newest / "model.safetensors", 2**42)  # takes no room on the disk
    trainer = train(tmp_path, 6, resume=True)
    assert trainer.state.damaged_checkpoints == [newest.name]
    os.mkfifo(tmp_path / "worldflux.toml")
    with pytest.raises(ConfigurationError, match="not a regular file"):
        load_config(tmp_path / "worldflux.toml")


def test_a_bool_is_no_number(tmp_path: Path) -> None:
    from worldflux.config.composition import composed

    for word in ("logger.tensorboard=2", "env.flatten=-1", "training.mixed_precision=0.5"):
        with pytest.raises(ConfigurationError, match="must be true or false"):
            composed([word])
    assert composed(["env.flatten=TRUE"]).env.flatten is True


def test_a_manifest_that_was_changed_by_hand_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, 2, facts=FACTS)
    assert is_as_written(read_manifest(tmp_path)) and not caplog.records
    path = tmp_path / "run_manifest.json"
    path.write_text(path.read_text().replace('"time_limit": 25', '"time_limit": 5'))
    warn_once.cache_clear()
    changed = read_manifest(tmp_path)
    assert "was changed after the run wrote it: env.time_limit is 5, was 25" in caplog.text
    write_manifest(tmp_path, changed)  # as a sweep does that notes how a job ended
    assert not is_as_written(read_manifest(tmp_path))


@pytest.mark.parametrize("damage", [None, b"", b"{}", b"\xff"])
def test_a_checkpoint_stands_in_for_the_manifest(tmp_path: Path, damage: bytes | None) -> None:
    train(tmp_path, 2, facts=FACTS)
    path = tmp_path / "run_manifest.json"
    path.unlink() if damage is None else path.write_bytes(damage)
    manifest = manifest_or_copy(tmp_path)
    assert {key: manifest[key] for key in FACTS} == FACTS
    assert is_signed(manifest), "it is still this user's run"
    reseal(tmp_path / "checkpoints/step_000000002/state.json", "state.recorded.config.env.id", "Y")
    assert not is_signed(manifest_or_copy(tmp_path))
    reseal(
        tmp_path / "checkpoints/step_000000002/state.json", "state.recorded.config.env.id", "${a}"
    )
    with pytest.raises(CheckpointError, match=r"run_manifest\.json"):
        manifest_or_copy(tmp_path)
