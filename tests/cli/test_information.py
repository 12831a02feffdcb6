"""Commands that only print: fast, without torch, and complete."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from worldflux import __version__
from worldflux.cli import verbs
from worldflux.cli.main import main

# Official counts: scalar image64_disc6 and vec24_cont6 of the parity data.
IMAGE_DISCRETE = {
    "size1m": 686_456,
    "size12m": 10_492_616,
    "size25m": 23_487_016,
    "size50m": 41_646_984,
    "size100m": 93_463_624,
    "size200m": 165_942_536,
    "size400m": 372_887_176,
}

WITHOUT_TORCH = """
import sys
from worldflux.cli.main import main
code = main(sys.argv[1:])
print("torch" in sys.modules, code, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["--cfg", "job", "--resolve"], ["training.stepz=1"]]
)
def test_printing_does_not_load_torch(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr.splitlines()[-1].split()[0] == "False", done.stderr
    assert not list(tmp_path.iterdir())


def test_import_does_not_load_torch_or_hydra() -> None:
    code = (
        "import sys, worldflux, worldflux.training; print(sys.modules.keys() & {'torch','hydra'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_starting_a_run_does_not_load_what_only_draws_or_compiles() -> None:
    heavy = {"matplotlib", "torch._dynamo", "torch._inductor", "pandas", "scipy", "tensorboard"}
    code = f"import sys, worldflux.runner.run; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_help_lists_groups_and_examples(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "mine" / "env").mkdir(parents=True)
    (folder / "mine" / "env" / "kitchen.yaml").write_text("id: Kitchen-v0\n")
    assert main(["--help", "--config-dir", "mine"]) == 0
    text = capfd.readouterr().out
    for word in ("dreamerv3", "size400m", "317m", "kitchen", "+experiment", "resume=", "-m"):
        assert word in text


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"worldflux {__version__}\n"


def test_cfg_shows_what_would_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "job", "--resolve", "training.learning_rate=1e-3"]) == 0
    shown = OmegaConf.create(capfd.readouterr().out)
    assert shown.model.learning_rate == shown.training.learning_rate == 1e-3
    assert OmegaConf.is_missing(shown.model, "obs_shape")  # the environment decides
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("worldflux-run mod", "model"),
        ("worldflux-run model=", "model=dreamerv3"),
        ("worldflux-run model/size=size2", "model/size=size25m"),
        ("worldflux-run training.batch", "training.batch_size="),
        ("worldflux-run +experiment=atari", "+experiment=atari100k"),
    ],
)
def test_shell_completion(
    line: str,
    word: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert main(["-sc", "query=bash"]) == 0
    assert word in capfd.readouterr().out.split()


def models(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert verbs.main(["models", *words, "-f", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_models_tell_the_official_parameter_counts(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--obs", "3,64,64", "--action-type", "discrete"]
    rows = {row["id"]: row for row in models(capsys, *words)["models"]}
    for size, count in IMAGE_DISCRETE.items():
        assert rows[f"dreamerv3:{size}"]["parameters"] == count
    assert rows["tdmpc2:5m"]["parameters"] == 4_866_884


def test_models_count_tdmpc2_for_vectors(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--obs", "39", "--action-type", "continuous"]
    rows = {row["id"]: row["parameters"] for row in models(capsys, *words)["models"]}
    counts = {"1m": 1_218_491, "5m": 4_964_458, "19m": 18_077_802, "48m": 47_235_178}
    assert {size: rows[f"tdmpc2:{size}"] for size in counts} == counts
    assert rows["tdmpc2:317m"] == 312_656_857


def test_models_count_for_the_spaces_that_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    info = models(capsys, "info", "dreamer-small", "--obs", "24", "--action-type", "continuous")
    # The official count is for three keys (1 + 14 + 9 values), each with a decoder head: one key
    # of 24 has the same weights.
    assert (info["id"], info["parameters"]) == ("dreamerv3:size12m", 9_738_019)
    assert "dreamerv3" in info["aliases"]


def test_the_table_states_its_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    assert verbs.main(["models"]) == 0
    text = capsys.readouterr().out
    assert "observations 24, 6 continuous actions" in text
    assert "9,738,019" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["modls"], "Did you mean: 'models'"),
        (["models", "info", "dreamer-smal"], "Did you mean: 'dreamer-small'"),
        (["models", "info"], "info needs a model"),
        (["models", "--obs", "3,84,84"], "divisible by 16"),
    ],
)
def test_mistakes_of_the_verbs(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verbs.main(words) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_optuna_as_a_sweeper_leads_to_the_search(refused: Callable[..., str]) -> None:
    assert "`worldflux search NAME`" in refused("-m", "hydra/sweeper=optuna")


def test_a_pickle_is_never_loaded(refused: Callable[..., str]) -> None:
    assert "resume=RUN continues a run" in refused("--experimental-rerun", "x.pickle")


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "worldflux", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == f"worldflux {__version__}\n"
