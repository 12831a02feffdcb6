"""Every number that the official TD-MPC2 recorded, against what ours computes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.tdmpc2_reference import Reference
from tests.parity.comparison.compare import Comparison, Computation, Recorded, flatten_json
from tests.parity.comparison.tdmpc2 import compare_folder
from tests.parity.comparison.tdmpc2.folder import compare_checkpoint
from tests.parity.comparison.tdmpc2.plan import Planning
from tests.parity.comparison.tdmpc2.subject import Doubles, Subject
from tests.parity.comparison.tdmpc2.update import METRICS, Update
from tests.parity.test_strictness import array, edit
from worldflux.cli.verbs import main as worldflux
from worldflux.core.precision import Precision
from worldflux.errors import CheckpointError
from worldflux.models.tdmpc2.config import TDMPC2Config
from worldflux.models.tdmpc2.official.checkpoint import import_checkpoint
from worldflux.models.tdmpc2.official.weights import load_official
from worldflux.models.tdmpc2.world_model import TDMPC2

RECORDED = Path(__file__).parents[3] / "shared" / "parity" / "tdmpc2"
INSTANCES = ("base", "episodic")

# Trainable parameters that the official code counts, by (size, observation, action) widths.
COUNTS = {
    ("1m", 39, 6): 1_218_491,
    ("1m", 223, 38): 1_339_387,
    ("5m", 39, 6): 4_964_458,
    ("5m", 24, 6): 4_960_618,
    ("5m", 5, 1): 4_932_704,
    ("19m", 39, 6): 18_077_802,
    ("19m", 24, 6): 18_062_442,
    ("48m", 39, 6): 47_235_178,
    ("48m", 5, 1): 47_093_600,
    ("317m", 39, 6): 312_656_857,
}


@pytest.fixture(scope="module")
def recorded() -> Path:
    if not RECORDED.is_dir():
        pytest.skip(f"the recorded numbers are not there: {RECORDED}")
    return RECORDED


@pytest.fixture
def folder(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the base instance, to be spoilt."""
    return Path(shutil.copytree(recorded / "base", tmp_path / "base"))


@pytest.fixture
def failed(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], list[str]]:
    """Runs the script, which must exit with 1; returns the names of the rows that failed."""

    def run(folder: Path) -> list[str]:
        assert script.main(["tdmpc2", str(folder), "--failures"]) == 1
        return [row.split()[0] for row in capsys.readouterr().out.splitlines()[1:-1]]

    return run


