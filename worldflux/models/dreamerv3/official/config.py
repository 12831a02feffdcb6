"""The official configuration of DreamerV3 (`agent` in its config.yaml) as ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from worldflux.config.modalities import action_spec_of, modalities_of
from worldflux.config.spaces import Space
from worldflux.errors import ConfigurationError
from worldflux.models.dreamerv3.config import DreamerV3Config

# What our model does and an official run might have chosen otherwise.
FIXED = {
    "ac_grads": False,
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
    "contdisc": True,
    "imag_loss.slowtar": False,
    "repl_loss.slowtar": False,
    "retnorm.debias": False,
    "valnorm.impl": "none",
    "advnorm.impl": "none",
    "reward_grad": True,
    "repval_loss": True,
    "repval_grad": True,
    "opt.momentum": True,
}

# Our field and the official settings that it stands for; several must agree.
FIELDS = {
    "deter_dim": ("dyn.rssm.deter",),
    "stoch_discrete": ("dyn.rssm.stoch",),
    "stoch_classes": ("dyn.rssm.classes",),
    "blocks": ("dyn.rssm.blocks",),
    "dyn_layers": ("dyn.rssm.dynlayers",),
    "obs_layers": ("dyn.rssm.obslayers",),
    "img_layers": ("dyn.rssm.imglayers",),
    "unimix": ("dyn.rssm.unimix",),
    "kl_free": ("dyn.rssm.free_nats",),
    "hidden_dim": ("dyn.rssm.hidden",),
    "encoder_units": ("enc.simple.units",),
    "decoder_units": ("dec.simple.units",),
    "reward_units": ("rewhead.units",),
    "continue_units": ("conhead.units",),
    "actor_units": ("policy.units",),
    "critic_units": ("value.units",),
    "encoder_layers": ("enc.simple.layers",),
    "decoder_layers": ("dec.simple.layers",),
    "use_symlog": ("enc.simple.symlog",),
    "cnn_depth": ("enc.simple.depth", "dec.simple.depth"),
    "cnn_mults": ("enc.simple.mults", "dec.simple.mults"),
    "cnn_kernel": ("enc.simple.kernel", "dec.simple.kernel"),
    "decoder_blocks": ("dec.simple.bspace",),
    "reward_layers": ("rewhead.layers",),
    "continue_layers": ("conhead.layers",),
    "actor_layers": ("policy.layers",),
    "critic_layers": ("value.layers",),
    "reward_num_bins": ("rewhead.bins",),
    "critic_num_bins": ("value.bins",),
    "actor_min_std": ("policy.minstd",),
    "actor_max_std": ("policy.maxstd",),
    "imagination_horizon": ("imag_length",),
    "imagination_starts": ("imag_last",),
    "discount_horizon": ("horizon",),
    "lambda_": ("imag_loss.lam", "repl_loss.lam"),
    "actor_entropy_coef": ("imag_loss.actent",),
    "slow_critic_fraction": ("slowvalue.rate",),
    "slow_critic_every": ("slowvalue.every",),
    "slow_critic_scale": ("imag_loss.slowreg", "repl_loss.slowreg"),
    "return_norm_rate": ("retnorm.rate",),
    "return_norm_limit": ("retnorm.limit",),
    "return_norm_low": ("retnorm.perclo",),
    "return_norm_high": ("retnorm.perchi",),
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
    if impl not in ("perc", "none"):
        wrong.append(f"agent.retnorm.impl is {impl!r}, expected 'perc' or 'none'")
    wrong += [text for paths in FIELDS.values() if (text := _disagreement(agent, paths))]
    if wrong:
        raise ConfigurationError("the official configuration cannot be taken: " + "; ".join(wrong))
    values = {field: setting(agent, paths[0]) for field, paths in FIELDS.items()}
    for field in [name for name in values if name.endswith("_units")]:
        if values[field] == values["hidden_dim"]:
            del values[field]
    if values["critic_num_bins"] == values["reward_num_bins"]:
        del values["critic_num_bins"]
    scales = {ours: setting(agent, f"loss_scales.{theirs}") for ours, theirs in LOSSES.items()}
    return DreamerV3Config(
        **values,
        model_name=name,
        learning_rate=float(setting(agent, "opt.lr")),
        actor_critic=True,
        loss_scales=scales,
        return_normalization=impl == "perc",
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
