"""One training run: builds environments, model, agent and source, trains, evaluates."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from worldflux.config.model import WorldModelConfig
from worldflux.config.training import TrainingConfig
from worldflux.core.agent import Agent
from worldflux.core.ranks import ALONE, Ranks
from worldflux.dashboard.live import LiveDashboard
from worldflux.data.ratio import updates_per_step
from worldflux.data.sources import Sequences, Source, make_source, try_envs
from worldflux.envs.make import make_envs
from worldflux.envs.vector import VectorEnv
from worldflux.errors import DiskError, WorldFluxError
from worldflux.models.factory import model_class
from worldflux.report.curves import draw_run
from worldflux.run_folder.checkpoints import has_checkpoint
from worldflux.run_folder.disk import shown
from worldflux.run_folder.manifest import degrading, plain
from worldflux.run_folder.state import claim
from worldflux.runner.continuation import AUTO, check_same_run, continues
from worldflux.runner.fitting import for_environment
from worldflux.runner.preflight import one_environment
from worldflux.training.evaluate import Evaluation, Evaluator, GreedyEvaluator
from worldflux.training.initial import InitialWeights
from worldflux.training.parallel import rank_seed
from worldflux.training.progress import Progress
from worldflux.training.seed import set_seed
from worldflux.training.trainer import Trainer

if TYPE_CHECKING:
    from worldflux.config.run import RunConfig
    from worldflux.project.runtime import Project

EVALUATION_UNAVAILABLE = "evaluation_unavailable"

log = logging.getLogger("worldflux.run")


def run(
    config: RunConfig, run_dir: Path, project: Project | None = None, ranks: Ranks = ALONE
) -> float:
    """Trains one agent as the configuration says and returns its final evaluation score, the mean
    return of ``training.eval_episodes`` greedy episodes (NaN where there is no environment).

    run_dir: where everything the run is goes; with ``config.resume`` the run continues in that
    folder instead, with ``resume=auto`` in run_dir if it has a checkpoint there. A stop signal ends
    it with SystemExit(0), Ctrl-C with KeyboardInterrupt, each after a checkpoint and a line that
    says how to continue. project: the files beside a worldflux.toml, whose data and page are used.
    ranks: the ``training.nproc`` processes that train it together; the first one evaluates and
    writes.
    """
    folder = folder_of(config, run_dir)
    if not ranks.first:
        hidden = replace(config.visualization, enabled=False)
        config = replace(config, visualization=hidden)
    page = LiveDashboard.of if project is None else project.dashboard
    with claim(folder) if ranks.first else nullcontext():
        resume = ranks.share_object(ranks.first and _resumes(config, folder))
        with page(config, folder) as live:
            return _run(config, folder, resume, live, project, ranks)


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
    project: Project | None,
    ranks: Ranks,
) -> float:
    training = config.training
    set_seed(training.seed)
    model_config, envs = config.model, None
    if project is not None and project.model is not None:
        model_config = project.model
    else:
        envs = training_envs(config, ranks, render=live.renders)
    if envs is not None:
        model_config = for_environment(model_config, envs)
        _warn_endless(envs)
    if resume and has_checkpoint(folder):
        check_same_run(folder, replace(config, model=model_config))
    source: Source | None = None
    try:
        agent = make_agent(model_config, training)
        facts = {**run_facts(config, agent.model), **(project.facts if project else {})}
        if config.init_from is not None and not resume:
            weights = InitialWeights.find(config.init_from)
            weights.check(model_config)
            weights.load_into(agent.model)
            facts |= weights.facts()
        evaluator = _evaluator(config, model_config, envs) if ranks.first else None
        source = _source(config, envs, agent, model_config, project, ranks)
        live.watch(source)
        trainer = Trainer(
            agent,
            training,
            live.callbacks,
            run_dir=folder,
            evaluator=evaluator,
            solved_return=config.env.solved_return,
            facts=facts,
            tensorboard=config.logger.tensorboard,
            progress=_progress(config) if ranks.first else None,
            degraded_modes=lambda: [
                *live.degraded_modes,
                *(project.page_modes if project else ()),
                *getattr(evaluator, "degraded_modes", ()),
            ],
            ranks=ranks,
        )
        _train(trainer, source, folder, resume, project)
    finally:
        if envs is not None:
            envs.close()
    log.info("%s", final_line(trainer, folder))
    tell_degraded(trainer)
    return math.nan if trainer.state.last_score is None else trainer.state.last_score


def _warn_endless(envs: VectorEnv) -> None:
    lengths = [task.episode_length for task in envs.tasks] or [envs.episode_length]
    if None in lengths:
        text = "no limit of its episodes is known; if one may never end, env.time_limit=N cuts it"
        log.warning("environment %s: %s", envs.name, text)


def _progress(config: RunConfig) -> Progress:
    return Progress("random data" if config.env.suite == "none" else config.env.id)


def _source(
    config: RunConfig,
    envs: VectorEnv | None,
    agent: Agent,
    model: WorldModelConfig,
    project: Project | None,
    ranks: Ranks,
) -> Source:
    """Where the batches come from: a project's own data, or what the configuration names."""
    data, training = config.data, config.training
    if project is not None and project.data is not None:
        return project.source(agent, training)
    if project is not None and project.failed:
        data = replace(data, source="random")
    sequences = Sequences(
        obs_spaces=model.obs_spaces(),
        action_spaces=model.action_spaces(),
        entry_spaces=agent.entry_spaces,
        batch_size=training.effective_batch_size() // ranks.size,
        sequence_length=training.sequence_length,
        replay_context=agent.replay_context,
        seed=rank_seed(training.seed, ranks.rank),
        ranks=ranks.size,
    )
    source = make_source(data, envs, sequences)
    if project is not None:
        source.degraded_modes.extend(project.degraded_modes)
    return source


