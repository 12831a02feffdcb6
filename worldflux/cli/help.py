"""What `worldflux-run --help` prints."""

from __future__ import annotations

from pathlib import Path

from worldflux.config.groups import CHOICES, EXPERIMENT
from worldflux.config.presets import conf_dir, size_names
from worldflux.models.families import OURS, conf_folders, model_types, names

_TEXT = """\
worldflux-run trains a world-model agent in an environment.

usage: worldflux-run [GROUP=OPTION ...] [KEY=VALUE ...] [flags]

Groups (GROUP=OPTION):
{groups}

Values (KEY=VALUE): any key that worldflux-run --cfg job shows. +KEY=VALUE adds to a free mapping
such as env.kwargs. KEY=??? leaves it to the environment where that is the default.

Examples:
  worldflux-run                                          train the default agent on CartPole
  worldflux-run env=gym env.id=LunarLander-v3            any Gymnasium environment
  worldflux-run model/size=size12m env=pixels env.id=CartPole-v1
  worldflux-run model={other} env=dmc 'env.tasks=[walker-walk,cup-catch]'  several tasks, one model
  worldflux-run training.total_steps=20_000 training.learning_rate=1e-4 model.hidden_dim=320
  worldflux-run -m 'training.seed=range(5)'              a sweep; every job is checked first
  worldflux-run -m sweep=families model={both} env=pendulum 'training.seed=range(3)'
                                                         a named one; again: goes on with it
  worldflux-run -m 'training.seed=range(5)' hydra/launcher=joblib  several jobs at a time, here
  worldflux-run -m 'training.seed=range(5)' hydra/launcher=slurm   the same on a cluster
  worldflux-run -m +experiment=classic_control           a recipe
  worldflux-run resume=outputs/2026-11-22/10-00-00       continue a stopped run
  worldflux-run hydra.run.dir=runs/a resume=auto         the same command begins and continues
  worldflux-run init_from=outputs/2026-11-22/10-00-00    a new run from its best weights
  worldflux-run --cfg job --resolve                      show what would run

Sweeps (with -m):
  sweep=NAME            folder outputs/multirun/NAME; without it, date and time. The same command
                        again skips completed jobs, resumes stopped ones, starts missing ones
  sweep.dry_run=true    list the jobs with their state, start none
  sweep.detach=true     submit to the cluster and leave

Flags:
  -m, --multirun        sweep over values separated by commas, range() and choice()
  -c, --cfg job         print the configuration instead of running; with --resolve, filled in
  -cd, --config-dir D   add the YAML files of folder D to the groups
  -i, --info            print how the configuration is put together
  -sc install=SHELL     shell completion: eval "$(worldflux-run -sc install=bash)"
  -V, --version         print the version
  -h, --help            print this; --help KEY or GROUP what it means; --hydra-help Hydra's own flags

Exit codes: 0 fine, 1 jobs of a sweep failed, 2 wrong input, 3 training stopped itself, 130 Ctrl-C.
"""


def help_text(config_dir: str | None) -> str:
    """The help, with the options of `conf/` and of the user's own folder."""
    folders = [conf_dir(), *conf_folders().values(), *([Path(config_dir)] if config_dir else [])]
    rows = {group: _options(folders, group) for group in CHOICES[:2]}  # model, model/size
    for kind, family in model_types().items():
        if sizes := size_names(kind):
            rows[f"  {family}"] = sizes
        rows["model/size"] = [name for name in rows["model/size"] if name not in sizes]
    for group in CHOICES[2:]:
        rows[group] = _options(folders, group)
    rows[f"+{EXPERIMENT}"] = _options(folders, EXPERIMENT)
    for group in ("model", "data", "training"):  # a family without a file has a stated default
        rows[group] = sorted({*rows[group], *names()})
    return _TEXT.format(
        groups="\n".join(_row(name, options) for name, options in rows.items()),
        other=OURS[-1].name,
        both=",".join(family.name for family in OURS),
    )


def _options(folders: list[Path], group: str) -> list[str]:
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _row(name: str, options: list[str]) -> str:
    return f"  {name:<14}{', '.join(options)}".rstrip()
