"""Official multi-task and pixel checkpoints: read in both layouts, written back key for key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from worldflux import create_world_model
from worldflux.cli.verbs import main as worldflux
from worldflux.models.tdmpc2.official.tasks import official_tasks

PARTS = ("weight", "bias", "ln.weight", "ln.bias")
OBS, A, Z, D, HID, ENC, Q, BINS = 5, 3, 16, 4, 12, 10, 3, 11
DIMS = (3, 1, 2)


def mlp(sizes: list[int], normed_last: bool, lead: tuple[int, ...] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
        found[f"{i}.weight"] = torch.randn(*lead, b, a)
        found[f"{i}.bias"] = torch.randn(*lead, b)
        if normed_last or i < len(sizes) - 2:
            found[f"{i}.ln.weight"], found[f"{i}.ln.bias"] = torch.randn(2, *lead, b).unbind()
    return found


def official(*, tasks: tuple[int, ...] = (), pixels: bool = False) -> OrderedDict[str, Any]:
    """A file's entries as the official code orders them: own buffers, then modules in turn."""
    torch.manual_seed(0)
    dim = D if tasks else 0
    entries: OrderedDict[str, Any] = OrderedDict()
    if tasks:
        entries["_action_masks"] = torch.zeros(len(tasks), A)
        for row, count in enumerate(tasks):
            entries["_action_masks"][row, :count] = 1
    entries["log_std_min"], entries["log_std_dif"] = torch.tensor(-10), torch.tensor(12)
    if tasks:
        entries["_task_emb.weight"] = torch.randn(len(tasks), dim)
    parts = {}
    if pixels:
        channels, convolutions = 9, OrderedDict()
        for index, kernel in ((2, 7), (4, 5), (6, 3), (8, 3)):
            convolutions[f"{index}.weight"] = torch.randn(Z // 16, channels, kernel, kernel)
            convolutions[f"{index}.bias"] = torch.randn(Z // 16)
            channels = Z // 16
        parts["_encoder.rgb"] = convolutions
    else:
        parts["_encoder.state"] = mlp([OBS + dim, ENC, Z], True)
    parts["_dynamics"] = mlp([Z + dim + A, HID, HID, Z], True)
    parts["_reward"] = mlp([Z + dim + A, HID, HID, BINS], False)
    parts["_pi"] = mlp([Z + dim, HID, HID, 2 * A], False)
    for prefix, part in parts.items():
        entries.update((f"{prefix}.{key}", value) for key, value in part.items())
    ensembles = [mlp([Z + dim + A, HID, HID, BINS], False, (Q,)) for _ in range(2)]
    order = [("_Qs.params", 0), ("_detach_Qs_params", 0), ("_target_Qs_params", 1)]
    for prefix, which in order:
        for key, value in ensembles[which].items():
            entries[f"{prefix}.{key}"] = value.clone()
        entries[f"{prefix}.__batch_size"], entries[f"{prefix}.__device"] = torch.Size([Q]), None
    return entries


def old_layout(entries: OrderedDict[str, Any]) -> OrderedDict[str, Any]:
    """As released before November 2024: Q weights numbered, no buffers."""
    found: OrderedDict[str, Any] = OrderedDict()
    for name, value in entries.items():
        if not name.startswith(("_detach", "log_std", "_action_masks")) and "__" not in name:
            for new, old in (
                ("_Qs.params.", "_Qs.params."),
                ("_target_Qs_params.", "_target_Qs.params."),
            ):
                if name.startswith(new):
                    layer, _, part = name.removeprefix(new).partition(".")
                    name = f"{old}{4 * int(layer) + PARTS.index(part)}"
                    break
            found[name] = value
    return found


def save(entries: OrderedDict[str, Any], path: Path) -> str:
    torch.save({"model": entries}, path)
    return str(path)


def assert_written_back(model: str, entries: OrderedDict[str, Any], tmp_path: Path) -> None:
    written = tmp_path / "back.pt"
    assert worldflux(["export", "tdmpc2", model, "--out", str(written)]) == 0
    ours = torch.load(written, weights_only=True)["model"]
    assert list(ours) == list(entries)
    for name, value in entries.items():
        same = torch.equal(ours[name], value) if torch.is_tensor(value) else ours[name] == value
        assert same and type(ours[name]) is type(value), name


LAYOUTS: dict[str, Callable[[OrderedDict[str, Any]], OrderedDict[str, Any]]] = {
    "new": lambda entries: entries,
    "old": old_layout,
    "old with masks": lambda entries: OrderedDict(
        _action_masks=entries["_action_masks"], **old_layout(entries)
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_multitask_files_are_imported_and_written_back(layout: str, tmp_path: Path) -> None:
    entries, out = official(tasks=DIMS), str(tmp_path / "model")
    words = ["--action-dims", "3,1,2"] if layout == "old" else []
    file = save(LAYOUTS[layout](entries), tmp_path / "mt.pt")
    assert worldflux(["import", "tdmpc2", file, "--out", out, *words]) == 0
    config = create_world_model(out).config
    assert (config.num_tasks, config.task_dim, config.task_action_dims) == (3, D, DIMS)
    assert config.obs_shape == (OBS,) and config.action_dim == A
    assert_written_back(out, entries, tmp_path)


def test_an_old_file_of_unknown_tasks_asks_for_their_actions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(old_layout(official(tasks=DIMS)), tmp_path / "mt.pt")
    assert worldflux(["import", "tdmpc2", file, "--out", str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert "3 tasks" in error and "--action-dims" in error and error.count("\n") == 1
    words = ["--out", str(tmp_path / "model"), "--action-dims", "3,1"]
    assert worldflux(["import", "tdmpc2", file, *words]) == 2
    assert "task_action_dims must have 3 entries" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_masks_that_are_no_prefix_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = official(tasks=DIMS)
    entries["_action_masks"][1] = torch.tensor([0.0, 1.0, 0.0])
    file = save(entries, tmp_path / "mt.pt")
    assert worldflux(["import", "tdmpc2", file, "--out", str(tmp_path / "model")]) == 2
    assert "_action_masks" in capsys.readouterr().err


def test_pixel_files_are_imported_and_written_back(tmp_path: Path) -> None:
    entries, out = official(pixels=True), str(tmp_path / "model")
    file = save(entries, tmp_path / "rgb.pt")
    assert worldflux(["import", "tdmpc2", file, "--out", out]) == 0
    model = create_world_model(out)
    assert model.obs_spaces["obs"].shape == (9, 64, 64)
    assert model.obs_spaces["obs"].dtype == "uint8"
    assert_written_back(out, entries, tmp_path)


def test_the_official_sets_have_their_tasks() -> None:
    thirty, eighty = official_tasks(30), official_tasks(80)
    assert thirty is not None and eighty is not None and eighty[:30] == thirty
    assert len(thirty) == 30 and len(eighty) == 80 and official_tasks(3) is None
    assert thirty[1].name == "walker-walk" and thirty[1].action_dim == 6
    assert {task.episode_length for task in eighty[30:]} == {100}
    assert max(t.obs_dim for t in thirty) == 24 and max(t.obs_dim for t in eighty) == 39
    assert len({task.name for task in eighty}) == 80
