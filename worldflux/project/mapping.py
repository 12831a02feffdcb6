"""The one mapping between worldflux.toml and the groups of a run, read in both directions.

`ROWS` lists for each key of the file the Hydra key that it sets and how the value is converted each
way. A key without a row, or whose value cannot be computed back from the run, is kept in the run's
free mapping `project`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from worldflux.config.fields import field_types, plain
from worldflux.config.groups import SPELLING, RunConfig
from worldflux.config.options import ENVIRONMENT, rules
from worldflux.config.presets import conf_dir, size_fields
from worldflux.data.ratio import updates_per_step
from worldflux.envs.suites import episode_length
from worldflux.errors import ConfigurationError
from worldflux.models.factory import resolve
from worldflux.models.families import family, family_of_type
from worldflux.project.schema import ProjectConfig
from worldflux.project.sections import SECTIONS

Values = Mapping[str, Any]  # Hydra key -> value of a run
Backward = Callable[[Values], Any]

DMC = "dmc/"  # dmc/walker-walk is a task of the DeepMind Control Suite
FASTEST_EVALUATION = 100  # updates between two, at least
UNLIMITED = 1_000_000  # steps of an episode whose environment has no limit
TEXTS = ("project_name", "environment", "model")
# Where data comes from: noise, an environment once before training, an environment all the time.
NOISE, ONCE, ONLINE = "noise", "once", "online"
EVERY, COLLECTED = (NOISE, ONCE, ONLINE), (ONCE, ONLINE)


@dataclass(frozen=True)
class Setting:
    """A value for a Hydra key, and the key of worldflux.toml it comes from (None: from neither)."""

    value: Any
    source: str | None
    why: str = ""


class File(dict[str, Any]):
    """`section.key` -> value of a worldflux.toml: the keys that it has; `[]` of another one is its
    default."""

    def __missing__(self, key: str) -> Any:
        section, _, name = key.partition(".")
        return plain(getattr(SECTIONS[section], name))

    @property
    def mode(self) -> str:
        if self["data.source"] == "random":
            return NOISE
        return ONLINE if self["online_collection.enabled"] else ONCE


@dataclass(frozen=True)
class Row:
    """A key of the file and the key of the run that it sets, in these modes.

    forward: the run's value of the file; None: the file's value as it is. backward: the file's value
    of the run, None: left out; without it the run's value as it is, if forward is None too.
    when: a further condition of forward.
    """

    key: str
    target: str
    modes: tuple[str, ...] = EVERY
    forward: Callable[[File], Any] | None = None
    backward: Backward | None = None
    when: Callable[[File], bool] = lambda file: True

    def to_run(self, file: File) -> Any:
        return file[self.key] if self.forward is None else self.forward(file)

    def to_file(self, run: Values) -> Any:
        if self.backward is not None:
            return self.backward(run)
        return run[self.target] if self.forward is None else None


def _size(file: File) -> str:
    one, size = resolve(file["model"])
    return str(size_fields(one.model_type, size)["model_name"])


def _model(run: Values) -> str:
    return f"{family(run['model']).toml_name}:{run['model/size']}"


def environment_group(file: File) -> str:
    """The option of `conf/env` that prepares the environment of the file."""
    name = file["data.gym_env"]
    if name.startswith((DMC, "ALE/")):
        return "dmc" if name.startswith(DMC) else "atari100k"
    if "architecture.obs_shape" in file and len(file["architecture.obs_shape"]) == 3:
        return "pixels"
    for path in sorted((conf_dir() / "env").glob("*.yaml")):
        content = OmegaConf.load(path)
        assert isinstance(content, DictConfig)
        if content.get("id") == name and not {"defaults", "image_size"} & set(content):
            return path.stem
    return "gym"


def _from_pixels(file: File) -> bool:
    return environment_group(file) == "pixels"


def _suite(file: File) -> str:
    if file.mode == NOISE:
        return "none"
    return "dmc" if file["data.gym_env"].startswith(DMC) else "gym"


def _gym_env(run: Values) -> str | None:
    prefix = {"dmc": DMC, "gym": ""}.get(run["env.suite"])
    return None if prefix is None else f"{prefix}{run['env.id']}"


def _action_type(environment: str) -> str:
    """Kind of the actions of noise, where the file does not give it."""
    return "discrete" if environment == "atari" else "continuous"


def _explicit_action_type(run: Values) -> str | None:
    value = run["model.action_type"]
    default = run["env.suite"] == "none" and value == _action_type(run["environment"])
    return None if default or value not in ("discrete", "continuous") else str(value)


def _explicit_width(run: Values) -> int | None:
    preset = size_fields(family(run["model"]).model_type, run["model/size"])
    width = run["model.hidden_dim"]
    return None if width == preset.get("hidden_dim") else width


def _once(file: File) -> int:
    return int(file["data.num_episodes"] * file["data.episode_length"])


def _capacity(file: File) -> int:
    return max(int(file["data.buffer_capacity"]), _once(file))


def _episodes(run: Values) -> int:
    return max(1, run["data.prefill_steps"] // run["env.time_limit"])


def _per_update(run: Values) -> int:
    return max(1, round(run[PER_UPDATE]))


def _size_of(name: str, modes: tuple[str, ...] = (), backward: Backward | None = None) -> Row:
    """A size that the run has from elsewhere if the file leaves it out, except in these modes."""
    key = f"architecture.{name}"
    return Row(key, f"model.{name}", backward=backward, when=lambda f: key in f or f.mode in modes)


def _same(section: str, *names: str) -> list[Row]:
    return [Row(f"{section}.{name}", f"{section}.{name}") for name in names]


MODEL, GYM_ENV, OBS_SHAPE = "model", "data.gym_env", "architecture.obs_shape"
ENABLED, PER_UPDATE = "online_collection.enabled", "data.collect_steps_per_update"
ROWS = (
    Row(MODEL, "model", EVERY, lambda f: resolve(f[MODEL])[0].name),
    Row(MODEL, "model/size", EVERY, _size, _model),
    Row("data.source", "data", (NOISE,), lambda f: "random"),
    Row("data.source", "env", (NOISE,), lambda f: "none"),
    Row(GYM_ENV, "env", COLLECTED, environment_group),
    Row(GYM_ENV, "env.id", COLLECTED, lambda f: f[GYM_ENV].removeprefix(DMC), _gym_env),
    # Noise of an environment's shapes, which no file requests.
    Row(GYM_ENV, "env.id", (NOISE,), None, _gym_env, lambda f: False),
    Row(OBS_SHAPE, "env.image_size", COLLECTED, lambda f: f[OBS_SHAPE][1:], when=_from_pixels),
    Row("data.episode_length", "env.time_limit", (ONCE,)),
    Row("online_collection.max_episode_steps", "env.time_limit", (ONLINE,)),
    _size_of("obs_shape", (NOISE,)),
    _size_of("action_dim", (NOISE,)),
    _size_of("hidden_dim", (), _explicit_width),
    Row("environment", "model.action_type", (NOISE,), lambda f: _action_type(f["environment"])),
    _size_of("action_type", (), _explicit_action_type),
    *_same("training", "total_steps", "batch_size", "sequence_length", "learning_rate"),
    *_same("training", "device", "output_dir"),
    *_same("gameplay", *field_types(SECTIONS["gameplay"])),
    *_same("visualization", *field_types(SECTIONS["visualization"])),
    Row("data.buffer_capacity", "data.capacity", (NOISE, ONLINE)),
    Row("data.buffer_capacity", "data.capacity", (ONCE,), _capacity, lambda r: r["data.capacity"]),
    Row("data.num_episodes", "data.prefill_steps", (ONCE,), _once, _episodes),
    Row("online_collection.warmup_transitions", "data.prefill_steps", (ONLINE,)),
    Row(ENABLED, "data.train_ratio", COLLECTED, lambda f: None, lambda r: bool(r[PER_UPDATE])),
    Row(ENABLED, PER_UPDATE, (ONCE,), lambda f: 0),
    Row("online_collection.collect_steps_per_update", PER_UPDATE, (ONLINE,), None, _per_update),
)
# Values of a run that the environment determines and no file holds.
UNSAID = ("project", "model.observation_modalities", "model.action_spec")


# === From the file to the run =================================================================


def settings(config: ProjectConfig) -> dict[str, Setting]:
    """Hydra key -> value. The same file always gives the same run."""
    file = _file_of(config)
    result = {row.target: Setting(row.to_run(file), row.key) for row in _active(file)}
    result |= _decided(file)
    kept = notes(file, {key: item.value for key, item in result.items()})
    result["project"] = Setting(kept, None, "what a run has no key for")
    return result


def _file_of(config: ProjectConfig) -> File:
    file = File({name: getattr(config, name) for name in TEXTS})
    for section, cls in SECTIONS.items():
        for name in field_types(cls):
            # A flag of the command line may have replaced a value of [training].
            if f"{section}.{name}" in config.explicit or section == "training":
                file[f"{section}.{name}"] = plain(getattr(getattr(config, section), name))
    if not file["architecture.action_type"]:
        file.pop("architecture.action_type", None)
    return file


def _active(file: File) -> Iterator[Row]:
    """The rows that set something."""
    mode = file.mode
    return (row for row in ROWS if mode in row.modes and row.when(file))


def _decided(file: File) -> dict[str, Setting]:
    """What `worldflux train` decides by itself."""
    steps, parts = file["training.total_steps"], resolve(file["model"])[0].evaluations
    interval = max(FASTEST_EVALUATION, steps // parts)
    why = f"total_steps / {parts}, but at least {FASTEST_EVALUATION}"
    degrade = "goes on with what there is, and says so; --strict does not"
    result = {
        "training.eval_interval": Setting(interval, None, why),
        "training.save_interval": Setting(max(interval, 1_000), None, "eval_interval or 1000"),
        "data.on_env_failure": Setting("degrade", None, degrade),
    }
    if file.mode != NOISE:
        ends = _suite(file) != "dmc"  # tasks of that suite only run out of time
        why = "whether the task itself can end an episode"
        result["env.terminates"] = Setting(ends, None, why)
    return result


def notes(file: File, run: Values) -> dict[str, Any]:
    """What of the file cannot be computed back from the run that it gives."""
    implied = {"data.source": file["data.source"], "env.suite": _suite(file)}
    computed = file_of({**run, **implied, "environment": file["environment"]})
    result: dict[str, Any] = {name: file[name] for name in TEXTS}
    for section, cls in SECTIONS.items():
        keys = {name: f"{section}.{name}" for name in field_types(cls)}
        kept = {n: file[k] for n, k in keys.items() if file[k] != computed[k]}
        if kept:
            result[section] = kept
    return result


# === From the run to the file =================================================================


def file_of(run: Values) -> File:
    """The file of a run, as far as its values give it."""
    mode = ONLINE if run.get(PER_UPDATE) else ONCE
    if run["data.source"] == "random":
        mode = NOISE
    file = File({"data.source": run["data.source"]})
    for row in ROWS:
        if mode in row.modes and row.target in run:
            value = row.to_file(run)
            if value is not None:
                file[row.key] = value
    return file


def noted_file(run: RunConfig, name: str) -> File:
    """The file of a run, with what the run's `project` has noted of it.

    A note that the run contradicts, because an override has changed the value since, is ignored.
    name: the project's, where the run has none.
    """
    noted = File({"project_name": name, "environment": "custom", **_noted(run.project)})
    values = {**meaning(run), "environment": noted["environment"]}
    computed = file_of(values)
    file = File({**computed, **noted})
    for key in noted.keys() - {"project_name", "environment"}:
        if not _agrees(key, file, values):
            del file[key]
            if key in computed:
                file[key] = computed[key]
    return file


def _noted(project: Mapping[str, Any]) -> dict[str, Any]:
    result = {name: project[name] for name in TEXTS if isinstance(project.get(name), str)}
    for section, cls in SECTIONS.items():
        values = project.get(section)
        if isinstance(values, Mapping):
            known = {name: values[name] for name in field_types(cls) if name in values}
            try:
                record = cls(**known)
            except ConfigurationError as error:
                raise ConfigurationError(f"project.{section}.{error}") from None
            result |= {f"{section}.{name}": plain(getattr(record, name)) for name in known}
    return result


def _agrees(key: str, file: File, run: Values) -> bool:
    """Whether the file's value of a key gives the run's values."""
    try:
        rows = [row for row in _active(file) if row.key == key and row.target in run]
        return all(row.to_run(file) == run[row.target] for row in rows)
    except ConfigurationError:
        return False


def meaning(run: RunConfig) -> dict[str, Any]:
    """The values of a run with one spelling for what can be written in several ways: the ratio of
    updates to environment steps, the limit of an episode. Sizes that the environment decides are
    left out."""
    values = flat(run)
    open_sizes = [
        f"model.{name}"
        for name, rule in rules(type(run.model)).items()
        if rule.get("follows") == ENVIRONMENT and name not in run.model.explicit
    ]
    values = {key: value for key, value in values.items() if key not in open_sizes}
    values["model"] = family_of_type(run.model.model_type).name
    values["model/size"] = run.model.model_name
    values["env.time_limit"] = run.env.time_limit or episode_length(run.env) or UNLIMITED
    if run.data.source == "gym":
        batch, length = run.training.effective_batch_size(), run.training.sequence_length
        ratio = updates_per_step(run.data, batch, length)
        values["data.train_ratio"] = ratio
        values[PER_UPDATE] = 1 / ratio if ratio else 0
    return values


def flat(config: RunConfig) -> dict[str, Any]:
    """`group.key` -> value of a run, spelled as on the command line."""
    values: dict[str, Any] = {}
    for group, record in vars(config).items():
        if dataclasses.is_dataclass(record):
            for name in field_types(type(record)):
                values[f"{group}.{SPELLING.get(name, name)}"] = plain(getattr(record, name))
        elif record:
            values[group] = record
    return values
