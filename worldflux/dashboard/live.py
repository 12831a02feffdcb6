"""The dashboard of one run of the runner: server, callback and frames, as configured."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from worldflux import dashboard
from worldflux.dashboard.frames import GAMEPLAY_UNAVAILABLE, FrameTap, why_no_frames
from worldflux.dashboard.server import DIED, STATIC
from worldflux.errors import WorldFluxError
from worldflux.run_folder.names import METRICS

if TYPE_CHECKING:
    from worldflux.config.env import EnvConfig
    from worldflux.config.page import Gameplay, Visualization
    from worldflux.config.run import RunConfig
    from worldflux.dashboard.server import MetricsDashboardServer
    from worldflux.data.sources import Source
    from worldflux.training.session import Callback

EVERYWHERE = ("0.0.0.0", "::", "0")  # addresses that stand for every interface
OF_OTHERS = "dashboard_metrics.jsonl"

log = logging.getLogger("worldflux.run")


class LiveDashboard:
    """The page of a run while it lasts; with ``visualization.enabled=false`` it does nothing.

    env: the environment whose frames are shown, None where there is none. strict: a page that
    cannot be served ends the run (before it begins) instead of being named in `degraded_modes`.
    parts: what has MetricBuffer, GameplayBuffer, MetricsDashboardServer and DashboardCallback, such
    as the local_dashboard.py of a project. root: folder of the ``index.html`` to serve.

    renders: whether the training's environments are to be made with `render=True`.
    """

    def __init__(
        self,
        visualization: Visualization,
        gameplay: Gameplay,
        run_dir: Path,
        env: EnvConfig | None,
        *,
        strict: bool = True,
        parts: ModuleType = dashboard,
        root: Path | None = None,
    ) -> None:
        self.callbacks: list[Callback] = []
        self.tap: FrameTap | None = None
        self.renders = False
        self.server: MetricsDashboardServer | None = None
        self._degraded: list[str] = []
        if not visualization.enabled:
            return
        self.metrics = parts.MetricBuffer(max_points=max(100, visualization.history_max_points))
        frames = max(16, gameplay.max_frames)
        self.gameplay = parts.GameplayBuffer(max_frames=frames, fps=gameplay.fps)
        server = parts.MetricsDashboardServer(
            metric_buffer=self.metrics,
            gameplay_buffer=self.gameplay,
            host=visualization.host,
            start_port=visualization.port,
            dashboard_root=root or STATIC,
            refresh_ms=max(100, visualization.refresh_ms),
        )
        try:
            server.start()
        except (WorldFluxError, OSError) as error:
            if strict:
                raise
            log.warning("%s; training goes on without the page", error)
            self._degraded.append(DIED)
            return
        self.server = server
        # A project's callback may write that file, which the run writes itself.
        ours = issubclass(parts.DashboardCallback, dashboard.DashboardCallback)
        records = run_dir / (METRICS if ours else OF_OTHERS)
        self.callbacks.append(parts.DashboardCallback(self.metrics, records))
        if gameplay.enabled:
            self._open_gameplay(env, gameplay.fps)
        else:
            self._no_frames("gameplay stream disabled")
        log.info("dashboard: %s", server.url)
        if visualization.host in EVERYWHERE:
            text = "the page is open to the network without a password: it listens on %s, port %d"
            log.warning(text, visualization.host, server.port)
        if visualization.open_browser:
            server.open_browser()

    @classmethod
    def of(cls, config: RunConfig, run_dir: Path) -> LiveDashboard:
        """The page of a run, as configured."""
        strict = config.data.on_env_failure != "degrade"
        return cls(config.visualization, config.gameplay, run_dir, config.env, strict=strict)

    @property
    def degraded_modes(self) -> list[str]:
        """What is not shown as it was configured."""
        return [*self._degraded, *getattr(self.server, "degraded_modes", ())]

    def watch(self, source: Source | None) -> None:
        """Takes frames of the environments that a source collects from, if it does."""
        collector = getattr(source, "collector", None)
        if collector is not None:
            collector.watcher = self.tap
        elif self.tap is not None:
            self._without_gameplay("nothing is collected from an environment")

    def _open_gameplay(self, env: EnvConfig | None, fps: int) -> None:
        reason: str | None = "there is no environment"
        if env is not None and env.suite != "none":
            reason = why_no_frames(env, seed=0)
        if reason is not None:
            self._without_gameplay(reason)
            return
        self.renders = True
        self.metrics.set_gameplay_available(True)
        self.tap = FrameTap(
            self.gameplay.append_frame,
            fps=fps,
            watched=lambda: getattr(self.server, "watched", True),
            on_failure=self._without_gameplay,
        )

    def _without_gameplay(self, reason: str) -> None:
        log.warning("no gameplay on the dashboard: %s", reason)
        self._degraded.append(GAMEPLAY_UNAVAILABLE)
        self._no_frames(reason)

    def _no_frames(self, reason: str) -> None:
        self.metrics.set_gameplay_available(False)
        self.gameplay.set_phase("unavailable", reason)
        self.gameplay.set_status("unavailable")

    def __enter__(self) -> LiveDashboard:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.server is None:
            return
        if isinstance(error, Exception):
            # Before the training began nothing else reports it to the page.
            self.metrics.set_phase("error")
            self.metrics.set_status("error", str(error))
        self.server.stop()
