"""One training run: builds environments, model, agent and source, trains, evaluates."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from worldflux.config.data import COLLECTING, RECORDED
from worldflux.config.model import WorldModelConfig
from worldflux.config.training import TrainingConfig
from worldflux.core.agent import Agent
from worldflux.core.allocator import keep_freed_memory
from worldflux.core.precision import tune_cuda
from worldflux.core.ranks import ALONE, Ranks
from worldflux.data.ratio import updates_per_step
from worldflux.data.sources import Source, try_envs
from worldflux.errors import DiskError, WorldFluxError
from worldflux.models.factory import make_model
from worldflux.run_folder.checkpoints import has_checkpoint
from worldflux.run_folder.disk import shown
from worldflux.run_folder.manifest import degrading, plain
from worldflux.run_folder.state import claim
from worldflux.runner.continuation import AUTO, check_same_run, continues
from worldflux.runner.fitting import for_environment
from worldflux.runner.parts import Fitted, Parts
from worldflux.runner.preflight import check_recorded, one_environment, training_envs
from worldflux.runner.repeat import repeating, words_of
from worldflux.training.evaluate import Evaluation, Evaluator, GreedyEvaluator
from worldflux.training.initial import InitialWeights
from worldflux.training.own_callbacks import own_callbacks
from worldflux.training.progress import Progress
from worldflux.training.seed import set_seed
from worldflux.training.session import Callback
from worldflux.training.trainer import Trainer

if TYPE_CHECKING:
    from worldflux.config.run import RunConfig
    from worldflux.dashboard.live import LiveDashboard
    from worldflux.data.recorded.opening import RecordedSet
    from worldflux.envs.vector import VectorEnv

EVALUATION_UNAVAILABLE = "evaluation_unavailable"

log = logging.getLogger("worldflux.run")


def run(
    config: RunConfig, run_dir: Path, parts: Parts | None = None, ranks: Ranks = ALONE
) -> float:
    """Trains one agent as the configuration says and returns its final evaluation score, the mean
    return of ``training.eval_episodes`` greedy episodes (NaN where there is no environment).

    run_dir: where everything the run is goes; with ``config.resume`` the run continues in that
    folder instead, with ``resume=auto`` in run_dir if it has a checkpoint there. A stop signal ends
    it with SystemExit(0), Ctrl-C with KeyboardInterrupt, each after a checkpoint and a line that
    names the command to continue. parts: what it is made of beside its configuration. ranks: the
    ``training.nproc`` processes that train it together; the first one evaluates and writes.
    """
    folder, parts = folder_of(config, run_dir), parts or Parts()
    if not ranks.first:
        hidden = replace(config.visualization, enabled=False)
        config = replace(config, visualization=hidden)
    with claim(folder) if ranks.first else nullcontext():
        resume = ranks.share_object(ranks.first and _resumes(config, folder))
        with parts.page(config, folder) as live:
            return _run(config, folder, resume, live, parts, ranks)


def folder_of(config: RunConfig, run_dir: Path) -> Path:
    """Where the run goes: `run_dir`, or the folder of the run that ``config.resume`` names."""
    return Path(run_dir) if config.resume in (None, AUTO) else Path(str(config.resume))


def _resumes(config: RunConfig, folder: Path) -> bool:
    if config.resume == AUTO:
        return continues(folder, config)
    if config.resume is not None and has_checkpoint(folder):
        check_same_run(folder, config)
    return config.resume is not None


def _run(
    config: RunConfig,
    folder: Path,
    resume: bool,
    live: LiveDashboard,
    parts: Parts,
    ranks: Ranks,
) -> float:
    training = config.training
    if training.keep_memory:
        keep_freed_memory()
    tune_cuda(torch.device(training.resolve_device()), training.mixed_precision)
    set_seed(training.seed)
    fitted = parts.fitted
    if fitted is None and parts.model is None:
        fitted = _fitted(config, ranks, live.renders)
        set_seed(training.seed)  # environments may have seeded the streams, each in its own way
    envs, model_config, recorded = fitted or Fitted(None, parts.model or config.model)
    if ranks.first:
        _describe(config, envs, recorded)
    if resume and has_checkpoint(folder):
        check_same_run(folder, replace(config, model=model_config))
    try:
        weights = None
        if config.init_from is not None and not resume:
            weights = InitialWeights.find(config.init_from)
            weights.check(model_config)
            model_config = weights.fitted(model_config)
        agent = make_agent(model_config, training)
        facts = {**run_facts(config, agent.model), **parts.facts}
        if weights is not None:
            weights.load_into(agent.model)
            facts |= weights.facts(model_config)
        source = parts.source(config, envs, agent, model_config, ranks, recorded)
        evaluator = _evaluator(config, model_config, envs, source) if ranks.first else None
        live.watch(source)
        watchers = _watchers(config, ranks)
        trainer = Trainer(
            agent,
            training,
            [*_own_callbacks(config, parts, ranks), *live.callbacks, *watchers],
            run_dir=folder,
            evaluator=evaluator,
            solved_return=config.env.solved_return,
            facts=facts,
            loggers=config.logger.names(),
            progress=Progress(_subject(config)) if ranks.first else None,
            degraded_modes=lambda: [
                *live.degraded_modes,
                *parts.page_modes,
                *getattr(evaluator, "degraded_modes", ()),
                *(mode for one in watchers for mode in getattr(one, "degraded_modes", ())),
            ],
            ranks=ranks,
        )
        _train(trainer, source, folder, resume, parts)
    finally:
        if envs is not None:
            envs.close()
    log.info("%s", final_line(trainer, folder))
    warn_of_degradation(trainer)
    return math.nan if trainer.state.last_score is None else trainer.state.last_score


def _watchers(config: RunConfig, ranks: Ranks) -> list[Callback]:
    """What looks at the training beside its evaluation."""
    training = config.training
    if not ranks.first or config.env.suite == "none":
        return []
    watchers: list[Callback] = []
    if training.model_eval_interval:
        from worldflux.report.imagination import layout_of_env
        from worldflux.runner.measured import ModelMeasure

        watchers.append(ModelMeasure(config.env, layout_of_env(config.env)))
    if training.video_interval:
        from worldflux.report.imagination import layout_of_env
        from worldflux.runner.filmed import Videos

        layout = layout_of_env(config.env)
        watchers.append(Videos(config.env, layout, training.eval_time_limit))
    return watchers


def _own_callbacks(config: RunConfig, parts: Parts, ranks: Ranks) -> list[Callback]:
    """Those of the `callbacks` group, in the first process: what one ends, ends in all."""
    if not ranks.first:
        return []
    return own_callbacks(config.callbacks) if parts.callbacks is None else parts.callbacks


def _subject(config: RunConfig) -> str:
    if config.env.suite != "none":
        return config.env.id
    return "random data" if config.data.source == "random" else "recorded data"


def _describe(config: RunConfig, envs: VectorEnv | None, recorded: RecordedSet | None) -> None:
    """Says how the agent observes and acts, and what may not be meant so."""
    if recorded is not None:
        log.info("data %s: %s", ", ".join(config.data.paths), recorded.summary())
        if config.env.suite == "none":
            log.info("nothing will be evaluated: no environment is named (env=...)")
    if envs is None:
        return
    log.info("environment %s: %s", envs.name, envs.notes.summary)
    for doubt in envs.notes.doubts:
        log.warning("environment %s: %s", envs.name, doubt)
    lengths = [task.episode_length for task in envs.tasks] or [envs.episode_length]
    if None in lengths:
        text = "no limit of its episodes is known; if one may never end, env.time_limit=N cuts it"
        log.warning("environment %s: %s", envs.name, text)


def _fitted(config: RunConfig, ranks: Ranks, render: bool) -> Fitted | None:
    """This process's share of the environments to train in, and the model for them; None where they
    cannot be made and the run may degrade."""
    if config.data.source in RECORDED:
        make = partial(training_envs, rank=ranks.rank, size=ranks.size, render=render)
        return check_recorded(config, make)
    if config.env.suite == "none":
        return None
    envs = try_envs(
        lambda: training_envs(config, rank=ranks.rank, size=ranks.size, render=render), config.data
    )
    if envs is None:
        return None
    return Fitted(envs, for_environment(config.model, envs))


def _evaluator(
    config: RunConfig, model: WorldModelConfig, envs: VectorEnv | None, source: Source
) -> Evaluator | None:
    """Greedy evaluation in the run's environment; None where there is none that fits the model."""
    if config.env.suite == "none":
        return None
    if envs is None:
        try:
            one = one_environment(config)
            try:
                model.with_spaces(one.obs_spaces, one.action_spaces, one.tasks)
            finally:
                one.close()
        except WorldFluxError as error:
            log.warning("nothing will be evaluated: %s", error)
            return None
    evaluator = replace(evaluator_of(config), borrow=source.lent)
    return ToleratingEvaluator(evaluator) if config.data.on_env_failure == "degrade" else evaluator


