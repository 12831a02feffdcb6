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
from worldflux.config.spaces import flat_action_dim
from worldflux.envs.length import episode_length
from worldflux.errors import ConfigurationError
from worldflux.models.families import Family, Recipe, families
from worldflux.project.convert import overrides
from worldflux.project.mapping import DMC, settings
from worldflux.project.schema import FILE, parse
from worldflux.run_folder.disk import disk_errors
from worldflux.runner.preflight import one_environment

SCAFFOLD = Path(__file__).parent / "scaffold"
NAMES = {"gitignore": ".gitignore"}  # one of its own name would hide files of the package
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
class Wish:
    """What was asked for. gym_env: empty for noise of obs_shape and action_dim."""

    project_name: str
    environment: str
    family: str
    gym_env: str
    obs_shape: tuple[int, ...] = (4,)
    action_dim: int = 2
    total_steps: int | None = None
    device: str = "auto"


def configuration(wish: Wish) -> str:
    """The text of the project's worldflux.toml, with the sizes that its environment has.

    Raises MissingDependencyError with the line that installs the environment's package, and
    ConfigurationError for one that does not exist or cannot be learned from.
    """
    if not wish.gym_env:
        sizes: dict[str, Any] = {"obs_shape": list(wish.obs_shape), "action_dim": wish.action_dim}
        return _text(wish, {**sizes, "action_type": "continuous"}, LONGEST)
    sizes, steps = measured(wish)
    text = _text(wish, sizes, steps)
    run = composed(overrides(settings(parse(text, Path(FILE)))))
    envs = one_environment(run)
    try:
        run.model.with_spaces(envs.obs_spaces, envs.action_spaces)
    finally:
        envs.close()
    return text


def measured(wish: Wish) -> tuple[dict[str, Any], int]:
    """The [architecture] of an environment, and the steps of its longest episode."""
    known = _text(wish, {}, LONGEST)
    run = composed(overrides(settings(parse(known, Path(FILE)))))
    env = replace(run.env, time_limit=None)
    envs = one_environment(replace(run, env=env))
    try:
        shape = primary_shape(modalities_of(envs.obs_spaces))
        several = len(envs.obs_spaces) > 1  # then no one shape says what is observed
        found = {
            **({} if several else {"obs_shape": plain(shape)}),
            "action_dim": flat_action_dim(envs.action_spaces),
            "action_type": action_type_of(envs.action_spaces),
        }
    finally:
        envs.close()
    if len(shape) == 3 and not several:
        found["obs_shape"] = [shape[0], IMAGE, IMAGE]
    if found["action_type"] == "hybrid":
        del found["action_type"]  # the environment says which part is which
    unlimited = LONGEST_GAME if wish.gym_env.startswith("ALE/") else LONGEST
    return found, episode_length(env) or unlimited


def families_offered() -> dict[str, str]:
    """Name in worldflux.toml -> title, of every family."""
    return {one.toml_name: one.title for one in families()}


def family_of_toml(name: str) -> Family:
    """The family that worldflux.toml calls so."""
    return next(one for one in families() if one.toml_name == name)


def recipe_of(family: Family, kind: str) -> Recipe:
    """The family's recipe for ``vector`` or ``image``, or one that suits small models."""
    if kind in family.recipes:
        return family.recipes[kind]
    size = size_names(family.model_type)[0]
    return Recipe(size, 10_000, 16, 16, 3e-4, 100_000, 1_000, 1)


def _text(wish: Wish, sizes: dict[str, Any], steps: int) -> str:
    """The scaffold's worldflux.toml with the values of this project."""
    document: Any = tomlkit.parse((SCAFFOLD / FILE).read_text(encoding="utf-8"))
    shape = sizes.get("obs_shape", [])
    family = family_of_toml(wish.family)
    recipe = recipe_of(family, "image" if len(shape) == 3 else "vector")
    online = bool(wish.gym_env)
    values: dict[str, dict[str, Any]] = {
        "": {
            "project_name": wish.project_name,
            "environment": wish.environment,
            "model": f"{wish.family}:{recipe.size}",
            "model_type": wish.family,
        },
        "training": {
            "total_steps": wish.total_steps or recipe.total_steps,
            "batch_size": recipe.batch_size,
            "sequence_length": recipe.sequence_length,
            "learning_rate": recipe.learning_rate,
            "device": wish.device,
        },
        "data": {
            "source": "gym" if online else "random",
            "gym_env": wish.gym_env,
            "buffer_capacity": recipe.buffer_capacity,
        },
        "online_collection": {
            "enabled": online,
            "warmup_transitions": recipe.warmup_transitions,
            "collect_steps_per_update": recipe.collect_steps_per_update,
            "max_episode_steps": steps,
        },
        "gameplay": {"enabled": online},
        "verify": {
            "baseline": f"official/{family.name}",
            "env": wish.gym_env.removeprefix(DMC),
        },
    }
    for section, changed in values.items():
        table = document[section] if section else document
        for key, value in changed.items():
            if table[key] != value:
                table[key] = value
    for key in list(document["architecture"]):
        if key in sizes:
            document["architecture"][key] = sizes[key]
        else:
            del document["architecture"][key]
    return tomlkit.dumps(document)


def files(wish: Wish, configured: str) -> dict[str, str]:
    """Path inside the project -> content, of every file."""
    found = {}
    for path in sorted(SCAFFOLD.rglob("*")):
        name = str(path.relative_to(SCAFFOLD))
        if path.is_file() and "__pycache__" not in name:
            found[NAMES.get(name, name)] = path.read_text(encoding="utf-8")
    found[FILE] = configured
    readme = string.Template(found["README.md"])
    where = f"`{wish.gym_env}`" if wish.gym_env else "an environment of your own"
    found["README.md"] = readme.substitute(project_name=wish.project_name, environment=where)
    return found


def write(folder: Path, content: dict[str, str], *, force: bool) -> None:
    """Writes a project; each file is complete or absent. ConfigurationError: a file is there."""
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file, not a folder")
    there = [name for name in content if (folder / name).exists()]
    if there and not force:
        text = f"{folder} has {', '.join(there[:4])}{' …' if len(there) > 4 else ''} already"
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
