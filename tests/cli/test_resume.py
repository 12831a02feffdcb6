"""`resume=RUN` and `resume=auto`: what they continue, what may change, what is refused."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import TINY
from worldflux.cli.main import main
from worldflux.envs.make import make_envs
from worldflux.models.dreamerv3.agent import DreamerV3Agent
from worldflux.run_folder.disk import seal
from worldflux.run_folder.manifest import SCHEMA, plain, read_manifest, write_manifest
from worldflux.run_folder.state import claim
from worldflux.runner.fitting import for_environment


def leave(run: Path, config: Any, status: str = "stopped", checkpoint: bool = True) -> None:
    """What a run of that configuration leaves in its folder, as far as resuming looks at it."""
    content = {"schema_version": SCHEMA, "status": status, "config": plain(config)}
    write_manifest(run, content)
    if checkpoint:
        folder = run / "checkpoints" / "step_000000001"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(seal({"state": {"resumable": True}}))


@pytest.fixture
def begun(jobs: list[Any], folder: Path) -> Callable[..., Path]:
    """Starts a run with these words that ends with that status; gives its folder as one types it."""

    def begin(*words: str, status: str = "stopped", checkpoint: bool = True) -> Path:
        assert main([*words, f"hydra.run.dir=outputs/2026-01-01/{len(jobs):02d}"]) == 0
        config, run = jobs[-1]
        leave(run, config, status, checkpoint)
        return run.relative_to(folder)

    return begin


def digest(folder: Path) -> dict[str, str]:
    files = sorted((folder / ".hydra").iterdir())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_resume_composes_what_the_run_was_started_with(
    jobs: list[Any], begun: Callable[..., Path], folder: Path, refused: Callable[..., str]
) -> None:
    run = begun("env=pendulum", "model/size=ci", "training.seed=5", "env.import=math")
    before = digest(run)
    assert main([f"resume={run}", "training.total_steps=77", "training.log_interval=7"]) == 0
    (first, _), (second, second_dir) = jobs
    assert (second_dir, second.resume) == (folder / run, str(run))
    assert second.training == first.training.with_updates(total_steps=77, log_interval=7)
    assert (second.model, second.env, second.data) == (first.model, first.env, first.data)
    assert digest(run) == before
    assert len(list((folder / "outputs").glob("*/*"))) == 1
    assert "keeps its own groups" in refused(f"resume={run}", "model=tdmpc2")
    assert "'total_steps'" in refused(f"resume={run}", "training.stepz=3")
    assert "batch_size must be >= 1" in refused(f"resume={run}", "training.batch_size=0")
    assert f"it holds 1 runs, for example {run}" in refused(f"resume={run.parent}")


@pytest.mark.parametrize(
    "word",
    [
        "training.batch_size=8",
        "training.learning_rate=1e-5",
        "data.capacity=5000",
        "env.id=Acrobot-v1",
        "+env.kwargs.g=9.0",
    ],
)
def test_a_setting_that_makes_it_another_run_is_refused_by_name(
    begun: Callable[..., Path], refused: Callable[..., str], word: str
) -> None:
    run = begun("model/size=ci")
    line = refused(f"resume={run}", word)
    key = word.lstrip("+").split("=")[0].removesuffix(".g")
    assert line.startswith(f"{key} cannot change on resume: it is ")
    assert f"init_from={run} starts a new run" in line


def test_what_an_earlier_resume_changed_stays(
    jobs: list[Any], begun: Callable[..., Path], folder: Path
) -> None:
    run = begun("model/size=ci")
    assert main([f"resume={run}", "training.total_steps=9_000", "logger.tensorboard=false"]) == 0
    shutil.rmtree(run / "checkpoints")
    leave(folder / run, jobs[-1][0])
    assert main([f"resume={run}", "training.eval_episodes=3"]) == 0
    config = jobs[-1][0]
    assert (config.training.total_steps, config.logger.tensorboard) == (9_000, False)
    assert config.training.eval_episodes == 3


def test_a_run_without_a_checkpoint_says_what_to_do(
    jobs: list[Any], begun: Callable[..., Path], refused: Callable[..., str]
) -> None:
    run = begun("model/size=ci", status="running", checkpoint=False)
    line = refused(f"resume={run}")
    assert line.startswith(f"{run} has no checkpoint yet") and "Start it anew" in line
    # The best one, saved without its replay, is none to continue from.
    leave(run, jobs[-1][0], "running")
    state = run / "checkpoints" / "step_000000001" / "state.json"
    state.write_text(seal({"state": {"resumable": False}}))
    assert "has no checkpoint yet" in refused(f"resume={run}")


@pytest.mark.slow
def test_auto_continues_the_newest_unfinished_run_of_the_same_configuration(
    jobs: list[Any], begun: Callable[..., Path], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["model/size=ci", "training.seed=3"]
    assert main([*words, "resume=auto"]) == 0
    assert "nothing to continue, a new run begins" in capfd.readouterr().err
    shutil.rmtree(jobs[-1][1])
    older = begun(*words, status="running")  # its process was killed
    newer = begun(*words, status="failed")
    os.utime(older / "run_manifest.json", (time.time() - 60,) * 2)
    begun(*words, status="completed")
    begun(*words, checkpoint=False)
    begun("model/size=ci", "training.seed=4")
    busy = begun(*words)
    before = digest(newer)
    with claim(busy):
        assert main([*words, "resume=auto", "training.total_steps=9_000"]) == 0
        config, run_dir = jobs[-1]
        assert (run_dir, config.resume) == (folder / newer, str(newer))
        assert (config.training.seed, config.training.total_steps) == (3, 9_000)
        assert f"resume=auto continues {newer}" in capfd.readouterr().err
        assert digest(newer) == before
        leave_complete = read_manifest(folder / newer) | {"status": "completed"}
        write_manifest(folder / newer, leave_complete)
        assert main([*words, "resume=auto"]) == 0
        assert jobs[-1][1] == folder / older
        write_manifest(folder / older, leave_complete)
        assert main([*words, "resume=auto"]) == 0
        assert jobs[-1][0].resume == "auto" and not (jobs[-1][1] / "checkpoints").exists()


def test_what_the_environment_decided_is_no_change(
    jobs: list[Any],
    begun: Callable[..., Path],
    folder: Path,
    refused: Callable[..., str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ["env=pendulum", "model=tdmpc2", "model/size=1m"]
    run = begun(*words)
    config = jobs[-1][0]
    envs = make_envs(config.env)
    met = replace(config, model=for_environment(config.model, envs))
    envs.close()
    assert met.model.obs_shape == (3,) and met.model.episode_length == 200
    leave(folder / run, met, checkpoint=False)
    for resume in (f"resume={run}", "resume=auto"):
        assert main([*(words if "auto" in resume else []), resume]) == 0
        assert jobs[-1][0].resume == str(run)
    capfd.readouterr()
    line = refused(f"resume={run}", "model.episode_length=100")
    assert line.startswith("model.episode_length cannot change on resume: it is 200 in ")


@pytest.mark.slow
def test_auto_with_a_folder_continues_that_one_or_starts_in_it(
    jobs: list[Any],
    folder: Path,
    refused: Callable[..., str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ["model/size=ci", "hydra.run.dir=job", "resume=auto"]
    assert main(words) == 0
    config, run = jobs[-1]
    assert (run, config.resume) == (folder / "job", "auto")
    leave(run, config, "running", checkpoint=False)  # killed before its first checkpoint
    assert main(words) == 0 and jobs[-1][0].resume == "auto"
    leave(run, config, "running")
    assert main(words) == 0
    assert (jobs[-1][1], jobs[-1][0].resume) == (run, "job")
    capfd.readouterr()
    line = refused(*words, "training.batch_size=4")
    assert line.startswith("training.batch_size cannot change on resume: it is 16 in ")
    with claim(run):
        pass
    pid = os.fork()
    if pid == 0:
        with claim(run):
            signal.pause()
    try:
        while not (run / "run.lock").read_bytes():
            time.sleep(0.01)
        assert f"is being written by process {pid}" in refused(*words)
        before = digest(run)
        line = refused("model/size=ci", "training.seed=7", "hydra.run.dir=job")
        assert f"is being written by process {pid}" in line and digest(run) == before
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_run_whose_manifest_lacks_its_configuration_resumes_from_what_hydra_saved(
    jobs: list[Any], begun: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run = begun("model/size=ci", "training.seed=5")
    write_manifest(run, {"schema_version": SCHEMA, "status": "stopped"})
    assert main([f"resume={run}"]) == 0
    assert jobs[-1][0].training.seed == 5
    assert "".join(capfd.readouterr()).count(".hydra/config.yaml is read instead") == 1


@pytest.mark.slow
def test_the_same_command_again_continues_a_stopped_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, "training.total_steps=4", "hydra.run.dir=job", "resume=auto"]
    words.remove("training.total_steps=2")
    update, done = DreamerV3Agent.update, []

    def interrupted(agent: Any, batch: Any, carry: Any) -> Any:
        done.append(1)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGUSR1)
        return update(agent, batch, carry)

    monkeypatch.setattr(DreamerV3Agent, "update", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0 and read_manifest(folder / "job")["status"] == "stopped"
    assert main(words) == 0
    assert len(done) == 4 and read_manifest(folder / "job")["global_step"] == 4
    assert main(["resume=job"]) == 0
    assert len(done) == 4  # it was complete