def differing(folder: Path, how: Computation) -> list[str]:
    comparison = compare_folder(folder, how)
    assert len(comparison.rows) > 400
    return [str(row) for row in comparison.failures()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", INSTANCES)
def test_every_recorded_number_is_reproduced(recorded: Path, name: str, dtype: torch.dtype) -> None:
    assert differing(recorded / name, Computation(dtype)) == []


@pytest.mark.slow(90)
@pytest.mark.skipif(not shutil.which("g++"), reason="compiling needs a C++ compiler")
@pytest.mark.parametrize("name", INSTANCES)
def test_compiled_updates_and_plans_compute_the_same(recorded: Path, name: str) -> None:
    assert differing(recorded / name, Computation(compile=True)) == []


# Of bfloat16, whose numbers have 8 bits (a rounding of 4e-3), relative to the largest element:
# latents; losses of the model; values of plans, which multiply an error in symlog space by their
# size of about 100. Gradients: the cosine with the recorded ones, of each parameter.
HALF = {"latent": 2e-2, "loss": 1e-2, "values": 0.1, "cosine": 0.98}


@pytest.mark.parametrize("name", INSTANCES)
def test_bfloat16_keeps_its_tolerance(recorded: Path, name: str) -> None:
    folder = recorded / name
    config = {key: value.tolist() for key, value in flatten_json(folder / "config.json").items()}
    subject = Subject(config, Computation())
    agent, model = subject.agent, subject.model
    agent.precision = Precision(agent.device, torch.bfloat16)
    load_official(model, Recorded.load(folder / "weights.npz").arrays)
    numbers = Recorded.load(folder / "plan.npz")
    planning = Planning(subject, numbers, Comparison())
    first = model.observation({"obs": subject.tensor(numbers["in_plan_obs"])[:1]})
    with agent.precision.autocast():
        plan = agent.planner(first, planning.mean, torch.tensor([True]), planning.noise("plan0"))
    expected = numbers["out_plan0_values"]
    error = (
        np.abs(torch.cat([r.values for r in plan.rounds]).numpy() - expected).max()
        / np.abs(expected).max()
    )
    assert 1e-4 < error < HALF["values"]  # a smaller error would be float32's
    best = set(numbers["out_plan0_elite_idx"][0])
    assert len(best & set(plan.rounds[0].elites[0].tolist())) >= 0.9 * len(best)
    numbers = Recorded.load(folder / "update.npz")
    update = Update(subject, folder, Doubles({}, ""), Comparison())
    metrics, step = update.update(subject.batch(numbers), update.noise(0, numbers))
    for recorded_name in ("consistency_loss", "reward_loss", "value_loss", "total_loss"):
        ours = float(metrics[METRICS[recorded_name]])
        assert ours == pytest.approx(float(numbers[f"out_upd0_{recorded_name}"]), rel=HALF["loss"])
    latent, expected = step.latent.detach().float().numpy(), numbers["out_upd0_zs"]
    assert np.abs(latent - expected).max() < HALF["latent"] * np.abs(expected).max()
    gradients = Recorded.load(folder / "update_grads1.npz")
    for official, ours in subject.names.items():
        if ours in agent.gradients:
            pair = agent.gradients[ours].flatten(), torch.from_numpy(gradients[official]).flatten()
            assert torch.cosine_similarity(*pair, dim=0) > HALF["cosine"], official


@pytest.mark.parametrize("spaces", COUNTS, ids=str)
def test_presets_have_the_official_parameter_counts(spaces: tuple[str, int, int]) -> None:
    size, obs, action = spaces
    with torch.device("meta"):
        model = TDMPC2(TDMPC2Config.from_size(size, obs_shape=(obs,), action_dim=action))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == COUNTS[spaces]


def test_the_termination_head_has_the_official_parameter_count() -> None:
    with torch.device("meta"):
        model = TDMPC2(TDMPC2Config.from_size("5m", obs_shape=(39,), action_dim=6, episodic=True))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 5_492_331


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("forward.npz", "out_next"),
        ("update.npz", "out_upd1_td_targets"),
        ("update_grads1.npz", "_Qs.params.1.weight"),
        ("plan.npz", "out_plan1_means"),
        ("float64_outputs.npz", "upd2_zs"),
        ("checkpoint_io.npz", "out_q_avg"),
    ],
)
def test_one_wrong_element_fails_its_array(
    folder: Path, failed: Callable, file: str, name: str
) -> None:
    wrong = array(folder / file, name)
    last = tuple(n - 1 for n in wrong.shape)
    wrong[last] += 1e-2 * (1 + abs(wrong[last]))
    edit(folder / file, **{name: wrong})
    rows = failed(folder)
    assert rows and all(row.endswith(name) for row in rows)


def test_what_is_missing_or_not_known_fails(folder: Path, failed: Callable) -> None:
    edit(folder / "forward.npz", out_encode=None, out_mystery=np.ones(2))
    edit(folder / "update_params3.npz", **{"_pi.9.weight": np.ones(2)})
    (folder / "plan.npz").unlink()
    (folder / "more.npz").write_bytes(b"")
    expected = {"forward/out_encode", "forward/out_mystery", "update_params3/_pi.9.weight"}
    assert set(failed(folder)) == expected | {"plan.npz", "more.npz"}


def test_another_elite_fails(folder: Path, failed: Callable) -> None:
    wrong = array(folder / "plan.npz", "out_plan2_elite_idx")
    wrong[3, 5] = next(i for i in range(128) if i not in wrong[3])
    edit(folder / "plan.npz", out_plan2_elite_idx=wrong)
    assert failed(folder) == ["plan/out_plan2_elite_idx"]


def test_float64_rows_allow_what_float32_makes_of_them(folder: Path) -> None:
    file = folder / "float32_vs_float64.json"
    wrong = array(folder / "float64_outputs.npz", "encode")
    wrong[0, 0] += 1e-3
    edit(folder / "float64_outputs.npz", encode=wrong)
    label = "float64_outputs/encode"

    def verdict(dtype: torch.dtype) -> bool:
        (row,) = [r for r in compare_folder(folder, Computation(dtype)).rows if r.name == label]
        return row.ok

    assert not verdict(torch.float32)
    rounding = json.loads(file.read_text())
    rounding["encode"]["max_abs"] = 1e-3
    file.write_text(json.dumps(rounding))
    assert verdict(torch.float32) and not verdict(torch.float64)


# === Checkpoints ===========================================================================