def _evaluator(
    config: RunConfig, model: WorldModelConfig, envs: VectorEnv | None
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
    if config.data.on_env_failure == "degrade":
        return ToleratingEvaluator(evaluator_of(config))
    return evaluator_of(config)


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


def tell_degraded(trainer: Trainer) -> None:
    """The last word of a run that is no evidence of learning."""
    modes = degrading(trainer.all_degraded_modes())
    if modes:
        told = f"DEGRADED: {', '.join(modes)}"
    elif getattr(trainer.source, "data_mode", None) == "random":
        told = "RANDOM DATA, as asked for"
    else:
        return
    text = "this run counts as contract_smoke: the machinery works, nothing was learned"
    log.warning("%s; %s", told, text)


def training_envs(
    config: RunConfig, ranks: Ranks = ALONE, *, render: bool = False
) -> VectorEnv | None:
    """The environments to train in, this process's share of them; None where they cannot be made
    and the run may degrade."""
    training = config.training
    if config.env.suite == "none":
        return None
    seed = rank_seed(training.seed, ranks.rank)
    share = training.num_envs // ranks.size
    return try_envs(
        lambda: make_envs(
            config.env, num_envs=share, mode=training.env_mode, seed=seed, render=render
        ),
        config.data,
    )


def _train(
    trainer: Trainer, source: Source, folder: Path, resume: bool, project: Project | None
) -> None:
    draws = trainer.ranks.first
    try:
        trainer.train(source, resume_from=folder if resume else None)
    except DiskError:
        draws = False  # this error is the one to tell, and nothing more can be written
        raise
    except (KeyboardInterrupt, SystemExit):
        command = "worldflux-run resume=" if project is None else "worldflux train --resume-from "
        log.info("continue with: %s%s", command, shown(folder))
        raise
    finally:
        try:
            if draws:
                draw_run(folder)
        except OSError as error:
            log.warning("no learning curve was drawn: %s", error)


def make_agent(config: WorldModelConfig, training: TrainingConfig) -> Agent:
    """A fresh agent of the configured family."""
    model = model_class(config.model_type)(config)
    return model.make_agent(training, torch.device(training.resolve_device()))


def evaluator_of(config: RunConfig) -> GreedyEvaluator:
    """Greedy evaluation as configured."""
    training = config.training
    mode = "async" if training.env_mode == "async" else "sync"
    return GreedyEvaluator(config.env, episodes=training.eval_episodes, mode=mode)


def run_facts(config: RunConfig, model: Any) -> dict[str, Any]:
    """Manifest content that only the runner knows."""
    training = config.training
    rows = training.effective_batch_size()
    updates = None
    if config.data.source == "gym":
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