class ToleratingEvaluator:
    """Evaluates as long as the environment works; after that it is named in degraded_modes."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.degraded_modes: list[str] = []

    def __call__(
        self, agent: Agent, seed: int, should_stop: Callable[[], bool]
    ) -> Evaluation | None:
        if self.degraded_modes:
            return None
        try:
            return self.evaluator(agent, seed, should_stop)
        except WorldFluxError as error:
            log.warning("%s; data.on_env_failure=degrade: nothing is EVALUATED any more", error)
            self.degraded_modes.append(EVALUATION_UNAVAILABLE)
            return None


def warn_of_degradation(trainer: Trainer) -> None:
    """The last word of a run that is no evidence of learning."""
    modes = degrading(trainer.all_degraded_modes())
    if modes:
        reason = f"DEGRADED: {', '.join(modes)}"
    elif getattr(trainer.source, "data_mode", None) == "random":
        reason = "RANDOM DATA, as asked for"
    else:
        return
    text = "this run counts as contract_smoke: the machinery works, nothing was learned"
    log.warning("%s; %s", reason, text)


def _train(trainer: Trainer, source: Source, folder: Path, resume: bool, parts: Parts) -> None:
    draws = trainer.ranks.first
    try:
        trainer.train(source, resume_from=folder if resume else None)
    except DiskError:
        draws = False  # this error is the one to report, and nothing more can be written
        raise
    except (KeyboardInterrupt, SystemExit):
        log.info("continue with: %s", parts.continuation(folder))
        raise
    finally:
        if draws:
            _write_report(folder)


def _write_report(folder: Path) -> None:
    # Only now: matplotlib takes a third of a second to load.
    from worldflux.report.curves import draw_run
    from worldflux.report.own import write_own_page

    try:
        draw_run(folder)
        write_own_page(folder, repeating(folder), words_of(folder))
    except (OSError, WorldFluxError) as error:
        log.warning("the report is not complete: %s", error)


def make_agent(config: WorldModelConfig, training: TrainingConfig) -> Agent:
    """A fresh agent of the configured family."""
    model = make_model(config)
    return model.make_agent(training, torch.device(training.resolve_device()))


def evaluator_of(config: RunConfig) -> GreedyEvaluator:
    """Greedy evaluation as configured."""
    training = config.training
    mode = "async" if training.env_mode == "async" else "sync"
    return GreedyEvaluator(
        config.env,
        episodes=training.eval_episodes,
        mode=mode,
        copies=training.eval_envs,
        time_limit=training.eval_time_limit,
    )


def run_facts(config: RunConfig, model: Any) -> dict[str, Any]:
    """Manifest content that only the runner knows."""
    training = config.training
    rows = training.effective_batch_size()
    updates = None
    if config.data.source in COLLECTING:
        updates = updates_per_step(config.data, rows, training.sequence_length)
    return {
        "config": plain(replace(config, model=model.config)),
        "model_config": plain(model.config),
        "train_ratio": None
        if updates is None
        else float(updates * rows * training.sequence_length),
        "collect_steps_per_update": None if updates is None else float(1 / updates),
        "env": {
            "id": config.env.id,
            "suite": config.env.suite,
            "action_repeat": config.env.action_repeat,
            "num_envs": config.training.num_envs,
        },
    }


def final_line(trainer: Trainer, folder: Path) -> str:
    """The last line a person sees."""
    state = trainer.state
    progress = f"{state.global_step:,} updates, {state.env_steps:,} env steps · {shown(folder)}"
    if state.last_score is None:
        return f"no evaluation: there is no environment · {progress}"
    text = f"evaluation return {state.last_score:.4g} over {trainer.config.eval_episodes} episodes"
    if trainer.facts["config"]["env"]["tasks"]:
        text += " of each task"
    if state.best_step not in (None, state.last_eval_step):
        text += f" (best {state.best_score:.4g} at update {state.best_step:,})"
    return f"{text} · {progress}"
