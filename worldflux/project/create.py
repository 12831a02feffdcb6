"""Making a project: the choices that `worldflux init` offers, and writing the files."""

from __future__ import annotations

import os
import shutil
import string
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomlkit

from worldflux.config.composition import composed
from worldflux.config.fields import plain
from worldflux.config.modalities import action_type_of, modalities_of, primary_shape
from worldflux.config.presets import size_names
from worldflux.config.run import RunConfig
from worldflux.config.spaces import flat_action_dim
from worldflux.errors import ConfigurationError
from worldflux.models.families import Family, Recipe
from worldflux.project.convert import overrides
from worldflux.project.mapping import DMC, settings
from worldflux.project.schema import FILE, parse
from worldflux.run_folder.disk import disk_errors
from worldflux.runner.preflight import one_environment

SCAFFOLD = Path(__file__).parent / "scaffold"
NAMES = {"gitignore": ".gitignore"}  # under its name it would hide files of the package
IMAGE = 64  # height and width that images are learned at
LONGEST = 1_000  # steps of an episode, where the environment has no limit
LONGEST_GAME = 27_000  # of Atari: 108,000 frames

# What `init` offers: name -> the environment's id.
ENVIRONMENTS = {
    "cartpole": "CartPole-v1",
    "pendulum": "Pendulum-v1",
    "atari": "ALE/Breakout-v5",
    "mujoco": "HalfCheetah-v5",
    "custom": "",
}


@dataclass(frozen=True)
class NewProject:
    """What `worldflux init` makes. gym_env: empty for noise of obs_shape and action_dim."""

    project_name: str
    environment: str
    family: Family
    gym_env: str
    obs_shape: tuple[int, ...] = (4,)
    action_dim: int = 2
    total_steps: int | None = None
    device: str = "auto"


def configuration(new: NewProject) -> str:
    """The text of the project's worldflux.toml, with the sizes that its environment has.

    Raises MissingDependencyError with the line that installs the environment's package, and
    ConfigurationError for one that does not exist or cannot be learned from.
    """
    if not new.gym_env:
        sizes: dict[str, Any] = {"obs_shape": list(new.obs_shape), "action_dim": new.action_dim}
        return _text(new, {**sizes, "action_type": "continuous"}, LONGEST)
    text = _text(new, *_measured(new))
    run = _run_of(text)
    envs = one_environment(run)
    try:
        run.model.with_spaces(envs.obs_spaces, envs.action_spaces)
    finally:
        envs.close()
    return text


def _run_of(text: str) -> RunConfig:
    return composed(overrides(settings(parse(text, Path(FILE)))))


def _measured(new: NewProject) -> tuple[dict[str, Any], int]:
    """The [architecture] of an environment, and the steps of its longest episode."""
    run = _run_of(_text(new, {}, LONGEST))
    env = replace(run.env, time_limit=None)
    envs = one_environment(replace(run, env=env))
    try:
        sizes: dict[str, Any] = {
            "action_dim": flat_action_dim(envs.action_spaces),
            "action_type": action_type_of(envs.action_spaces),
        }
        length = envs.episode_length
        if len(envs.obs_spaces) == 1:  # several have no one shape
            shape = plain(primary_shape(modalities_of(envs.obs_spaces)))
            sizes["obs_shape"] = [shape[0], IMAGE, IMAGE] if len(shape) == 3 else shape
    finally:
        envs.close()
    if sizes["action_type"] == "hybrid":
        del sizes["action_type"]  # the environment defines which part is which
    unlimited = LONGEST_GAME if new.gym_env.startswith("ALE/") else LONGEST
    return sizes, length or unlimited


def recipe_of(family: Family, kind: str) -> Recipe:
    """The family's recipe for ``vector`` or ``image``, or one that suits small models."""
    if kind in family.recipes:
        return family.recipes[kind]
    return Recipe(size_names(family.model_type)[0], 10_000, 16, 16, 3e-4, 100_000, 1_000, 1)


def _text(new: NewProject, sizes: dict[str, Any], steps: int) -> str:
    """The scaffold's worldflux.toml with the values of this project."""
    document: dict[str, Any] = tomlkit.parse((SCAFFOLD / FILE).read_text(encoding="utf-8"))
    kind = "image" if len(sizes.get("obs_shape", [])) == 3 else "vector"
    recipe, online = recipe_of(new.family, kind), bool(new.gym_env)
    values: dict[str, dict[str, Any]] = {
        "": {
            "project_name": new.project_name,
            "environment": new.environment,
            "model": f"{new.family.toml_name}:{recipe.size}",
            "model_type": new.family.toml_name,
        },
        "training": {
            "total_steps": new.total_steps or recipe.total_steps,
            "batch_size": recipe.batch_size,
            "sequence_length": recipe.sequence_length,
            "learning_rate": recipe.learning_rate,
            "device": new.device,
        },
        "data": {
            "source": "gym" if online else "random",
            "gym_env": new.gym_env,
            "buffer_capacity": recipe.buffer_capacity,
        },
        "online_collection": {
            "enabled": online,
            "warmup_transitions": recipe.warmup_transitions,
            "collect_steps_per_update": recipe.collect_steps_per_update,
            "max_episode_steps": steps,
        },
        "gameplay": {"enabled": online},
        "verify": {"baseline": f"official/{new.family.name}", "env": new.gym_env.removeprefix(DMC)},
    }
    for section, changed in values.items():
        table = document[section] if section else document
        table.update({key: value for key, value in changed.items() if table[key] != value})
    architecture = document["architecture"]
    for key in list(architecture):
        if key in sizes:
            architecture[key] = sizes[key]
        else:
            del architecture[key]
    return tomlkit.dumps(document)


def files(new: NewProject, configured: str) -> dict[str, str]:
    """Path inside the project -> content, of every file."""
    content = {}
    for path in sorted(SCAFFOLD.rglob("*")):
        name = str(path.relative_to(SCAFFOLD))
        if path.is_file() and "__pycache__" not in name:
            content[NAMES.get(name, name)] = path.read_text(encoding="utf-8")
    content[FILE] = configured
    readme = string.Template(content["README.md"])
    where = f"`{new.gym_env}`" if new.gym_env else "an environment of your own"
    content["README.md"] = readme.substitute(project_name=new.project_name, environment=where)
    return content


def write(folder: Path, content: dict[str, str], *, force: bool) -> None:
    """Writes a project; each file is complete or absent. ConfigurationError: a file is there."""
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file, not a folder")
    present = [name for name in content if (folder / name).exists()]
    if present and not force:
        text = f"{folder} has {', '.join(present[:4])}{' …' if len(present) > 4 else ''} already"
        raise ConfigurationError(f"{text}; --force overwrites them")
    with disk_errors("project", folder):
        folder.mkdir(parents=True, exist_ok=True)
        staged = folder / f".worldflux-init-{os.getpid()}"
        try:
            for name, text in content.items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                (staged / name).write_text(text, encoding="utf-8")
            for name in content:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(staged / name, folder / name)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
