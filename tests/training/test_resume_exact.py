"""A run that is interrupted anywhere and resumed equals one that never was."""

import os
import signal

import pytest
import torch

from tests.training.test_trainer import At, make, pointer
from tests.training.tiny import TinyAgent, TinySource
from worldflux.errors import CheckpointError
from worldflux.run_folder.checkpoint import read_checkpoint
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.training import Callback

FIELDS = dict(total_steps=30, log_interval=4, eval_interval=6, save_interval=10)


class Killed(BaseException):
    """What no handler sees, like SIGKILL: the trainer must not get a chance to save."""


def content(folder):
    """All that must be equal: last checkpoint and records, without clock times."""
    last = read_checkpoint(folder / "checkpoints" / pointer(folder, "latest"))
    for key in ("elapsed", "started", "damaged_checkpoints"):
        last.state["trainer"].pop(key)
    for key in ("metrics_bytes", "metrics_sha256"):
        last.state.pop(key)
    metrics = [
        (r["step"], r["env_steps"], {k: v for k, v in r["metrics"].items() if "fps/" not in k})
        for r in read_metrics(folder)
    ]
    return last, metrics


def assert_equal(a, b, path=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_equal(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{path}/{index}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), path
    else:
        assert a == b, path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    make(folder, **FIELDS).train(TinySource())
    return content(folder)


def resume_to_the_end(folder):
    agent = TinyAgent(seed=5)  # nothing of a fresh agent may survive
    trainer = make(folder, agent, **FIELDS)
    trainer.train(TinySource(seed=9), resume_from=folder)
    return trainer


def assert_same(folder, whole):
    checkpoint, metrics = content(folder)
    assert_equal(checkpoint.agent, whole[0].agent)
    assert_equal(checkpoint.state, whole[0].state)
    assert metrics == whole[1]
    assert read_manifest(folder)["status"] == "completed"


@pytest.mark.parametrize("step", [1, 6, 7, 10, 19, 29])
def test_stopped_by_a_signal(tmp_path, whole, step):
    stop = At(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        make(tmp_path, callbacks=[stop], **FIELDS).train(TinySource())
    trainer = resume_to_the_end(tmp_path)
    assert trainer.state.global_step == 30
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("step", [11, 13, 20, 25])
def test_killed_between_checkpoints(tmp_path, whole, step):
    def die():
        raise Killed

    with pytest.raises(Killed):
        make(tmp_path, callbacks=[At(step, die)], **FIELDS).train(TinySource())
    resume_to_the_end(tmp_path)
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("call", range(1, 8))
def test_killed_inside_a_checkpoint(tmp_path, whole, monkeypatch, call):
    """Dies at the n-th fsync of the checkpoint of update 20."""
    fsync, count = os.fsync, 0

    def dying(descriptor):
        nonlocal count
        count += 1
        if count == call:
            raise Killed
        fsync(descriptor)

    trainer = make(tmp_path, **FIELDS)
    save = trainer.folder.store.save

    def watched(step, *args, **options):
        if step == 20:
            monkeypatch.setattr(os, "fsync", dying)
        return save(step, *args, **options)

    monkeypatch.setattr(trainer.folder.store, "save", watched)
    with pytest.raises(Killed):
        trainer.train(TinySource())
    monkeypatch.undo()
    resume_to_the_end(tmp_path)
    assert_same(tmp_path, whole)


def test_a_damaged_newest_checkpoint_costs_only_the_way_to_the_one_before(tmp_path, whole):
    stop = At(25, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        make(tmp_path, callbacks=[stop], **FIELDS).train(TinySource())
    (tmp_path / "checkpoints" / "step_000000025" / "optimizer.safetensors").write_bytes(b"torn")
    resume_to_the_end(tmp_path)
    assert_equal(content(tmp_path)[0].agent, whole[0].agent)
    manifest = read_manifest(tmp_path)
    assert manifest["damaged_checkpoints"] == ["step_000000025"]
    assert manifest["degraded_modes"] == ["damaged_checkpoint_skipped"]


def test_more_steps_than_before_continue_as_if_never_ended(tmp_path, whole):
    make(tmp_path, **{**FIELDS, "total_steps": 17}).train(TinySource())
    resume_to_the_end(tmp_path)
    assert_same(tmp_path, whole)


def test_resuming_a_finished_run_changes_nothing(tmp_path, whole):
    make(tmp_path, **FIELDS).train(TinySource())
    resume_to_the_end(tmp_path)
    assert_same(tmp_path, whole)


def test_an_evaluation_that_a_signal_cut_off_is_made_up_for(tmp_path, whole):
    trainer = make(tmp_path, **FIELDS)
    evaluator = trainer.evaluator

    def interrupted(agent, seed, should_stop):
        if trainer.state.global_step == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluator(agent, seed, should_stop)

    trainer.evaluator = interrupted
    with pytest.raises(SystemExit):
        trainer.train(TinySource())
    resume_to_the_end(tmp_path)
    assert_same(tmp_path, whole)


def test_a_trainer_goes_on_where_it_is(tmp_path, whole):
    trainer, source = make(tmp_path, **FIELDS), TinySource()
    trainer.train(source, num_steps=12)
    trainer.train(source, num_steps=30)
    model = read_checkpoint(tmp_path / "checkpoints" / pointer(tmp_path, "latest")).agent["model"]
    assert_equal(model, whole[0].agent["model"])
    assert not (tmp_path / "previous").exists()


def test_from_another_folder_the_old_run_stays_as_it_was(tmp_path, whole):
    make(tmp_path / "a", **{**FIELDS, "total_steps": 17}).train(TinySource())
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    trainer = make(tmp_path / "b", TinyAgent(3), **FIELDS)
    trainer.train(TinySource(), resume_from=tmp_path / "a" / "checkpoints" / "step_000000017")
    assert_equal(content(tmp_path / "b")[0].agent, whole[0].agent)
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == before


def test_save_and_load_checkpoint_by_hand(tmp_path):
    trainer, source = make(tmp_path / "a", **FIELDS), TinySource()
    trainer.train(source)
    trainer.save_checkpoint(tmp_path / "mine")
    other = make(tmp_path / "b", TinyAgent(7), **FIELDS)
    other.load_checkpoint(tmp_path / "mine")
    assert other.state.global_step == 30
    assert_equal(other.agent.state_dict(), trainer.agent.state_dict())


def test_what_cannot_be_resumed_is_told_in_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        make(tmp_path / "run").train(TinySource(), resume_from=tmp_path / "nowhere")
    make(tmp_path / "a", **{**FIELDS, "save_interval": 100}).train(TinySource())
    best = tmp_path / "a" / "checkpoints" / pointer(tmp_path / "a", "best")
    if not read_checkpoint(best).state["resumable"]:
        with pytest.raises(CheckpointError, match="saved without its replay"):
            make(tmp_path / "b").train(TinySource(), resume_from=best)

    class Other(TinyAgent):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Linear(3, 1)

    with pytest.raises(CheckpointError, match="does not fit this model"):
        make(tmp_path / "c", Other()).train(TinySource(), resume_from=tmp_path / "a")


def test_counters_are_there_before_training_begins(tmp_path):
    make(tmp_path, **{**FIELDS, "total_steps": 17}).train(TinySource())
    seen = []

    class Look(Callback):
        def on_train_begin(self, trainer):
            seen.append((trainer.state.global_step, trainer.state.env_steps))

    trainer = make(tmp_path, callbacks=[Look()], **FIELDS)
    trainer.train(TinySource(), resume_from=tmp_path)
    assert seen == [(17, 71)]
