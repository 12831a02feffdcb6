"""Evaluating an agent while it is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from torch import Tensor

from worldflux.core.agent import Agent
from worldflux.training.bookkeeping import Bookkeeping
from worldflux.training.evaluate import Evaluation
from worldflux.training.logger import MetricLogger
from worldflux.training.seed import isolated_rng

# (agent, seed, should_stop) -> result, or None when it was stopped
Evaluator = Callable[[Agent, int, Callable[[], bool]], Evaluation | None]

log = logging.getLogger("worldflux.training")


def evaluate_now(
    evaluator: Evaluator,
    agent: Agent,
    seed: int,
    books: Bookkeeping,
    logger: MetricLogger,
    batch: Mapping[str, Tensor],
    should_stop: Callable[[], bool],
) -> None:
    """Evaluates at the present update; notes the score and logs result and pictures.

    batch: the last one, of which the agent draws pictures; may be empty.
    """
    state = books.state
    with books.clock.pause():
        result = evaluator(agent, seed, should_stop)
        if result is None:
            return
        books.note_score(result.mean)
        at = {"step": state.global_step, "env_steps": state.env_steps}
        logger.scalars(result.metrics(), **at)
        if batch and logger.takes_pictures:
            with isolated_rng(seed, getattr(agent, "generator", None)):
                pictures = agent.report(batch)
            logger.pictures({f"report/{k}": v for k, v in pictures.items()}, **at)
    log.info(
        "update %d, %d env steps: evaluation return %.4g over %d episodes%s",
        state.global_step,
        state.env_steps,
        result.mean,
        len(result.returns),
        "".join(f" · {name} {mean:.4g}" for name, mean in result.task_means().items()),
    )
