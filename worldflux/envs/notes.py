"""What a person should know of an environment as it was made."""

from __future__ import annotations

from dataclasses import dataclass

from worldflux.config.env import EnvConfig
from worldflux.config.spaces import Space
from worldflux.envs.wrappers import EncodedStep


@dataclass(frozen=True)
class Notes:
    """summary: how the agent observes and acts, one line. doubts: what may not be meant so.
    idle: settings that change nothing in this environment, as keys with values."""

    summary: str = ""
    doubts: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()


def notes_of(config: EnvConfig, env: EncodedStep) -> Notes:
    """The notes of one environment, by what prepares its observations and actions."""
    seen = [f"{key} ({_form(space)})" for key, space in env.obs_spaces.items()]
    acts = [f"{key} ({text})" for key, text in env.decode.ranges.items()]
    pictures = [space for space in env.obs_spaces.values() if space.image]
    settings = {
        "frame_stack": config.frame_stack if config.frame_stack > 1 else None,
        "grayscale": config.grayscale or None,
        "image_size": list(config.image_size) if config.image_size else None,
    }
    idle = [f"env.{key}={str(value).lower()}" for key, value in settings.items() if value]
    summary = f"observes {', '.join(seen)}; acts with {', '.join(acts)}"
    return Notes(summary, tuple(env.encode.large), () if pictures else tuple(idle))


def _form(space: Space) -> str:
    if space.image:
        return f"picture {'x'.join(map(str, space.shape))}"
    if space.discrete:
        return (
            f"{len(space.classes)} of {', '.join(map(str, dict.fromkeys(space.classes)))} classes"
        )
    return f"vector of {space.size:,}"
