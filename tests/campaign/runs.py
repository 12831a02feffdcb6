"""Small real runs that trials damage, fill with traps or look at; made once."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.campaign.trials import SECONDS, Trial, Verdict, command, run_all

RUN = "worldflux-run"
FAMILIES = ("dreamerv3", "tdmpc2")
SMALL = [
    "training.batch_size=2",
    "training.save_interval=4",
    "training.eval_interval=4",
    "training.eval_episodes=2",
    "training.log_interval=2",
    "training.device=cpu",
    "training.num_envs=1",
    "training.compile_model=false",
    "data.prefill_steps=60",
    "data.capacity=400",
    "data.collect_steps_per_update=4",
    "data.train_ratio=null",
    "data.pretrain_updates=0",
    "env.time_limit=20",
]
OF_FAMILY = {
    "dreamerv3": ["model=dreamerv3", "model/size=ci", "env=cartpole", "training.sequence_length=6"]
    + ["model.imagination_horizon=3"],
    "tdmpc2": ["model=tdmpc2", "model/size=ci", "env=pendulum", "training.sequence_length=3"]
    + ["model.num_samples=16", "model.num_elites=4", "model.num_pi_trajs=4", "model.iterations=1"]
    + ["model.horizon=3"],
}
UPDATES, MORE = 12, 16  # of the run, and of its continuation


def small(family: str) -> list[str]:
    """The command line of a run of about two seconds."""
    return [*OF_FAMILY[family], *SMALL]


def make_runs(base: Path, continued: bool = False) -> None:
    """`base/FAMILY` for each family; continued: also what becomes of it when it goes on."""

    def act(family: str) -> Verdict:
        words = [
            *small(family),
            f"training.total_steps={UPDATES}",
            f"hydra.run.dir={base / family}",
        ]
        ended = command(RUN, *words)
        if ended.code == 0 and continued:
            after = base / f"{family}-continued"
            shutil.copytree(base / family, after)
            ended = command(RUN, f"resume={after}", f"training.total_steps={MORE}")
        return Verdict("right" if ended.code == 0 else "traceback", ended.text[-2000:])

    trials = [Trial(i, name, lambda _, name=name: act(name)) for i, name in enumerate(FAMILIES)]
    for trial, verdict in run_all(trials, base, 1, SECONDS):
        if verdict.kind != "right":
            raise RuntimeError(f"the run of {trial.name} failed: {verdict.detail}")
