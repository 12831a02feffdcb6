"""The training loop: collect, sample, update, write back, log, evaluate, save."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldflux.config.training import TrainingConfig
from worldflux.core.agent import Agent, Carry
from worldflux.core.ranks import ALONE, Ranks
from worldflux.data.sources import Source
from worldflux.errors import CheckpointError, ConfigurationError, DiskError
from worldflux.run_folder.checkpoint import Checkpoint, write_checkpoint
from worldflux.run_folder.manifest import environment_facts, run_manifest
from worldflux.run_folder.state import claim
from worldflux.training.callbacks import Callback
from worldflux.training.evaluate import Evaluation
from worldflux.training.failures import out_of_memory, refused_at_the_start
from worldflux.training.feeds import Feed, as_agent, as_source, default_training, to_device
from worldflux.training.meter import Meter
from worldflux.training.parallel import (
    agree,
    decide,
    gather_states,
    join_episodes,
    join_metrics,
    rank_seed,
    share_model,
)
from worldflux.training.progress import Progress, Status
from worldflux.training.record import Record, TrainerState
from worldflux.training.run_folder import RunFolder, WatchedFolder, find_checkpoint, restore_from
from worldflux.training.seed import derive_seed, isolated_rng, rng_state, set_rng_state, set_seed
from worldflux.training.signals import Stopped, StopSignals

log = logging.getLogger("worldflux.training")

EVALUATION, TRAINING = 0, 1  # paths of derived seeds
SAVE_PAUSE = 50  # times as long as the last save took, before the clock asks for another one

# (agent, seed, should_stop) -> result, or None when it was told to stop
Evaluator = Callable[[Agent, int, Callable[[], bool]], Evaluation | None]


class Trainer:
    """Trains an agent on a source of experience.

    model: a world model (its agent is made by ``model.make_agent``) or an agent. config: defaults
    to ``TrainingConfig()`` with the model's own learning rate and gradient clipping. optimizer,
    scheduler: a torch optimizer over the model's parameters and a scheduler of it, in place of the
    configured ones (refused by TD-MPC2, which has two optimizers).

    The runner also gives: run_dir (default ``config.output_dir``), evaluator (greedy evaluation;
    without one nothing is evaluated and no checkpoint is ``best``), solved_return (training ends
    when an evaluation reaches it), facts (more manifest content), tensorboard, progress (the live
    line), degraded_modes (names of what is not as it was asked for, besides the source's own),
    ranks (the processes that train together, of which this is one).
    """

    def __init__(
        self,
        model: nn.Module | Agent,
        config: TrainingConfig | None = None,
        callbacks: Iterable[Callback] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any | None = None,
        *,
        run_dir: Path | None = None,
        evaluator: Evaluator | None = None,
        solved_return: float | None = None,
        facts: Mapping[str, Any] | None = None,
        tensorboard: bool = True,
        progress: Progress | None = None,
        degraded_modes: Callable[[], Iterable[str]] = tuple,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config or default_training(model)
        self.config.check_supported()
        if self.config.nproc != ranks.size:
            raise ConfigurationError(
                f"nproc={self.config.nproc}: a Trainer is one process; worldflux-run starts several"
            )
        self.ranks = ranks
        self.device = torch.device(self.config.resolve_device())
        self.agent = as_agent(model, self.config, self.device, optimizer, scheduler)
        self.callbacks = list(callbacks or ())
        self.evaluator = evaluator
        self.solved_return = solved_return
        self.facts = dict(facts or {})
        kind = RunFolder if ranks.first else WatchedFolder
        folder = Path(run_dir or self.config.output_dir)
        self.folder = kind(folder, tensorboard=tensorboard, ranks=ranks)
        self.degraded_elsewhere: list[str] = []  # in the other processes, at the last save
        half = self.config.mixed_precision and self.config.mixed_precision_dtype == "float16"
        self.record = Record(check_gradients=not half)
        self.source: Source | None = None
        self._progress = progress
        self._degraded_modes = degraded_modes
        self.status = "running"
        self.error: BaseException | None = None
        self._target = self.config.total_steps
        self._stop = StopSignals()
        self._begun = False
        self._first_step = 0  # updates done before this call of train
        self._carry: Carry = {}  # of the newest update
        self._inputs: tuple[dict[str, Tensor], Carry] = ({}, {})  # batch and carry that it took

    @property
    def state(self) -> TrainerState:
        return self.record.state

    @property
    def model(self) -> nn.Module:
        return self.agent.model

    def add_callback(self, callback: Callback) -> None:
        self.callbacks.append(callback)

    def train(
        self, data: Any, num_steps: int | None = None, resume_from: str | Path | None = None
    ) -> nn.Module:
        """Trains until `num_steps` updates (default ``config.total_steps``) have been done in all,
        counting those before a resume, or ``config.env_steps`` environment steps.

        data: a Source; or an object with ``sample(batch_size=, seq_len=, device=)``; or an iterable
        of batches. resume_from: a run folder or a checkpoint folder.

        SIGTERM, SIGUSR1 and SIGUSR2 end it with a checkpoint and Stopped (a SystemExit), Ctrl-C with a
        checkpoint and KeyboardInterrupt. TrainingError: a value was not finite. DiskError: the disk
        refuses. RunBusyError: another process writes this run.
        """
        self._target = self.config.total_steps if num_steps is None else num_steps
        self.source = as_source(data, self.agent, self.config)
        status = "failed"
        error: Exception | None = None
        self._begun, self.status, self.error = False, "running", None
        own = claim(self.folder.path) if self.ranks.first else nullcontext()
        with own as self.folder.claim, StopSignals() as self._stop:
            try:
                with refused_at_the_start():
                    self._open(self.source, resume_from)
                self._begun = True
                self._call("on_train_begin")
                self._loop(self.source)
                self._finish()
                status = "stopped" if self._stop.received else "completed"
            except KeyboardInterrupt:
                status = "stopped"
                raise
            except Exception as caught:
                error = out_of_memory(caught) or caught
                if error is not caught:
                    raise error from caught
                raise
            finally:
                self._close(status, error)
        if self._stop.received:
            self._leave(self._stop.received)
        return self.model

    def _loop(self, source: Source) -> None:
        config, state = self.config, self.state
        context = self.agent.replay_context
        self._first_step = state.global_step
        rows = config.effective_batch_size() // self.ranks.size
        self._evaluate_if_due()
        self._keep_best()
        self._call("on_epoch_begin")
        while not self._done():
            self._call("on_step_begin")
            episodes = source.advance(self.agent, state.global_step + 1)
            episodes, env_steps = join_episodes(self.ranks, episodes, source.env_steps)
            self.record.note_episodes(episodes, env_steps, self.folder.logger)
            arrays = source.batch(rows)
            self._note_epoch(source)
            stepid = arrays.pop("stepid", None)
            self._inputs = to_device(arrays, self.device), self._carry
            metrics, entries, self._carry = self.agent.update(*self._inputs)
            metrics = join_metrics(self.ranks, metrics)
            if entries and stepid is not None:
                fresh = {key: value.float().cpu().numpy() for key, value in entries.items()}
                source.write_back(stepid[:, context:], fresh)
            state.global_step += 1
            self.record.meter.add(metrics, state.global_step)
            self.record.clock.tick(state.global_step)
            if due(state.global_step, config.log_interval):
                self.record.log(self.folder.logger)
            self._call("on_step_end")
            if decide(self.ranks, self._long_unsaved()):
                self._save()
            self._evaluate_if_due()
            if due(state.global_step, config.save_interval):
                self._save()
            self._keep_best()
            if self._progress is not None and self._progress.due():
                self._progress.update(self.progress())
        self._call("on_epoch_end")

    def _done(self) -> bool:
        """Whether training ends here; a signal to one process ends it in all, after one update."""
        state, limit = self.state, self.config.env_steps
        done = state.should_stop or state.global_step >= self._target or self.solved
        done = done or (limit is not None and state.env_steps >= limit)
        asked, done = agree(self.ranks, self._stop.received, done)
        if asked is not None:  # one that came meanwhile is kept for the next time
            self._stop.received = asked
        return done or asked is not None

    @property
    def solved(self) -> bool:
        """Whether an evaluation has reached the return that solves the task."""
        best = self.state.best_score
        return self.solved_return is not None and best is not None and best >= self.solved_return

    def _finish(self) -> None:
        """Saves first: the last log record and evaluation of a run whose end falls between two
        intervals belong to this end, and a run that is continued shall not know of them."""
        state = self.state
        if state.global_step:
            self._save()
        if not self._stop.received:
            if state.metrics_step != state.global_step and state.global_step:
                self.record.log(self.folder.logger)
            trained = state.global_step > self._first_step
            if self.evaluator is not None and state.last_eval_step != state.global_step:
                self._evaluate()
            elif self.evaluator is not None and self.solved and trained:
                # The evaluation that ended the training was picked for being good: the result
                # comes from other episodes.
                log.info("solved: an evaluation reached %.4g", self.solved_return)
                self._evaluate(again=True)
        self._keep_best()

    # Logging

    def _note_epoch(self, source: Source) -> None:
        epoch = getattr(source, "epoch", 0)
        if epoch != self.state.epoch:
            self._call("on_epoch_end")
            self.state.epoch = epoch
            self._call("on_epoch_begin")

    def sync_metrics(self) -> dict[str, float]:
        """Means of the training metrics since the last log, brought to the CPU now."""
        return self.record.sync()

    def progress(self) -> Status:
        """How far the training is."""
        return self.record.status(self._target, self.config.env_steps)

    def _show(self, phase: str) -> None:
        self.folder.logger.phase(phase)
        if self._progress is not None:
            status = self.progress()
            status.phase = phase
            self._progress.update(status, force=True)

    # Evaluation

    def _evaluate_if_due(self) -> None:
        step = self.state.global_step
        fresh = self.state.last_eval_step != step
        if self.evaluator and fresh and step and due(step, self.config.eval_interval):
            self._evaluate()

    def _evaluate(self, again: bool = False) -> None:
        """Evaluates now; `again` plays other episodes than the first evaluation of this update."""
        assert self.evaluator is not None
        state = self.state
        self.record.meter.check()
        if self._stop.received:
            return
        with self.record.clock.pause():
            self._show("evaluating")
            path = [EVALUATION, state.global_step] + [1] * again
            seed = derive_seed(self.config.seed, *path)
            result = self.evaluator(self.agent, seed, lambda: self._stop.received is not None)
            if result is None:
                return
            self.record.note_score(result.mean)
            at = {"step": state.global_step, "env_steps": state.env_steps}
            self.folder.logger.scalars(result.metrics(), **at)
            if self._inputs[0] and self.folder.logger.takes_pictures:
                with isolated_rng(seed, getattr(self.agent, "generator", None)):
                    pictures = self.agent.report(*self._inputs)
                self.folder.logger.pictures({f"report/{k}": v for k, v in pictures.items()}, **at)
        log.info(
            "update %d, %d env steps: evaluation return %.4g over %d episodes%s",
            state.global_step,
            state.env_steps,
            result.mean,
            len(result.returns),
            "".join(f" · {name} {mean:.4g}" for name, mean in result.task_means().items()),
        )

    def evaluate(self, data: Any, num_batches: int = 10) -> dict[str, float]:
        """Mean losses of the world model over batches of data, without training on them."""
        feed = Feed(data, self.model, self.config.sequence_length)
        loss: Any = self.model.loss
        meter = Meter()
        with isolated_rng(self.config.seed), torch.no_grad():
            for _ in range(num_batches):
                output = loss(feed.loss_batch(self.config.batch_size))
                meter.add({"loss": output.loss, **output.components}, self.state.global_step)
        return meter.means()

    # Checkpoints

    def checkpoint(self, resumable: bool = True) -> Checkpoint:
        """Everything that a run needs to continue; without the source's part if not `resumable`.

        A resumable one is made by all processes together, and is complete in the first.
        """
        state: dict[str, Any] = {**self.record.state_dict(), "rng": rng_state()}
        state["carry"] = self._carry
        if self.folder.is_open:
            state["metrics_bytes"] = self.folder.logger.position()
        if resumable and self.source is not None:
            state["source"] = self.source.state_dict()
            if self.ranks.size > 1:
                state["ranks"] = self._other_ranks(state)
        return Checkpoint(self.agent.state_dict(), state)

    def _other_ranks(self, state: Mapping[str, Any]) -> list[dict[str, Any]]:
        assert self.source is not None
        own = {key: state[key] for key in ("source", "rng", "carry")}
        own |= {"agent": self.agent.rank_state(), "degraded": list(self.source.degraded_modes)}
        others = gather_states(self.ranks, own)
        self.degraded_elsewhere = [name for other in others for name in other["degraded"]]
        return others

    def save_checkpoint(self, path: str | Path) -> None:
        """Writes a checkpoint folder at `path`, without the replay of an environment: for that,
        resume from the run folder."""
        write_checkpoint(Path(path), self.checkpoint(resumable=isinstance(self.source, Feed)))

    def load_checkpoint(self, path: str | Path) -> None:
        """Restores agent, counters and random streams from a checkpoint or run folder."""
        _, checkpoint = find_checkpoint(Path(path))
        self._restore(checkpoint)

    def _save(self) -> None:
        assert self.source is not None
        with self.record.clock.pause():
            self.record.meter.check()
            self.folder.save(self.state.global_step, self.source, self.checkpoint)
            self._write_manifest("running")

    def _long_unsaved(self) -> bool:
        """Whether `save_seconds` have passed; saving may take a fiftieth of the time at most."""
        seconds = self.config.save_seconds
        pause = max(seconds, SAVE_PAUSE * self.folder.save_seconds)
        return seconds > 0 and time.monotonic() - self.folder.saved_at >= pause

    def _keep_best(self) -> None:
        step = self.state.global_step
        if self.state.best_step != step or self.folder.best_step == step:
            return
        with self.record.clock.pause():
            self.folder.keep_best(step, lambda: self.checkpoint(resumable=False))
            self._write_manifest("running")

    # Beginning and end

    def _open(self, source: Source, resume_from: str | Path | None) -> None:
        x_axis = "env_steps" if source.data_mode == "online" else "updates"
        own_seed = rank_seed(self.config.seed, self.ranks.rank)
        if self.ranks.size > 1:
            self.agent.join(self.ranks, own_seed)
        if resume_from is not None:
            self._resume(source, Path(resume_from), x_axis)
        elif self.state.global_step:
            self.folder.extend(x_axis)
        else:
            share_model(self.ranks, self.agent.model)
            set_seed(derive_seed(own_seed, TRAINING))
            self.state.started = time.time()
            self.folder.start(x_axis)
        state = self.state
        self.facts = {**environment_facts(), **self.facts}
        self.record.clock.start(state.global_step, state.env_steps)
        self._write_manifest("running")
        if self._progress is not None:
            self._progress.start()
            self._show("preparing the first update")

    def _resume(self, source: Source, path: Path, x_axis: str) -> None:
        run, checkpoint = restore_from(path, source, self.folder.store, self.ranks)
        self._restore(checkpoint)
        self.state.damaged_checkpoints += self.folder.store.damaged
        _, self.state.env_steps = join_episodes(self.ranks, [], source.env_steps)
        step = self.state.global_step
        if run == self.folder.path.resolve():
            x = self.state.env_steps if x_axis == "env_steps" else step
            self.folder.resume(x_axis, step, x, checkpoint.state)
        else:
            self.folder.start(x_axis)
        log.info("resumed %s at update %d, %d env steps", path, step, self.state.env_steps)

    def _restore(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.state
        try:
            self.agent.load_state_dict(checkpoint.agent)
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"the checkpoint does not fit this model: {reason}") from error
        self.record.load_state_dict(saved, self.device)
        set_rng_state(saved["rng"])
        carry = saved.get("carry") or former_carry(checkpoint.agent["optimizer"])
        self._carry = {key: value.to(self.device) for key, value in carry.items()}
        others = saved.get("ranks", [])
        self.degraded_elsewhere = [name for other in others for name in other["degraded"]]

    def _close(self, status: str, error: BaseException | None) -> None:
        self.status, self.error = status, error
        if self._progress is not None:
            self._progress.stop()
        try:
            self._write_manifest(status, error)
            self.folder.close()
        except CheckpointError as second:
            if error is None:
                raise
            # The error that ends the run matters more, and a disk that refuses is told once.
            if not isinstance(error, DiskError):
                log.error("%s", second)
        finally:
            if self._begun:
                self._call("on_train_end")

    def _leave(self, received: signal.Signals) -> None:
        log.info("stopped by %s at update %d", received.name, self.state.global_step)
        if received == signal.SIGINT:
            raise KeyboardInterrupt
        raise Stopped(received)

    def _write_manifest(self, status: str, error: BaseException | None = None) -> None:
        self.state.elapsed = self.record.clock.elapsed()
        ended = None if status == "running" else time.time()
        text = None if error is None else f"{type(error).__name__}: {error}"
        self.folder.write_manifest(run_manifest(self, status, ended, text))

    def all_degraded_modes(self) -> list[str]:
        """Names of everything that is not as it was asked for, each once."""
        modes = [*getattr(self.source, "degraded_modes", ()), *self._degraded_modes()]
        modes += self.degraded_elsewhere
        if self.state.damaged_checkpoints:
            modes.append("damaged_checkpoint_skipped")
        return list(dict.fromkeys(modes))

    def _call(self, hook: str) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self)


def due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def former_carry(optimizer: Mapping[str, Tensor]) -> Carry:
    """The carry in checkpoints from when it was part of the agent's state."""
    prefix = "train_carry."
    return {k.removeprefix(prefix): v for k, v in optimizer.items() if k.startswith(prefix)}
