"""Every mistake on the command line: one line, exit code 2, nothing on disk."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

CASES = {
    # keys
    "training.stepz=5": "unknown key 'training.stepz'.*'total_steps'",
    "+training.stepz=5": "unknown key 'training.stepz'.*'total_steps'",
    "++training.batchsize=5": "unknown key 'training.batchsize'.*'batch_size'",
    "+env.x=3": "unknown key 'env.x'",
    "+foo=3": "unknown key 'foo'",
    "batch_size=8": "Did you mean: 'training.batch_size'",
    "modle=dreamerv3": "Did you mean: 'model'",
    "env.improt=x": "Did you mean: 'import'",
    "model.latent_dim=3": "its latent is deter_dim",
    "training.use_ddp=true": "nproc=N trains with several processes",
    "model.loss_scales.rewrd=3": "Did you mean: 'reward'",
    "+model.loss_scales.rewrd=3": "Did you mean: 'reward'",
    "training.seed=1 training.seed=2": "given twice",
    "~training.seed": "cannot be removed",
    "~model": "cannot be removed",
    # groups
    "model=dreamer3": "options: dreamerv3, tdmpc2.*'dreamerv3'",
    "model=null": "model must name an option",
    "env=null": "env must name an option",
    "model.size=size50m": "model/size=",
    "model/size=size51m": "does not exist.*'size50m'",
    "model/size=5m": "'5m' is a size of tdmpc2",
    "model=tdmpc2 model/size=size50m": "tdmpc2 takes.*19m.*'size50m' is a size of dreamerv3",
    "model.model_type=tdmpc2": "set model=",
    "experiment=atari100k": "\\+experiment=",
    "+experiment=atari": "options: .*Did you mean: 'atari100k'",
    "foo/bar=3": "unknown group 'foo/bar'",
    "model=tdmpc2 model.num_elites=600": "model.num_elites must be <= num_samples",
    # values
    "training.total_steps=abc": "training.total_steps must be a whole number, got 'abc'",
    "training.total_steps=1.5": "whole number",
    "training.total_steps=1e6": "write 1_000_000",
    "training.total_steps=null": "not null",
    "training.total_steps=": "whole number",
    "training.total_steps=???": "training.total_steps must be given",
    "training.batch_size=0": "training.batch_size must be >= 1, got 0",
    "training.device=tpu": "training.device must be",
    "model.deter_dim=-5": "model.deter_dim must be >= 1, got -5",
    "model.obs_shape=3": "must be a list",
    "model.obs_shape=[3,84,84]": "divisible by 16",
    "env=gym": "env.id must be given",
    "data.collect_steps_per_update=1": "train_ratio are both given",
    "model.learning_rate=1": "set training.learning_rate",
    "model.actor_critic=false": "model.actor_critic must be true",
    "training.ema_decay=0.9": "training.ema_decay is not supported",
    "training.seed=${model.nope}": "refers to \\$\\{model.nope\\}",
    "training.seed=${oc.env:NO_SUCH_VARIABLE}": "NO_SUCH_VARIABLE",
    "hydra.run.dir=${training.nope}": "hydra.run.dir refers to",
    # the environment
    "env.id=CartPol-v1": "env.id=CartPol-v1: no such environment.*'CartPole-v1'",
    "env.import=no_such_module": "env.import=no_such_module",
    "+env.kwargs.foo=1": "env.kwargs",
    "model.obs_shape=[5]": "model.obs_shape is \\(5,\\), but the environment has \\(4,\\)",
    # the command line itself
    "training.total_steps=1,2": "add -m",
    "train": "no KEY=VALUE",
    "training.seed 3": "no KEY=VALUE",
    "a=[": "cannot read the override 'a=\\['",
    "--cfgg job": "unknown flag --cfgg.*'--cfg'",
    "-m --cfg job": "--multirun and --cfg do not go together; sweep.dry_run=true shows",
    "--cfg jobb": "--cfg takes job",
    "--config-dir nowhere": "no folder",
    "--cfg job training.batch_size=0": "training.batch_size must be >= 1",
    # sweeps: every job is checked before the first starts
    "-m training.batch_size=4,0": "training.batch_size must be >= 1, got 0",
    "-m model=dreamerv3,tdmpc2 training.batch_size=4,0": "training.batch_size must be >= 1",
    "-m training.seed=1,2 training.seed=3": "given twice",
    "-m training.seed=range(1000000000) training.batch_size=range(2,9)": "at most 10,000 jobs",
    "-m model/size=ci,5m": "'5m' is a size of tdmpc2",
    "-m env.id=CartPole-v1,Nope-v1": "env.id=Nope-v1",
    "-m +experiment=classic_control env.id=Pendulum-v1": "swept by the configuration",
    # resuming
    "resume=nowhere": "no such folder",
    "resume=.": ".hydra/config.yaml is missing",
    "-m resume=.": "leave out -m",
}


@pytest.mark.parametrize("line", CASES)
def test_one_line(line: str, refused: Callable[..., str]) -> None:
    assert re.search(CASES[line], refused(*line.split()))


FILES = {
    "stepz: 3": "in training/mine.yaml: unknown key 'training.stepz'",
    "total_steps: abc": "in training/mine.yaml: training.total_steps must be a whole number",
    "total_steps: [3\nseed: }": "broken YAML in .*mine.yaml, line 2",
    "total_steps: -1": "training.total_steps must be >= 1",
}


@pytest.mark.parametrize("content", FILES)
def test_a_users_own_file(content: str, folder: Path, refused: Callable[..., str]) -> None:
    (folder / "conf" / "training").mkdir(parents=True)
    (folder / "conf" / "training" / "mine.yaml").write_text(content)
    assert re.search(FILES[content], refused("--config-dir", "conf", "training=mine"))


def test_a_dashboard_without_its_library(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldflux.dashboard.server.importlib.util.find_spec", lambda name: None)
    assert "pip install 'worldflux[dashboard]'" in refused("dashboard=live")
