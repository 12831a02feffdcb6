"""The official configuration of DreamerV3 (`agent` in its config.yaml) as ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from worldflux.config.modalities import action_spec_of, modalities_of
from worldflux.config.spaces import Space
from worldflux.errors import ConfigurationError
from worldflux.models.dreamerv3.config import DreamerV3Config
from worldflux.models.dreamerv3.official.names import FIELDS

# What our model does and an official run might have chosen otherwise.
FIXED = {
    "dyn.typ": "rssm",
    "dyn.rssm.act": "silu",
    "dyn.rssm.norm": "rms",
    "dyn.rssm.absolute": False,
    **{f"{net}.typ": "simple" for net in ("enc", "dec")},
    **{f"{net}.simple.act": "silu" for net in ("enc", "dec")},
    **{f"{net}.simple.norm": "rms" for net in ("enc", "dec")},
    **{f"{net}.simple.outer": False for net in ("enc", "dec")},
    **{f"{net}.simple.strided": False for net in ("enc", "dec")},
    **{f"{head}.act": "silu" for head in ("rewhead", "conhead", "policy", "value")},
    **{f"{head}.norm": "rms" for head in ("rewhead", "conhead", "policy", "value")},
    "rewhead.output": "symexp_twohot",
    "value.output": "symexp_twohot",
    "conhead.output": "binary",
    "policy_dist_disc": "categorical",
    "policy_dist_cont": "bounded_normal",
    "valnorm.impl": "none",
    "advnorm.impl": "none",
}

# Our fields that follow another one unless they are given.
SAME = {
    "critic_num_bins": "reward_num_bins",
    "replay_lambda": "lambda_",
    "replay_slow_critic_scale": "slow_critic_scale",
}

LOSSES = {
    "reconstruction": "rec",
    "reward": "rew",
    "continue": "con",
    "kl_dynamics": "dyn",
    "kl_representation": "rep",
    "policy": "policy",
    "value": "value",
    "replay_value": "repval",
}


def setting(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; ConfigurationError if it is missing."""
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigurationError(f"the official configuration has no agent.{path}")
        value = value[part]
    return value


def config_from_official(
    agent: Mapping[str, Any],
    obs_spaces: Mapping[str, Space],
    action_spaces: Mapping[str, Space],
    *,
    replay_context: int = 1,
    name: str = "official",
) -> DreamerV3Config:
    """Our configuration for the official `agent` settings and our spaces.

    Raises ConfigurationError for settings that our model does not have, naming each of them.
    """
    agent = _with_retnorm_defaults(agent)
    wrong = [
        f"agent.{path} is {setting(agent, path)!r}, expected {value!r}"
        for path, value in FIXED.items()
        if setting(agent, path) != value
    ]
    impl = setting(agent, "retnorm.impl")
    if impl not in ("perc", "meanstd", "none"):
        wrong.append(f"agent.retnorm.impl is {impl!r}, expected 'perc', 'meanstd' or 'none'")
    wrong += [text for paths in FIELDS.values() if (text := _disagreement(agent, paths))]
    if wrong:
        raise ConfigurationError("the official configuration cannot be taken: " + "; ".join(wrong))
    values = {field: setting(agent, paths[0]) for field, paths in FIELDS.items()}
    for field in [name for name in values if name.endswith("_units")]:
        if values[field] == values["hidden_dim"]:
            del values[field]
    for field, other in SAME.items():
        if values[field] == values[other]:
            del values[field]
    scales = {ours: setting(agent, f"loss_scales.{theirs}") for ours, theirs in LOSSES.items()}
    if not setting(agent, "repval_loss"):
        scales["replay_value"] = 0.0
    if impl != "none":
        values["return_norm_impl"] = impl
    return DreamerV3Config(
        **values,
        model_name=name,
        learning_rate=float(setting(agent, "opt.lr")),
        actor_critic=True,
        loss_scales=scales,
        return_normalization=impl != "none",
        replay_context=replay_context,
        observation_modalities=modalities_of(obs_spaces),
        action_spec=action_spec_of(action_spaces),
    )


def _with_retnorm_defaults(agent: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings that the official code leaves out where they have no meaning."""
    defaults = {"debias": False, "perclo": 5.0, "perchi": 95.0}
    return {**agent, "retnorm": defaults | dict(agent.get("retnorm", {}))}


def _disagreement(agent: Mapping[str, Any], paths: Iterable[str]) -> str:
    values = {path: setting(agent, path) for path in paths}
    if all(value == next(iter(values.values())) for value in values.values()):
        return ""
    listed = ", ".join(f"agent.{path} {value!r}" for path, value in values.items())
    return f"these must be equal: {listed}"