@pytest.mark.parametrize("file", ["base/agent.pt", "base/agent_oldformat.pt", "episodic/agent.pt"])
def test_both_layouts_are_imported_and_written_back(
    recorded: Path, tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, written = str(tmp_path / "model"), tmp_path / "back.pt"
    assert worldflux(["import", "tdmpc2", str(recorded / file), "--out", model]) == 0
    count = "84,818" if "base" in file else "40,581"
    assert count in capsys.readouterr().out
    assert worldflux(["export", "tdmpc2", model, "--out", str(written)]) == 0
    ours = torch.load(written, weights_only=True)["model"]
    theirs = torch.load(recorded / file.replace("_oldformat", ""), weights_only=True)["model"]
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        same = torch.equal(ours[name], value) if torch.is_tensor(value) else ours[name] == value
        assert same and type(ours[name]) is type(value), name


@pytest.mark.parametrize("name", ["agent.pt", "agent_oldformat.pt"])
def test_a_checkpoint_is_compared_with_the_settings_of_its_folder(folder: Path, name: str) -> None:
    """Groups of 6 and bins from -5 to 8: what the folder should hold, by the formulas in float64."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"simnorm_dim": 6, "vmin": -5, "vmax": 8, "bin_size": 0.13}
    (folder / "config.json").write_text(json.dumps(config))
    weights = torch.load(folder / "agent.pt", weights_only=True)["model"]
    arrays = {key: value.numpy() for key, value in weights.items() if torch.is_tensor(value)}
    reference = Reference(arrays, group=6, bins=(-5, 8))
    z = reference.encode(array(folder / "checkpoint_io.npz", "in_obs").astype(np.float64))
    action = reference.pi(z, np.zeros((len(z), 6)))[0]
    values = np.stack([reference.q(z, action, None, i, False) for i in range(5)])[..., None]
    index = array(folder / "checkpoint_io.npz", "noise_qidx")
    outputs = {"encode": z, "pi_mean": action, "q_all_values": values}
    outputs |= {"q_avg_all": values.mean(0), "q_avg": values[index].mean(0)}
    recorded = {f"out_{key}": value.astype(np.float32) for key, value in outputs.items()}
    edit(folder / "checkpoint_io.npz", **recorded)
    doubles = Doubles({f"ck_{key}": value for key, value in outputs.items()}, "")
    for dtype in (torch.float32, torch.float64):
        comparison = Comparison()
        compare_checkpoint(folder, name, config, doubles, comparison, Computation(dtype))
        assert comparison.ok and len(comparison.rows) > 40, comparison.failures()


SPOILS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (lambda w: w.pop("_reward.1.bias"), "missing: _reward.1.bias"),
    "extra": (lambda w: w.update(odd=torch.ones(1)), "not known: odd"),
    "shape": (
        lambda w: w.update({"_pi.0.bias": torch.ones(3)}),
        r"_pi.0.bias \[3\], expected \[52\]",
    ),
    "tasks": (lambda w: w.update({"_task_emb.weight": torch.ones(1)}), "belong to no model"),
    "masks": (lambda w: w.update({"_task_emb.weight": torch.ones(3, 4)}), "give --action-dims"),
    "pixels": (lambda w: w.update({"_encoder.rgb.2.weight": torch.ones(32, 9, 7, 7)}), "missing"),
    "encoder": (lambda w: w.pop("_encoder.state.0.weight"), "_encoder.state"),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_files_that_do_not_fit_are_refused(recorded: Path, tmp_path: Path, spoil: str) -> None:
    content = torch.load(recorded / "base/agent.pt", weights_only=True)
    change, words = SPOILS[spoil]
    change(content["model"])
    torch.save(content, tmp_path / "agent.pt")
    with pytest.raises(CheckpointError, match=words):
        import_checkpoint(tmp_path / "agent.pt", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_damaged_files_are_refused_in_one_line(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = (recorded / "base/agent.pt").read_bytes()[:5000]
    (tmp_path / "half.pt").write_bytes(half)
    torch.save({"weights": 3}, tmp_path / "other.pt")
    for name in ("half.pt", "other.pt", "none.pt"):
        words = ["import", "tdmpc2", str(tmp_path / name), "--out", str(tmp_path / "model")]
        assert worldflux(words) == 2
        error = capsys.readouterr().err
        assert name in error and error.count("\n") == 1


class Trap:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def test_nothing_in_a_file_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"_pi.0.weight": Trap()}}, tmp_path / "trap.pt")
    assert worldflux(["import", "tdmpc2", "trap.pt", "--out", "model"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()
