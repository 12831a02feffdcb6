"""Saving a training, and continuing it from what was saved."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from worldflux.core.agent import Agent, Carry
from worldflux.data.sources import Source
from worldflux.errors import CheckpointError
from worldflux.run_folder.checkpoint import Checkpoint
from worldflux.run_folder.manifest import COPY, recorded_copy
from worldflux.training.bookkeeping import Bookkeeping
from worldflux.training.parallel import decide, gather_states, join_episodes, rank_seed, share_model
from worldflux.training.restore import restore_source
from worldflux.training.run_writer import RunWriter
from worldflux.training.seed import TRAINING, derive_seed, rng_state, set_rng_state, set_seed

SAVE_PAUSE = 50  # times as long as the last save took, before the clock asks for another one

log = logging.getLogger("worldflux.training")


class Remembering(Protocol):
    """A callback, as far as it is saved."""

    name: str

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Checkpointing:
    """Agent, counters, random streams and source of a training, to and from its run folder.

    facts: of the manifest, as far as they are known at the start. callbacks: saved by their names. carry: what the next update takes
    over from the newest one. degraded_elsewhere: degraded modes of the other processes, at the last
    save.
    """

    def __init__(
        self,
        agent: Agent,
        books: Bookkeeping,
        folder: RunWriter,
        device: torch.device,
        facts: Mapping[str, Any],
        callbacks: Sequence[Remembering] = (),
    ) -> None:
        self.callbacks = callbacks
        self.recorded = recorded_copy(facts)
        self.agent = agent
        self.books = books
        self.folder = folder
        self.device = device
        self.ranks = folder.ranks
        self.carry: Carry = {}
        self.degraded_elsewhere: list[str] = []

    # Beginning

    def begin(self, source: Source, seed: int, resume_from: str | Path | None) -> None:
        """Opens the run folder: for the run at `resume_from`, for the one that this process has
        trained so far, or for a new one from `seed`."""
        x_axis = "env_steps" if source.data_mode == "online" else "updates"
        seed = rank_seed(seed, self.ranks.rank)
        if self.ranks.size > 1:
            self.agent.join(self.ranks, seed)
        if resume_from is not None:
            self._resume(source, Path(resume_from), x_axis)
        elif self.books.state.global_step:
            self.folder.extend(x_axis)
        else:
            share_model(self.ranks, self.agent.model)
            set_seed(derive_seed(seed, TRAINING))
            self.books.state.started = time.time()
            self.folder.start(x_axis)
        state = self.books.state
        self.books.clock.start(state.global_step, state.env_steps)

    def _resume(self, source: Source, path: Path, x_axis: str) -> None:
        run, checkpoint = restore_source(path, source, self.folder.store, self.ranks, self.restore)
        state = self.books.state
        state.damaged_checkpoints += self.folder.store.damaged
        _, state.env_steps = join_episodes(self.ranks, [], source.env_steps)
        if run == self.folder.path.resolve():
            x = state.env_steps if x_axis == "env_steps" else state.global_step
            self.folder.resume(x_axis, state.global_step, x, checkpoint.state)
        else:
            self.folder.start(x_axis)
        step = state.global_step
        log.info("resumed %s at update %d, %d env steps", path, step, state.env_steps)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restores agent, counters and random streams."""
        saved = checkpoint.state
        try:
            self.agent.load_state_dict(checkpoint.agent)
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"the checkpoint does not fit this model: {reason}") from error
        self.books.load_state_dict(saved, self.device)
        set_rng_state(saved["rng"])
        carry = saved.get("carry") or former_carry(checkpoint.agent["optimizer"])
        self.carry = {key: value.to(self.device) for key, value in carry.items()}
        for callback in self.callbacks:
            if remembered := saved.get("callbacks", {}).get(callback.name):
                callback.load_state_dict(remembered)
        self._note_degraded(saved.get("ranks", []))

    # Saving

    def checkpoint(self, source: Source | None) -> Checkpoint:
        """Everything that a run needs to continue; without a source it cannot.

        A resumable one is made by all processes together, and is complete in the first.
        """
        state: dict[str, Any] = {**self.books.state_dict(), "rng": rng_state(), "carry": self.carry}
        if self.recorded:
            state[COPY] = self.recorded
        remembered = {one.name: one.state_dict() for one in self.callbacks if one.name}
        if any(remembered.values()):
            state["callbacks"] = remembered
        if self.folder.is_open:
            state |= self.folder.logger.position()
        if source is not None:
            state["source"] = source.state_dict()
            if self.ranks.size > 1:
                part = {key: state[key] for key in ("source", "rng", "carry")}
                part |= {"agent": self.agent.rank_state(), "degraded": list(source.degraded_modes)}
                state["ranks"] = gather_states(self.ranks, part)
                self._note_degraded(state["ranks"])
        return Checkpoint(self.agent.state_dict(), state)

    def save(self, source: Source) -> None:
        """Saves this update, once."""
        self.books.meter.check()
        step = self.books.state.global_step
        self.folder.save(step, source, lambda: self.checkpoint(source))

    def overdue(self, seconds: float) -> bool:
        """Whether so many seconds have passed since the last save, by the first process's clock;
        saving may take a fiftieth of the time at most."""
        pause = max(seconds, SAVE_PAUSE * self.folder.save_seconds)
        return decide(self.ranks, seconds > 0 and time.monotonic() - self.folder.saved_at >= pause)

    def keep_best(self) -> bool:
        """Keeps this update if its score is the best; whether there was anything to do."""
        step = self.books.state.global_step
        if self.books.state.best_step != step or self.folder.best_step == step:
            return False
        self.folder.keep_best(step, lambda: self.checkpoint(None))
        return True

    def _note_degraded(self, others: list[Mapping[str, Any]]) -> None:
        self.degraded_elsewhere = [mode for other in others for mode in other["degraded"]]


def former_carry(optimizer: Mapping[str, Tensor]) -> Carry:
    """The carry in checkpoints from when it was part of the agent's state."""
    prefix = "train_carry."
    return {k.removeprefix(prefix): v for k, v in optimizer.items() if k.startswith(prefix)}
