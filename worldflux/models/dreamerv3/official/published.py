"""What the published returns of DreamerV3 are, and which of them a run is comparable with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SOURCE = "dreamerv3-repo"
ADDRESS = "github.com/danijar/dreamerv3, scores/"
SCORE_OF = "training episodes"


def task_of(manifest: Mapping[str, Any]) -> tuple[str, str] | None:
    """Suite and name that the published files give a run's task; None for a task they lack.

    Atari runs count only with the 4 frames per step of the published ones.
    """
    env, pixels = manifest["env"], manifest["config"]["env"]["obs"] == "pixels"
    if env["suite"] == "dmc":
        task = str(env["id"]).replace("-", "_")
        name = task.replace("cup_", "ball_in_cup_", int(task.startswith("cup_")))
        return "dmc_vision" if pixels else "dmc_proprio", f"dmc_{name}"
    if env["id"].startswith("ALE/") and env["action_repeat"] == 4:
        game = env["id"].removeprefix("ALE/").split("-")[0]
        words = "".join(f"_{c.lower()}" if c.isupper() else c for c in game)
        return "atari100k", f"atari{words}"
    return None
