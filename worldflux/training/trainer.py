"""The training loop: collect, sample, update, write back, log, evaluate, save."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from worldflux.config.training import TrainingConfig
from worldflux.data.sources import Source
from worldflux.run_folder.state import claim
from worldflux.training.evaluate import evaluate_now
from worldflux.training.feeds import Feed, Recorded, as_source, to_device, to_host
from worldflux.training.parallel import agree, join_metrics
from worldflux.training.seed import EVALUATION, derive_seed
from worldflux.training.session import TrainingSession
from worldflux.training.signals import StopSignals

VALIDATION_BATCHES = 10
VALIDATION = {"loss": "total"}  # other names of losses in metrics.jsonl

log = logging.getLogger("worldflux.training")


class Trainer(TrainingSession):
    """Trains an agent on a source of experience.

    model: a world model (its agent is made by ``model.make_agent``) or an agent. config: defaults
    to ``TrainingConfig()`` with the model's own learning rate and gradient clipping. optimizer,
    scheduler: a torch optimizer over the model's parameters and a scheduler of it, in place of the
    configured ones (refused by TD-MPC2, which has two optimizers).

    The runner also passes: run_dir (default ``config.output_dir``), evaluator (greedy evaluation;
    without one nothing is evaluated and no checkpoint is ``best``), solved_return (training ends
    when an evaluation reaches it), facts (more manifest content), loggers (by name), progress (the live
    line), degraded_modes (besides the source's), ranks (the processes that train together).
    """

    def train(
        self,
        data: Source | Recorded,
        num_steps: int | None = None,
        resume_from: str | Path | None = None,
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
        self.source = source = as_source(data, self.agent, self.config)
        claimed = claim(self.folder.path) if self.ranks.first else nullcontext()
        self._stop = StopSignals(self.ranks.first)
        if self.ranks.size == 1:  # several agree on where they stop, after an update
            source.should_stop = lambda: self._stop.received is not None
        with claimed as self.folder.claim, self._stop.catching(), self._outcome():
            self._begin(source, resume_from)
            self._begun = True
            self._call("on_train_begin")
            self._loop(source)
            self._finish(source)
        if self._stop.received:
            log.info("stopped by %s at update %d", self._stop.received.name, self.state.global_step)
            self._stop.leave()
        return self.model

    def _loop(self, source: Source) -> None:
        config, state, context = self.config, self.state, self.agent.replay_context
        self._first_step = state.global_step
        self._evaluate_if_due()
        self._keep_best()
        self._call("on_epoch_begin")
        while not self._done():
            self._call("on_step_begin")
            episodes = source.advance(self.agent, state.global_step + 1)
            self._note_episodes(source, episodes)
            if not getattr(source, "ready", True):
                break  # stopped before there was a batch
            arrays = source.batch(config.effective_batch_size() // self.ranks.size)
            self._note_epoch(source)
            stepid = arrays.pop("stepid", None)
            self._inputs = to_device(arrays, self.device), self.checkpointing.carry
            with torch.enable_grad():  # an environment may have switched it off
                metrics, entries, self.checkpointing.carry = self.agent.update(*self._inputs)
            metrics = join_metrics(self.ranks, metrics)
            if entries and stepid is not None:
                source.write_back(stepid[:, context:], to_host(entries, self.agent.entry_spaces))
            self.books.note_update(metrics)
            if due(state.global_step, config.log_interval):
                self.books.log(self.folder.logger)
            self._call("on_step_end")
            if self.checkpointing.overdue(config.save_seconds):
                self._save(source)
            self._evaluate_if_due()
            if due(state.global_step, config.save_interval):
                self._save(source)
            self._keep_best()
            if self._progress is not None and self._progress.due():
                self._progress.update(self.progress())
        self._call("on_epoch_end")

    def _done(self) -> bool:
        """Whether training ends here; a signal to one process ends it in all, after one update."""
        state, limit = self.state, self.config.env_steps
        done = state.should_stop or state.global_step >= self._target or self.solved
        done = done or (limit is not None and state.env_steps >= limit)
        received, done = agree(self.ranks, self._stop.received, done)
        if received is not None:  # one that came meanwhile is kept for the next time
            self._stop.received = received
        return done or received is not None

    @property
    def solved(self) -> bool:
        """Whether an evaluation has reached the return that solves the task."""
        best = self.state.best_score
        return self.solved_return is not None and best is not None and best >= self.solved_return

    def _finish(self, source: Source) -> None:
        """Saves first: the last log record and evaluation of a run whose end falls between two
        intervals belong to this end, and a run that is continued shall not know of them."""
        state = self.state
        if state.global_step or not getattr(source, "ready", True):
            self._save(source)
        if not self._stop.received:
            if state.metrics_step != state.global_step and state.global_step:
                self.books.log(self.folder.logger)
            if state.last_eval_step != state.global_step:
                self._evaluate()
            elif self.solved and state.global_step > self._first_step:
                # The evaluation that ended the training was picked for being good: the result
                # comes from other episodes.
                log.info("solved: an evaluation reached %.4g", self.solved_return)
                self._evaluate(again=True)
        self._keep_best()

    # Parts of the loop

    def _note_epoch(self, source: Source) -> None:
        epoch = getattr(source, "epoch", 0)
        if epoch != self.state.epoch:
            self._call("on_epoch_end")
            self.state.epoch = epoch
            self._call("on_epoch_begin")

    def _evaluate_if_due(self) -> None:
        step = self.state.global_step
        if step and self.state.last_eval_step != step and due(step, self.config.eval_interval):
            self._evaluate()

    def _evaluate(self, again: bool = False) -> None:
        """again: plays other episodes than the first evaluation of this update."""
        if self.source is not None:  # the one process that evaluates waits for the others' steps
            self._note_episodes(self.source, self.source.settle())
        self._validate()
        if self.evaluator is None:
            return
        self.books.meter.check()
        if not self._stop.received:
            self._show("evaluating")
            seed = derive_seed(self.config.seed, EVALUATION, self.state.global_step, *[1] * again)
            evaluate_now(
                self.evaluator,
                self.agent,
                seed,
                self.books,
                self.folder.logger,
                self._inputs,
                should_stop=lambda: self._stop.received is not None,
            )

    def _validate(self) -> None:
        """Logs the model's losses on the episodes that the source holds out, once for an update."""
        held_out, state = getattr(self.source, "held_out", None), self.state
        if held_out is None or self._stop.received or not self.ranks.first:
            return
        if state.last_validation_step == state.global_step:
            return
        self._show("validating")
        with self.books.clock.pause():
            batches = held_out.batches(VALIDATION_BATCHES, self.config.batch_size)
            means = self.evaluate(batches, VALIDATION_BATCHES)
        metrics = {f"validation/loss/{VALIDATION.get(key, key)}": x for key, x in means.items()}
        self.folder.logger.scalars(metrics, step=state.global_step, env_steps=state.env_steps)
        state.last_validation_step = state.global_step

    def evaluate(self, data: Recorded, num_batches: int = 10) -> dict[str, float]:
        """Mean losses of the world model over batches of data, without training on them."""
        feed = Feed(data, self.model, self.config.sequence_length)
        seed, step = self.config.seed, self.state.global_step
        return feed.mean_losses(num_batches, self.config.batch_size, seed=seed, step=step)


def due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def train(
    model: nn.Module,
    data: Source | Recorded,
    total_steps: int | None = None,
    batch_size: int = 16,
    sequence_length: int = 50,
    learning_rate: float = 3e-4,
    grad_clip: float = 100.0,
    output_dir: str = "./outputs",
    device: str = "auto",
    **kwargs: Any,
) -> nn.Module:
    """Trains a model on data and returns it; further keywords are TrainingConfig fields."""
    if total_steps is not None:
        kwargs["total_steps"] = total_steps
    config = TrainingConfig(
        batch_size=batch_size,
        sequence_length=sequence_length,
        learning_rate=learning_rate,
        grad_clip=grad_clip,
        output_dir=output_dir,
        device=device,
        **kwargs,
    )
    return Trainer(model, config).train(data)
