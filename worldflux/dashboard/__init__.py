"""The live dashboard: a page on this machine that shows a training while it runs.

The training process only sends what it knows through a pipe; a small process of its own
(`worldflux/dashboard/serve.py`, started by `MetricsDashboardServer`) keeps it, scales and compresses
frames, and answers the browser. Names are imported on first use, so that process never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldflux.dashboard.callback import DashboardCallback as DashboardCallback
    from worldflux.dashboard.frames import FrameTap as FrameTap
    from worldflux.dashboard.gameplay import GameplayBuffer as GameplayBuffer
    from worldflux.dashboard.metrics import MetricBuffer as MetricBuffer
    from worldflux.dashboard.server import MetricsDashboardServer as MetricsDashboardServer

_MODULE_OF = {
    "DashboardCallback": "callback",
    "FrameTap": "frames",
    "GameplayBuffer": "gameplay",
    "MetricBuffer": "metrics",
    "MetricsDashboardServer": "server",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'worldflux.dashboard' has no attribute {name!r}")
    return getattr(importlib.import_module(f"worldflux.dashboard.{_MODULE_OF[name]}"), name)
