"""`worldflux eval` on model folders and with another environment than the run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worldflux import create_world_model
from worldflux.cli.main import main
from worldflux.cli.verbs import main as worldflux
from worldflux.config.env import EnvConfig
from worldflux.config.spaces import Space, Task
from worldflux.runner.trained import chosen_env

SMALL: dict[str, Any] = dict(num_samples=16, num_elites=4, num_pi_trajs=2, iterations=2)
SHORT = ["env=pendulum", "env.time_limit=9"]


def evaluate(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert worldflux(["eval", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a command line that is wrong."""
    assert worldflux(["eval", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("worldflux eval: error: ")
    return err.removeprefix("worldflux eval: error: ").strip()


@pytest.fixture
def tdmpc2(folder: Path) -> str:
    create_world_model("tdmpc2:ci", obs_shape=(3,), action_dim=1, **SMALL).save_pretrained("td")
    return "td"


def test_a_saved_model_plays_where_it_is_told(
    tdmpc2: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = evaluate(capsys, tdmpc2, *SHORT, "--episodes", "2")
    assert report["episodes"] == 2 and report["lengths"] == [9, 9]
    assert report["env"] == "Pendulum-v1" and report["checkpoint"] is None
    again = evaluate(capsys, tdmpc2, "--episodes", "2", "env=gym", "env.id=Pendulum-v1", SHORT[1])
    assert again["returns"] == report["returns"]


def test_a_video_is_written_into_the_model_folder(
    tdmpc2: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pygame", reason="needs the extra render (pygame)")
    report = evaluate(capsys, tdmpc2, "--episodes", "1", "--video", *SHORT)
    assert report["video"] == "td/videos/eval_Pendulum-v1.gif"
    assert Path(report["video"]).read_bytes().startswith(b"GIF8")


def test_dreamerv3_plays_too_under_another_observation_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    observed = {"vector": {"shape": (4,)}}
    model = create_world_model(
        "dreamerv3:ci",
        observation_modalities=observed,
        action_spec={"kind": "discrete", "dim": 2},
        actor_critic=True,
    )
    model.save_pretrained("dream")
    report = evaluate(capsys, "dream", "env=cartpole", "env.time_limit=7", "--episodes", "2")
    assert len(report["returns"]) == 2 and max(report["lengths"]) <= 7
    create_world_model("dreamerv3:ci", obs_shape=(4,), action_dim=2).save_pretrained("blind")
    assert "without an actor" in said(capsys, "blind", "env=cartpole")


def test_what_is_missing_or_does_not_fit_is_one_line(
    tdmpc2: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, tdmpc2).endswith("name one, for example env=dmc env.id=walker-walk")
    assert said(capsys, tdmpc2, "env=gym") == "env.id must be given, e.g. env.id=..."
    wide = said(capsys, tdmpc2, "env=gym", "env.id=MountainCarContinuous-v0")
    assert wide == (
        "td does not fit env.id=MountainCarContinuous-v0: obs_shape is (3,), but the environment"
        " has (2,)"
    )
    assert "did you mean 'Pendulum-v1'" in said(capsys, tdmpc2, "env.id=Pendulun-v1")
    assert "unknown key 'env.idd'" in said(capsys, tdmpc2, "env=gym", "env.idd=3")
    assert "only env can be overridden" in said(capsys, tdmpc2, "training.seed=3")
    assert "not a sweep" in said(capsys, tdmpc2, "env=gym,dmc")
    assert "no run folder" in said(capsys, "nowhere", *SHORT)


def test_a_multitask_model_plays_each_task_or_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["Pendulum-v1", "MountainCarContinuous-v0"]
    common: dict[str, Any] = dict(obs_shape=(3,), action_dim=1, num_tasks=2, task_dim=4, **SMALL)
    create_world_model("tdmpc2:ci", task_names=names, **common).save_pretrained("named")
    create_world_model("tdmpc2:ci", **common).save_pretrained("unnamed")
    both = f"env.tasks=[{','.join(names)}]"
    for model in ("named", "unnamed"):
        report = evaluate(capsys, model, both, "env.time_limit=6", "--episodes", "1")
        assert list(report["tasks"]) == names and report["episodes"] == 2
    words = ["env.id=MountainCarContinuous-v0", "env.time_limit=6", "--episodes", "1"]
    assert evaluate(capsys, "named", *words)["episodes"] == 1
    assert "2 tasks that are not named" in said(capsys, "unnamed", *words)


def test_a_run_plays_in_its_environment_changed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [f"model.{key}={value}" for key, value in SMALL.items()]
    tiny += ["data.prefill_steps=30", "data.pretrain_updates=1", "data.capacity=200"]
    tiny += ["training.total_steps=2", "training.batch_size=4", "training.eval_episodes=1"]
    words = ["model=tdmpc2", "model/size=ci", *SHORT, "+env.kwargs.g=9.5", "logger=jsonl"]
    assert main([*words, *tiny, "hydra.run.dir=run"]) == 0
    capsys.readouterr()
    assert evaluate(capsys, "run", "--episodes", "1")["lengths"] == [9]
    assert evaluate(capsys, "run", "env.time_limit=4", "--episodes", "1")["lengths"] == [4]
    lighter = evaluate(capsys, "run", "+env.kwargs.g=1.0", "--episodes", "1")
    assert lighter["returns"] != evaluate(capsys, "run", "--episodes", "1")["returns"]
    assert "does not fit env.id=MountainCarContinuous-v0" in said(
        capsys, "run", "env.id=MountainCarContinuous-v0"
    )


def test_an_official_checkpoint_plays_as_its_imported_folder(
    tdmpc2: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert worldflux(["export", "tdmpc2", tdmpc2, "--out", "pole.pt"]) == 0
    settings = [f"{name}={value}" for name, value in SMALL.items()]
    capsys.readouterr()
    words = [*SHORT, "--episodes", "1", "--json"]
    assert worldflux(["eval", "pole.pt", *settings, *words]) == 0
    out, err = capsys.readouterr()
    assert "simnorm_dim=8" in err and "num_samples" not in err
    report, folder = json.loads(out), evaluate(capsys, tdmpc2, *words[:-1])
    assert report["run"] == "pole.pt" and report["returns"] == folder["returns"]
    Path("settings.json").write_text(json.dumps(SMALL | {"num_q": 9}))
    wrong = said(capsys, "pole.pt", *SHORT, "--config", "settings.json")
    assert wrong.startswith("settings.json: num_q is 9, but the weights have")
    assert "knows no environment" in said(capsys, "pole.pt", *settings)
    assert "simnorm_dims" in said(capsys, "pole.pt", *SHORT, "simnorm_dims=8")
    assert "none" in said(capsys, tdmpc2, *SHORT, "--config", "settings.json")


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["", "+", "++"])
@pytest.mark.parametrize("recorded", [{}, {"g": 9.5}, {"g": 9.5, "render_mode": None}], ids=len)
def test_arguments_of_an_environment_are_set_in_each_spelling(
    sign: str, recorded: dict[str, Any]
) -> None:
    env = EnvConfig(id="Pendulum-v1", kwargs=recorded)
    chosen = chosen_env("tdmpc2", [f"{sign}env.kwargs.g=1.0"], env)
    assert chosen.kwargs == {**recorded, "g": 1.0}
    if recorded:
        left = {key: value for key, value in recorded.items() if key != "g"}
        assert chosen_env("tdmpc2", ["~env.kwargs.g"], env).kwargs == left
    named = ["env=pendulum", f"{sign}env.kwargs={{g:1.0}}"]  # whose YAML has no such key
    assert chosen_env("tdmpc2", named).kwargs == {"g": 1.0}


def test_task_layouts_take_widths_from_the_model() -> None:
    from worldflux import TDMPC2Config
    from worldflux.runner.trained import layout_of

    config = TDMPC2Config.from_size("ci").with_spaces(
        {"obs": Space((5,)), "task": Space((), "int64", (2,))},
        {"action": Space((3,))},
        (Task("a", 5, 1, 10), Task("b", 2, 3, None)),
    )
    layout = layout_of(config, EnvConfig())
    assert layout is not None and (layout.obs_dim, layout.action_dim) == (5, 3)
    assert layout.tasks == (Task("a", 5, 1, 10), Task("b", 5, 3, None))
