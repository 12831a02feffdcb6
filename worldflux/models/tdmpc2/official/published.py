"""What the published returns of TD-MPC2 are, and which of them a run is comparable with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SOURCE = "tdmpc2-repo"
ADDRESS = "github.com/nicklashansen/tdmpc2, results/"
SCORE_OF = "evaluation episodes"


def task_of(manifest: Mapping[str, Any]) -> tuple[str, str] | None:
    """Suite and name that the published files give a run's task; None for a task they lack."""
    env, pixels = manifest["env"], manifest["config"]["env"]["obs"] == "pixels"
    if env["suite"] != "dmc" or pixels:
        return None
    name = str(env["id"]).replace("ball_in_cup", "cup").replace("point_mass", "pointmass")
    return "dmcontrol", name.replace("_", "-")
