"""Reading worldflux.toml: what is accepted, and the one line for every mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.project.conftest import SAMPLES
from worldflux.config_loader import ProjectFileError, load_config
from worldflux.project.lines import lines_of
from worldflux.project.schema import parse
from worldflux.project.sections import SECTIONS

ACCEPTED = ("00_good", "14_obs_shape_scalar", "26_empty_file", "31_alias_model")
# What the line of a refused sample says, after file and line.
REFUSED = {
    "01": "line 1: Unknown top-level key: experiment",
    "02": "line 71: Unknown top-level key: optimizer",
    "03": "line 12: Unknown key 'training.grad_clip'",
    "04": "line 7: Unknown key 'architecture.latent_dim'",
    "05": "line 1: Section 'data' must be a TOML table",
    "06": "line 3: model: unknown family 'jepa'.*DreamerV3.*TD-MPC2",
    "07": "line 4: model_type must be one of dreamer, tdmpc2.*'jepa'",
    "08": "line 4: model_type 'tdmpc2' contradicts model 'dreamer:ci'",
    "09": "line 3: model: unknown family 'jepa'",
    "10": "line 13: training.batch_size must be a whole number, got 'lots'",
    "11": "line 13: training.batch_size must be a whole number, got '8'",
    "12": "line 13: training.batch_size must be a whole number, got 8.9",
    "13": "line 44: visualization.enabled must be true or false, got 'false'",
    "15": "line 7: architecture.obs_shape must be a list.*got '4'",
    "16": "line 7: architecture.obs_shape must hold whole numbers above 0.*got \\[\\]",
    "17": "line 7: architecture.obs_shape must hold whole numbers above 0.*got \\[-4\\]",
    "18": "line 8: architecture.action_dim must be >= 1, got 0",
    "19": "line 12: training.total_steps must be >= 1, got -5",
    "20": "line 3: model: tdmpc2 takes the sizes ci, .*5m.*got '6m'",
    "21": "line 16: training.device must be auto, cpu, cuda.*got 'banana'",
    "22": "line 22: data.source must be one of 'random', 'gym'.*'gym'\\?",
    "23": "line 17: training.backend must be 'native_torch'.*got 'jax'",
    "24": "line 71: broken TOML",
    "25": "line 46: visualization.port must be <= 65535, got 99999",
    "27": "line 14: training.sequence_length must be <= data.episode_length = 100, got 5000",
    "28": "line 56: verify.mode must be one of 'auto', 'quick', 'proof'; got 'fast'",
    "29": "line 29|line 15: training.learning_rate must be > 0, got 0",
    "30": "line 13: Unknown key 'training.Batch_Size'.*'batch_size'\\?",
    "32": "line 30: gameplay.fps must be >= 1, got 0",
}


def samples_in(folder: str) -> list[Path]:
    return sorted((SAMPLES / folder).glob("*.toml"))


@pytest.mark.parametrize("path", samples_in("."), ids=lambda path: path.stem)
def test_files_of_the_older_init_are_read(path: Path) -> None:
    config = load_config(path)
    assert config.project_name == path.stem.removeprefix("init_")
    assert config.raw["training"]["total_steps"] == config.training.total_steps
    assert config.model_type == config.model.split(":")[0]
    assert "[cloud]" in config.ignored and "[flywheel]" in config.ignored


@pytest.mark.parametrize("path", samples_in("bad"), ids=lambda path: path.stem)
def test_every_sample_gives_what_is_expected(path: Path) -> None:
    if path.stem in ACCEPTED:
        assert load_config(path).training.sequence_length == 50
        return
    with pytest.raises(ProjectFileError) as caught:
        load_config(path)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(str(path))
    assert re.search(REFUSED[path.stem[:2]], text), text


def read(text: str, tmp_path: Path) -> Any:
    path = tmp_path / "worldflux.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_an_empty_file_has_every_default(tmp_path: Path) -> None:
    config = read("", tmp_path)
    assert (config.project_name, config.environment) == (tmp_path.name, "custom")
    assert (config.model, config.model_type) == ("tdmpc2:ci", "tdmpc2")
    assert config.architecture.obs_shape == (3, 64, 64) and config.architecture.action_dim == 6
    assert (config.training.total_steps, config.training.learning_rate) == (100_000, 3e-4)
    assert (config.data.source, config.visualization.port) == ("random", 8765)
    assert config.explicit == frozenset() and config.ignored == []
    with pytest.raises(AttributeError):
        config.training.batch_size = 3
    assert read('environment = "atari"', tmp_path).model == "dreamer:ci"


def test_a_preset_decides_what_the_file_leaves_out(tmp_path: Path) -> None:
    config = read('model = "dreamerv3:size12m"\n[architecture]\nobs_shape = 4\n', tmp_path)
    assert (config.architecture.hidden_dim, config.architecture.obs_shape) == (256, (4,))
    assert config.model_type == "dreamer" and config.size == "size12m"


def test_spelling_that_older_files_may_have(tmp_path: Path) -> None:
    data = '[data]\nsource = " GYM "\ngym_env = " CartPole-v1 "\n'
    config = read(f'{data}[inference]\ncheckpoint = ""\n', tmp_path)
    assert (config.data.source, config.data.gym_env) == ("gym", "CartPole-v1")
    assert config.inference.checkpoint == "./outputs/checkpoint_best.pt"
    assert read('model = "tdmpc"\nmodel_type = "tdmpc"', tmp_path).model_type == "tdmpc2"


MISTAKES = {
    "a = 1": "line 1: Unknown top-level key: a",
    "\n[trainig]\nx = 1": "line 2: Unknown top-level key: trainig. Did you mean: 'training'",
    "batch_size = 8": "line 1: Unknown top-level key: batch_size. It belongs into \\[training\\]",
    "[training]\n\nlearning_rte = 1": "line 3: Unknown key 'training.learning_rte'.*'learning_rate'",
    "training.batchsize = 3": "line 1: Unknown key 'training.batchsize'.*'batch_size'",
    "training = {batch_size = 0}": "line 1: training.batch_size must be >= 1",
    "[data]\nsource = 3": "line 2: data.source must be a text, got 3",
    "[data]\nsource = 'gym'": "line 1: data.gym_env must name an environment",
    "[training]\ntotal_steps = true": "line 2: training.total_steps must be a whole number",
    "[training]\ntotal_steps = 1e5": "line 2: .*whole number, got 100000.0 \\(write 100000\\)",
    "[training]\ntotal_steps = 1" + "0" * 400: "line 2: training.total_steps must be within",
    "[training]\ntotal_steps = 1" + "0" * 5000: "broken TOML",
    "[training]\nlearning_rate = nan": "line 2: training.learning_rate must be finite",
    "[training]\nlearning_rate = -inf": "line 2: training.learning_rate must be finite",
    "[training]\ndevice = 'cuda:x'": "line 2: training.device must be",
    "[architecture]\nobs_shape = [\n3,\n64,\n0]": "line 2: architecture.obs_shape must hold",
    "model = 'dreamer:ci'\n[architecture]\nobs_shape = [3, 84, 84]": (
        "line 3: architecture.obs_shape .*divisible by 16, got 84 and 84$"
    ),
    "project_name = '${oc.env:HOME}'": "line 1: project_name must not be a reference",
    "project_name = '???'": "line 1: project_name must not be a reference",
    'project_name = "a\\nb"': "line 1: project_name must be one line",
    "project_name = 3": "line 1: project_name must be a text, got 3",
    "[[training]]\nbatch_size = 3": "line 1: Section 'training' must be a TOML table",
    "[training]\n[training]": "line 2: broken TOML",
    "a = " + "[" * 3000: "nested too deeply",
    "model_type = 'dreamerv3'": "contradicts|'dreamer'",
    "[training]\nsequence_length = 101\n[data]\nsource='gym'\ngym_env='x'": "episode_length = 100",
    "[training]\nbackend = 'nativ_torch'": "line 2: training.backend .*'native_torch'\\?",
}


@pytest.mark.parametrize("text", MISTAKES, ids=[text[:40] for text in MISTAKES])
def test_one_line_with_file_line_and_key(text: str, tmp_path: Path) -> None:
    with pytest.raises(ProjectFileError) as caught:
        read(text, tmp_path)
    told = str(caught.value)
    assert told.startswith(str(tmp_path / "worldflux.toml")) and "\n" not in told
    assert re.search(MISTAKES[text], told), told
    assert len(told) < len(str(tmp_path)) + 450


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "worldflux.toml").write_text("")
    with pytest.raises(FileNotFoundError, match=r"Did you mean: .worldflux\.toml."):
        load_config(tmp_path / "worldflx.toml")
    with pytest.raises(ProjectFileError, match="cannot read"):
        load_config(tmp_path)
    (tmp_path / "worldflux.toml").write_bytes(b"a = 1\nb = '\xff'")
    with pytest.raises(ProjectFileError, match="line 2: must be UTF-8"):
        load_config(tmp_path / "worldflux.toml")
    (tmp_path / "worldflux.toml").write_text("#" * 100_000)
    with pytest.raises(ProjectFileError, match="larger than 64 KiB"):
        load_config(tmp_path / "worldflux.toml")


def test_files_of_windows_editors(tmp_path: Path) -> None:
    path = tmp_path / "worldflux.toml"
    path.write_bytes("\ufeff[training]\r\n\r\nbatch_size = 0\r\n".encode())
    with pytest.raises(ProjectFileError, match=r"line 3: training\.batch_size must be >= 1"):
        load_config(path)


def test_lines_of_keys_that_are_written_in_other_ways() -> None:
    text = "\n".join(
        ["# [data]", "a.b = 1", "[training]", 'x = """', "[data]", '"""', "y = [", "1,", "]"]
        + ["", '["quo.ted"]', "'k' = {in = 3}", "[[rows]]", "one = 1", "[[rows]]", "two = 2"]
    )
    found = lines_of(text)
    assert found["a", "b"] == 2 and found["training", "x"] == 4 and found["training", "y"] == 7
    assert found["quo.ted", "k", "in"] == 12 and found["rows", "one"] == 14
    assert found["rows", "two"] == 16 and ("data",) not in found


# Any file: a valid configuration, or one line.

SCALARS = st.one_of(
    st.integers(),
    st.integers(-2, 200),
    st.floats(),
    st.booleans(),
    st.text(max_size=12),
    st.sampled_from(["gym", "random", "cpu", "dreamer:ci", "tdmpc2:5m", "CartPole-v1", "quick"]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
KEYS = sorted({name for cls in SECTIONS.values() for name in cls.__dataclass_fields__})
TOP = [*SECTIONS, "project_name", "environment", "model", "model_type", "extra"]


def spelled(value: Any) -> str:
    """A value as TOML spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(c if c.isalnum() else f"\\U{ord(c):08x}" for c in value)
        return f'"{escaped}"'
    if isinstance(value, list):
        return f"[{', '.join(map(spelled, value))}]"
    return str(value)


@st.composite
def almost_files(draw: Any) -> str:
    """A text in the shape of a worldflux.toml: names mostly right, values of any kind."""
    rows = []
    for name in draw(st.lists(st.sampled_from(TOP), unique=True, max_size=5)):
        section = SECTIONS.get(name)
        if section is None or draw(st.integers(0, 9)) == 0:
            rows.insert(0, f"{name} = {spelled(draw(VALUES))}")
            continue
        rows.append(f"[{name}]")
        keys = [*section.__dataclass_fields__, draw(st.sampled_from(KEYS))]
        for key in draw(st.lists(st.sampled_from(keys), unique=True, max_size=4)):
            rows.append(f"{key} = {spelled(draw(VALUES))}")
    return "\n".join(rows)


@settings(max_examples=200, deadline=60_000)  # it never hangs
@given(st.one_of(almost_files(), st.text(max_size=60)))
def test_any_file_is_a_configuration_or_one_line(text: str) -> None:
    try:
        config = parse(text, Path("worldflux.toml"))
    except ProjectFileError as error:
        assert str(error).startswith("worldflux.toml") and "\n" not in str(error)
        return
    assert config.training.sequence_length >= 1
    assert config.explicit >= set(config.raw)
