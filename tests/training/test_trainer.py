"""The loop, seen from outside: what it does when, what it leaves, and how it ends."""

import json
import logging
import os
import signal

import pytest
import torch

from tests.training.test_checkpoint import disk_that_fills_up
from tests.training.tiny import TinyAgent, TinySource, tiny_evaluator
from worldflux.errors import CheckpointError, ConfigurationError, TrainingError
from worldflux.run_folder.checkpoint import read_checkpoint
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.training import Callback, Trainer, TrainingConfig
from worldflux.training.callbacks import CheckpointCallback, EarlyStoppingCallback, LoggingCallback
from worldflux.training.evaluate import Evaluation


def make(
    folder, agent=None, callbacks=None, evaluator=tiny_evaluator, solved_return=None, **fields
) -> Trainer:
    values = dict(
        total_steps=40,
        batch_size=4,
        log_interval=5,
        eval_interval=10,
        save_interval=20,
        device="cpu",
        seed=1,
    )
    config = TrainingConfig(**{**values, **fields})
    return Trainer(
        agent or TinyAgent(),
        config,
        callbacks,
        run_dir=folder,
        evaluator=evaluator,
        solved_return=solved_return,
        loggers=(),
    )


class At(Callback):
    """Calls a function at one update."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, trainer):
        if trainer.state.global_step == self.step:
            self.action()


def records(folder, name):
    return [
        (record["step"], record["metrics"][name])
        for record in read_metrics(folder)
        if name in record["metrics"]
    ]


def pointer(folder, name):
    return (folder / "checkpoints" / name).read_text().split()[0]


def test_a_run_learns_logs_evaluates_and_saves_at_its_intervals(tmp_path):
    trainer = make(tmp_path)
    model = trainer.train(TinySource())
    assert model is trainer.agent.model and trainer.state.global_step == 40
    losses = records(tmp_path, "train/loss/total")
    assert [step for step, _ in losses] == list(range(5, 41, 5))
    assert losses[-1][1] < losses[0][1] / 2
    assert [step for step, _ in records(tmp_path, "eval/return")] == [10, 20, 30, 40]
    assert [step for step, _ in records(tmp_path, "counters/updates")] == list(range(5, 41, 5))
    folders = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert {"step_000000020", "step_000000040", "latest", "best"} <= folders
    assert pointer(tmp_path, "latest") == "step_000000040"
    names = set(read_metrics(tmp_path)[-2]["metrics"])
    assert {"fps/update", "fps/env", "counters/env_steps", "train/loss/reward"} <= names
    assert not torch.is_grad_enabled() or trainer.agent.optimizer.param_groups


def test_logged_losses_are_the_means_of_their_interval(tmp_path):
    seen = []

    class Losses(Callback):
        def on_step_end(self, trainer):
            seen.append(float(trainer.last))

    trainer = make(tmp_path, callbacks=[Losses()], total_steps=10)
    update = trainer.agent.update

    def spy(batch, carry):
        metrics, *others = update(batch, carry)
        trainer.last = metrics["loss/total"]
        return metrics, *others

    trainer.agent.update = spy
    trainer.train(TinySource())
    logged = [value for _, value in records(tmp_path, "train/loss/total")]
    assert logged == pytest.approx([sum(seen[:5]) / 5, sum(seen[5:]) / 5], rel=1e-6)
    assert trainer.state.best_loss == pytest.approx(min(seen))


def test_best_points_to_the_checkpoint_with_the_best_evaluation(tmp_path):
    scores = iter([1.0, 5.0, 2.0, 3.0])

    def evaluator(agent, seed, should_stop):
        result = tiny_evaluator(agent, seed, should_stop)
        result.returns = [next(scores)]
        return result

    trainer = make(tmp_path, evaluator=evaluator, save_interval=15)
    trainer.train(TinySource())
    assert pointer(tmp_path, "best") == "step_000000020"
    best = read_checkpoint(tmp_path / "checkpoints" / "step_000000020")
    assert best.state["trainer"]["last_score"] == 5.0 and best.state["resumable"] is False
    scores_told = read_manifest(tmp_path)["scores"]
    assert (scores_told["best"], scores_told["best_step"], scores_told["last"]) == (5.0, 20, 3.0)


def test_every_run_ends_with_an_evaluation_and_a_checkpoint(tmp_path):
    trainer = make(tmp_path, total_steps=13, eval_interval=0, save_interval=1000)
    trainer.train(TinySource())
    assert [step for step, _ in records(tmp_path, "eval/return")] == [13]
    assert pointer(tmp_path, "latest") == pointer(tmp_path, "best") == "step_000000013"
    assert records(tmp_path, "counters/updates")[-1] == (13, 13)


def test_env_steps_end_a_run_first(tmp_path):
    trainer = make(tmp_path, env_steps=60)
    trainer.train(TinySource())
    assert trainer.state.env_steps >= 60 and trainer.state.global_step == 14  # 20 + 3 for each


def test_fresh_entries_go_back_to_the_replay_behind_the_context(tmp_path):
    source = TinySource()
    make(tmp_path, total_steps=5).train(source)
    assert source.entries.max() > 0
    assert (source.entries[0] == 0).all()  # the first row is only ever context


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(tmp_path):
    models = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        model = make(tmp_path / name, seed=seed).train(TinySource())
        models.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])
    curves = [records(tmp_path / name, "eval/return") for name in "ab"]
    assert curves[0] == curves[1]


def test_evaluation_does_not_change_the_training(tmp_path):
    with_it = make(tmp_path / "a", eval_interval=5).train(TinySource())
    without = make(tmp_path / "b", evaluator=None).train(TinySource())
    for a, b in zip(with_it.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    agent = TinyAgent()
    agent.poison_at = 27
    with pytest.raises(TrainingError, match="loss/reward is not finite at update 27") as told:
        make(tmp_path, agent).train(TinySource())
    assert told.value.exit_code == 3
    assert pointer(tmp_path, "latest") == "step_000000020"
    saved = read_checkpoint(tmp_path / "checkpoints" / "step_000000020")
    assert all(torch.isfinite(tensor).all() for tensor in saved.agent["model"].values())
    manifest = read_manifest(tmp_path)
    assert manifest["status"] == "failed" and "loss/reward" in manifest["error"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_stop_signal_finishes_the_update_saves_and_ends_with_zero(tmp_path, number):
    before = signal.getsignal(number)
    stop = At(17, lambda: os.kill(os.getpid(), number))
    trainer = make(tmp_path, callbacks=[stop])
    with pytest.raises(SystemExit) as ended:
        trainer.train(TinySource())
    assert ended.value.code == 0
    assert signal.getsignal(number) is before
    assert trainer.state.global_step == 17 and pointer(tmp_path, "latest") == "step_000000017"
    assert read_manifest(tmp_path)["status"] == "stopped"
    assert records(tmp_path, "eval/return")[-1][0] == 10  # no evaluation is begun


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_saves_first_and_a_second_one_does_not_wait(tmp_path):
    interrupt = At(7, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "once", callbacks=[interrupt]).train(TinySource())
    assert pointer(tmp_path / "once", "latest") == "step_000000007"
    assert read_manifest(tmp_path / "once")["status"] == "stopped"

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "twice", callbacks=[At(7, twice)]).train(TinySource())
    assert not (tmp_path / "twice" / "checkpoints").exists()
    assert read_manifest(tmp_path / "twice")["status"] == "stopped"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def handled():
    """Sets how this process takes a signal, until the end of the test."""
    before = {}

    def handle(number, handler):
        before.setdefault(number, signal.signal(number, handler))

    yield handle
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_end_of_the_terminal_stops(tmp_path, handled):
    handled(signal.SIGHUP, signal.SIG_DFL)
    stop = At(7, lambda: signal.raise_signal(signal.SIGHUP))
    with pytest.raises(SystemExit):
        make(tmp_path, callbacks=[stop]).train(TinySource())
    assert pointer(tmp_path, "latest") == "step_000000007"


def test_in_the_background_sigterm_stops_and_the_terminal_does_not(tmp_path, handled):
    def terminal():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGHUP)

    handled(signal.SIGINT, signal.SIG_IGN)
    handled(signal.SIGHUP, signal.SIG_IGN)
    stop = At(9, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        make(tmp_path, callbacks=[At(7, terminal), stop]).train(TinySource())
    assert ended.value.code == 0
    assert pointer(tmp_path, "latest") == "step_000000009"
    assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_stop_during_evaluation_does_not_wait_for_its_end(tmp_path):
    def evaluator(agent, seed, should_stop):
        os.kill(os.getpid(), signal.SIGTERM)
        return tiny_evaluator(agent, seed, should_stop)

    with pytest.raises(SystemExit):
        make(tmp_path, evaluator=evaluator).train(TinySource())
    assert pointer(tmp_path, "latest") == "step_000000010"
    assert records(tmp_path, "eval/return") == []


def test_a_full_disk_is_one_line_and_the_last_good_checkpoint_stays(tmp_path):
    trainer = make(tmp_path, save_interval=10)
    source = TinySource()

    class Full(Callback):
        def on_step_end(self, trainer):
            if trainer.state.global_step == 18:
                self.disk = disk_that_fills_up(200)
                self.disk.__enter__()

        def on_train_end(self, trainer):
            self.disk.__exit__(None, None, None)

    trainer.add_callback(Full())
    with pytest.raises(CheckpointError, match="cannot write") as told:
        trainer.train(source)
    assert "\n" not in str(told.value)
    assert pointer(tmp_path, "latest") == "step_000000010"
    assert read_checkpoint(tmp_path / "checkpoints" / "step_000000010").state["step"] == 10


def test_hooks_come_in_order(tmp_path):
    calls = []

    class Spy(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                return lambda trainer: calls.append((name[3:], trainer.state.global_step))
            return super().__getattribute__(name)

    make(tmp_path, callbacks=[Spy()], total_steps=2).train(TinySource())
    assert calls == [
        ("train_begin", 0),
        ("epoch_begin", 0),
        ("step_begin", 0),
        ("step_end", 1),
        ("step_begin", 1),
        ("step_end", 2),
        ("epoch_end", 2),
        ("train_end", 2),
    ]


def test_early_stopping_ends_a_run_that_no_longer_improves(tmp_path):
    stop = EarlyStoppingCallback(patience=10, min_delta=1e9)
    trainer = make(tmp_path, callbacks=[stop])
    trainer.train(TinySource())
    assert trainer.state.global_step == 15  # best at the first log, 5, then 10 without progress
    assert read_manifest(tmp_path)["status"] == "completed"
    with pytest.raises(ConfigurationError, match=r"no metric 'nope' \(logged: .*train/loss/total"):
        make(tmp_path / "b", callbacks=[EarlyStoppingCallback(monitor="nope")]).train(TinySource())


def test_checkpoint_and_logging_callbacks_keep_their_own_intervals(tmp_path, caplog):
    saves = CheckpointCallback(6, str(tmp_path / "own"), max_checkpoints=2)
    with caplog.at_level(logging.INFO):
        trainer = make(tmp_path / "run", callbacks=[saves, LoggingCallback(16)])
        trainer.train(TinySource())
    names = sorted(path.name for path in (tmp_path / "own" / "checkpoints").glob("step_*"))
    assert names[-2:] == ["step_000000030", "step_000000036"]
    assert "step 16: " in caplog.text and "step 32: " in caplog.text
    for build in (lambda: CheckpointCallback(0), lambda: LoggingCallback(-1)):
        with pytest.raises(ConfigurationError, match="interval: expected at least 1"):
            build()


def test_the_manifest_is_valid_json_from_the_first_moment(tmp_path):
    seen = []

    def look():
        text = (tmp_path / "run_manifest.json").read_text()
        seen.append(json.loads(text, parse_constant=pytest.fail))

    trainer = make(tmp_path, callbacks=[At(1, look), At(21, look)])
    trainer.train(TinySource())
    first, later, end = seen[0], seen[1], read_manifest(tmp_path)
    assert first["status"] == later["status"] == "running" and end["status"] == "completed"
    assert (first["global_step"], later["global_step"], end["global_step"]) == (0, 20, 40)
    assert first["best_loss"] is None and end["best_loss"] > 0
    assert first["run_classification"] == "contract_smoke"
    assert end["run_classification"] == "meaningful_local_training"
    assert end["data_mode"] == "online" and end["degraded_modes"] == []
    assert end["schema_version"] == "worldflux.training.run_manifest.v1"
    assert end["parameters"] == 3 * 8 + 8 + 8 + 1
    assert end["training_config"]["total_steps"] == 40 and end["device"] == "cpu"
    profile = end["runtime_profile"]
    assert profile["elapsed_sec"] >= profile["ttfi_sec"] > 0
    assert profile == {
        **profile,
        "throughput_steps_per_sec": pytest.approx(profile["throughput_steps_per_sec"]),
    }
    assert end["train_end_time"] >= end["train_start_time"]
    text = (tmp_path / "run_manifest.json").read_text()
    assert text == json.dumps(end, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize(
    ("mode", "degraded", "expected"),
    [
        ("online", [], "meaningful_local_training"),
        ("online", ["env_collection_unavailable"], "contract_smoke"),
        ("random", [], "contract_smoke"),
    ],
)
def test_a_run_is_classified_by_its_data(tmp_path, mode, degraded, expected):
    source = TinySource()
    source.data_mode, source.degraded_modes = mode, degraded
    make(tmp_path, total_steps=3).train(source)
    manifest = read_manifest(tmp_path)
    assert manifest["run_classification"] == expected
    assert (manifest["data_mode"], manifest["degraded_modes"]) == (mode, degraded)


def test_a_second_run_in_the_same_folder_moves_the_first_one_aside(tmp_path, caplog):
    make(tmp_path).train(TinySource())
    make(tmp_path, total_steps=5).train(TinySource())
    assert [path.name for path in (tmp_path / "checkpoints").glob("step_*")] == ["step_000000005"]
    (old,) = (tmp_path / "previous").iterdir()
    assert read_manifest(old)["global_step"] == 40
    assert len(records(old, "eval/return")) == 4 and len(records(tmp_path, "eval/return")) == 1
    assert "held a run already" in caplog.text


def test_fields_that_do_not_act_are_refused():
    for fields in ({"ema_decay": 0.99}, {"model_overrides": {"hidden_dim": 3}}):
        with pytest.raises(ConfigurationError, match=next(iter(fields))):
            Trainer(TinyAgent(), TrainingConfig(device="cpu", **fields))
    with pytest.raises(ConfigurationError, match="optimizer"):
        Trainer(TinyAgent(), TrainingConfig(device="cpu"), optimizer=object())
    with pytest.raises(ConfigurationError, match="expected a world model or an agent, got dict"):
        Trainer({}, TrainingConfig(device="cpu"))


def test_a_solved_task_ends_training_and_is_judged_by_fresh_episodes(tmp_path):
    seeds, scores = [], iter([3.0, 8.0, 6.5])

    def evaluator(agent, seed, should_stop):
        seeds.append(seed)
        return Evaluation([next(scores)] * 2, [5, 5])

    trainer = make(tmp_path, evaluator=evaluator, solved_return=7.0)
    trainer.train(TinySource())
    assert trainer.state.global_step == 20  # the second evaluation, of 40 updates
    assert len(seeds) == len(set(seeds)) == 3
    assert trainer.state.last_score == 6.5
    assert read_manifest(tmp_path)["status"] == "completed"

    again = make(tmp_path, evaluator=evaluator, solved_return=7.0)
    again.train(TinySource(), resume_from=tmp_path)
    assert again.state.global_step == 20 and len(seeds) == 3

    further = make(tmp_path)
    further.train(TinySource(), resume_from=tmp_path)
    assert further.state.global_step == 40


def test_an_environment_that_switches_gradients_off_changes_nothing(tmp_path):
    trained = []
    for switch in (lambda: None, lambda: torch.set_grad_enabled(False)):
        trainer = make(tmp_path / str(len(trained)), callbacks=[At(3, switch)], total_steps=6)
        try:
            trained.append(trainer.train(TinySource()).state_dict())
        finally:
            torch.set_grad_enabled(True)
    assert all(torch.equal(trained[0][key], trained[1][key]) for key in trained[0])
