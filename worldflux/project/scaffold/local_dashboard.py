"""The dashboard of this project: `worldflux train` takes these four names from here, and serves
dashboard/index.html beside this file.

Change what you like, for example what is passed on:

    class DashboardCallback(dashboard.DashboardCallback):
        def scalars(self, record):
            record["metrics"] = {k: v for k, v in record["metrics"].items() if "loss" in k}
            super().scalars(record)
"""

from worldflux import dashboard
from worldflux.dashboard import GameplayBuffer, MetricBuffer, MetricsDashboardServer

DashboardCallback = dashboard.DashboardCallback

__all__ = ["DashboardCallback", "GameplayBuffer", "MetricBuffer", "MetricsDashboardServer"]
