"""A trained model as a folder that travels: weights, configuration and a model card."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from worldflux import __version__
from worldflux.config.env import EnvConfig
from worldflux.config.groups import SPELLING
from worldflux.config.model import WorldModelConfig
from worldflux.config.overrides import command, override
from worldflux.models.factory import load_saved
from worldflux.models.families import family_of_type
from worldflux.models.hub import FOLDER
from worldflux.models.saved import is_model_folder, saved_model
from worldflux.run_folder.checkpoints import run_of
from worldflux.run_folder.manifest import manifest_or_copy
from worldflux.run_folder.metrics import read_metrics
from worldflux.runner.trained import chosen_env

CARD = "README.md"
SHOWN = ("env", "data", "training")  # groups whose configuration is on a card


def write_model_folder(path: Path, out: Path, name: str, checkpoint: str, trust: bool) -> None:
    """Writes the model of a run, a checkpoint or a model folder into `out`, with a card that calls it
    `name`. A model folder keeps the card that it has."""
    if is_model_folder(path):
        out.mkdir(parents=True, exist_ok=True)
        for file in (path / one for one in FOLDER):
            if file.is_file():
                shutil.copyfile(file, out / file.name)
        config, manifest, evaluated = saved_model(path, trust=True)[0], {}, None
    else:
        config, folder = saved_model(path, checkpoint, trust)
        load_saved(path, checkpoint, trust=trust).save_pretrained(out)
        manifest = dict(manifest_or_copy(run_of(folder)))
        evaluated = _evaluated(run_of(folder), folder.resolve().name)
    if not (out / CARD).is_file():
        (out / CARD).write_text(card(name, config, manifest, evaluated), encoding="utf-8")


def _evaluated(run: Path, checkpoint: str) -> Mapping[str, float] | None:
    """The evaluation of a checkpoint; None: there was none."""
    step = re.fullmatch(r"step_0*(\d+)", checkpoint)
    records = [one for one in read_metrics(run) if "eval/return" in one["metrics"]]
    fitting = [one["metrics"] for one in records if step and one["step"] == int(step[1])]
    return fitting[-1] if fitting else None


def card(
    name: str,
    config: WorldModelConfig,
    manifest: Mapping[str, Any],
    evaluated: Mapping[str, float] | None,
) -> str:
    """A model card: metadata of the hub, then what it is, its returns, and how to play it."""
    family = family_of_type(config.model_type)
    settings = (manifest.get("config") or {}).get("env")
    env = EnvConfig.from_dict(settings) if settings and settings["suite"] != "none" else None
    task = None if env is None else env.id
    lines = [f"# {family.title}{f' on {task}' if task else ''}", ""]
    lines += [f"A world model and its policy, trained with WorldFlux ({family.title}).", ""]
    lines += _facts(config, manifest, task)
    if evaluated is not None:
        text = "Mean return of {n:.0f} greedy episodes: **{mean:.4g}** (95 % interval {low:.4g} to {high:.4g})"
        lines += ["", "## Returns", "", f"{text.format(**_returns(evaluated))}."]
    words = ["env=… env.id=…"] if env is None else playing(config.model_type, env)
    lines += ["", "## Play it", "", "```bash", "pip install 'worldflux[hub]'"]
    lines += [f"worldflux eval hf://{name} {' '.join(words) if env is None else command(*words)}"]
    lines += ["```", "", "```python", "import worldflux", ""]
    arguments = "" if env is None else "".join(f", {word!r}" for word in words)
    lines += [f'policy = worldflux.load_policy("hf://{name}"{arguments})']
    lines += ["action = policy.act(observation)", "```"]
    groups = manifest.get("config") or {}
    shown = {group: groups[group] for group in SHOWN if group in groups}
    shown["model"] = config.to_dict()
    lines += ["", "## Configuration", "", "```json", json.dumps(shown, indent=2), "```", ""]
    head = yaml.safe_dump(_metadata(name, family.name, task, evaluated), sort_keys=False)
    return f"---\n{head}---\n" + "\n".join(lines)


def _facts(config: WorldModelConfig, manifest: Mapping[str, Any], task: str | None) -> list[str]:
    versions = manifest.get("versions") or {"worldflux": __version__}
    rows = {
        "model": f"{config.model_type}, {config.model_name}",
        "environment": task,
        "updates": manifest.get("global_step"),
        "environment steps": manifest.get("env_steps"),
        "seed": manifest.get("seed"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "source commit": manifest.get("git_commit"),
    }
    lines = [f"| {key} | {value} |" for key, value in rows.items() if value is not None]
    return ["| | |", "|---|---|", *lines]


def _returns(evaluated: Mapping[str, float]) -> dict[str, float]:
    mean = evaluated["eval/return"]
    low, high = (evaluated.get(f"eval/return_{end}", mean) for end in ("low", "high"))
    return {"n": evaluated.get("eval/episodes", 1), "mean": mean, "low": low, "high": high}


def _metadata(
    name: str, family: str, task: str | None, evaluated: Mapping[str, float] | None
) -> dict[str, Any]:
    """What the hub reads at a card's head."""
    tags = ["reinforcement-learning", "world-model", family, *([task] if task else [])]
    head: dict[str, Any] = {"library_name": "worldflux", "tags": tags}
    head["pipeline_tag"] = "reinforcement-learning"
    if evaluated is not None and task is not None:
        returns = _returns(evaluated)
        metric = {"type": "mean_reward", "name": "mean return", "value": round(returns["mean"], 4)}
        metric["verified"] = False
        result = {
            "task": {"type": "reinforcement-learning", "name": "reinforcement learning"},
            "dataset": {"name": task, "type": task},
            "metrics": [metric],
        }
        head["model-index"] = [{"name": name.rpartition("/")[2], "results": [result]}]
    return head


def playing(model_type: str, env: EnvConfig) -> list[str]:
    """The overrides that describe an environment to `worldflux eval`."""
    key = "tasks" if env.tasks else "id"
    words = [override(f"env.{key}", env.to_dict()[key])]
    base = chosen_env(model_type, words).to_dict()
    for name, value in env.to_dict().items():
        if name in ("id", "tasks") or value == base[name]:
            continue
        spelled = SPELLING.get(name, name)
        if isinstance(value, dict):
            words += [override(f"env.{spelled}.{one}", entry) for one, entry in value.items()]
        else:
            words.append(override(f"env.{spelled}", value))
    return words
