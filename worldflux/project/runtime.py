"""What the files of a project add to its run: the data of dataset.py, the page of local_dashboard.py.

Function and class names are those that projects of older versions have, so that these go on working.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.config.modalities import action_type_of
from worldflux.config.model import WorldModelConfig
from worldflux.config.overrides import command
from worldflux.dashboard.live import LiveDashboard
from worldflux.data.sources import ENV_UNAVAILABLE, RANDOM_FALLBACK, Source
from worldflux.errors import ConfigurationError, WorldFluxError
from worldflux.project import AsConfigured
from worldflux.run_folder.disk import shown
from worldflux.runner.parts import Parts
from worldflux.runner.preflight import one_environment
from worldflux.training.feeds import Feed, as_source

if TYPE_CHECKING:
    from worldflux.config.run import RunConfig
    from worldflux.core.agent import Agent
    from worldflux.core.ranks import Ranks
    from worldflux.data.recorded.opening import RecordedSet
    from worldflux.envs.vector import VectorEnv

log = logging.getLogger("worldflux.project")

DATASET, DASHBOARD, PAGE = "dataset.py", "local_dashboard.py", Path("dashboard") / "index.html"
FUNCTION = "build_training_data"
SCAFFOLD_FALLBACK = "scaffold_runtime_fallback"
MODES = ("online", "offline", "random")
# The phase of older projects when only the pictures are switched off.
ONLY_PICTURES = "gameplay stream disabled"


class OwnFileError(ConfigurationError):
    """A file of the project failed; the text says where."""


class Project(Parts):
    """The files beside a worldflux.toml as parts of its run.

    strict: what fails is an error instead of a named degradation. After `prepare`: data is what
    dataset.py gave, None where the run collects as configured; failed says that dataset.py was to
    give data and could not.
    """

    def __init__(self, folder: Path, *, strict: bool) -> None:
        super().__init__()
        self.folder = folder
        self.strict = strict
        self.data: Any = None
        self.mode = "unknown"
        self.failed = False
        self.degraded_modes: list[str] = []
        self.provenance: dict[str, Any] | None = None
        self.live: LiveDashboard | None = None
        self._frames = 0
        self._cleanup: Callable[[], None] = lambda: None
        self._unavailable: list[str] = []
        self._warnings: list[str] = []  # logged once the run's log is there

    def prepare(self, config: RunConfig) -> None:
        """Imports the project's files and calls dataset.py for its data."""
        if config.training.nproc > 1:
            text = "training.nproc must be 1 in worldflux train: see worldflux-run"
            raise ConfigurationError(text)
        try:
            module = self._module(DATASET)
            if module is not None:
                self._build(module, config)
        except OwnFileError as error:
            if self.strict:
                raise
            self._warnings.append(f"{error}; training goes on with RANDOM NOISE")
            self.failed, self.mode = True, "random"
            self.degraded_modes = [SCAFFOLD_FALLBACK, RANDOM_FALLBACK]

    def continuation(self, folder: Path) -> str:
        """The command that continues a run, for a shell."""
        return command("worldflux", "train", "--resume-from", shown(folder))

    def close(self) -> None:
        """Calls the cleanup that dataset.py gave, once."""
        super().close()
        cleanup, self._cleanup = self._cleanup, lambda: None
        cleanup()

    def _build(self, module: ModuleType, config: RunConfig) -> None:
        build = getattr(module, FUNCTION, None)
        if not callable(build):
            raise OwnFileError(f"{DATASET} has no function {FUNCTION}")
        model = fitted(config)
        watched = config.visualization.enabled and config.gameplay.enabled
        frames = self._frame if watched else None
        with placed_errors(self.folder):
            built = build(model, frame_callback=frames, phase_callback=self._phase)
        if not isinstance(built, tuple) or len(built) != 3:
            raise OwnFileError(f"{FUNCTION} of {DATASET} must return (data, cleanup, mode)")
        data, cleanup, mode = built
        self._cleanup = cleanup if callable(cleanup) else self._cleanup
        if isinstance(data, AsConfigured):
            return
        if mode not in MODES:
            options = ", ".join(MODES)
            raise OwnFileError(f"{FUNCTION} of {DATASET} must say {options} as mode, got {mode!r}")
        self.data, self.mode, self.model = data, mode, model
        self._judge(config)

    def _judge(self, config: RunConfig) -> None:
        """What of the data is not as the configuration asks."""
        digest = hashlib.sha256((self.folder / DATASET).read_bytes()).hexdigest()
        self.provenance = {"file": DATASET, "sha256": digest, "mode": self.mode}
        noise = config.data.source == "gym" and self.mode == "random"
        if self._unavailable or noise:
            self.degraded_modes.append(ENV_UNAVAILABLE)
            if self.mode != "online":
                self.degraded_modes.append(RANDOM_FALLBACK)
            reason = self._unavailable[0] if self._unavailable else "its data is random noise"
            text = f"{DATASET} could not collect in {config.env.id}: {reason}"
            if self.strict:
                raise ConfigurationError(text)
            self._warnings.append(f"{text}; training goes on with its data of mode {self.mode!r}")

    def _phase(self, phase: str, detail: str = "") -> None:
        log.info("%s: %s %s", DATASET, phase, detail)
        if self.live is not None and self.live.server is not None:
            self.live.gameplay.set_phase(phase, detail)
        if phase == "unavailable" and detail != ONLY_PICTURES:
            self._unavailable.append(detail or "unavailable")

    def _frame(
        self, frame: np.ndarray, episode: int, episode_step: int, reward: float, done: bool
    ) -> None:
        live = self.live
        if live is None or live.server is None:
            return  # the page is not there yet
        if not self._frames:
            live.metrics.set_gameplay_available(True)
            live.gameplay.set_status("running")
        self._frames += 1
        live.gameplay.append_frame(
            frame, episode=episode, episode_step=episode_step, reward=reward, done=done
        )

    def page(self, config: RunConfig, folder: Path) -> LiveDashboard:
        """The page of the run: of local_dashboard.py and dashboard/index.html, where they are."""
        for text in self._warnings:
            log.warning("%s", text)
        # dataset.py shows its own frames.
        gameplay = config.gameplay if self.data is None else replace(config.gameplay, enabled=False)
        parts: dict[str, Any] = {}
        if config.visualization.enabled and (self.folder / PAGE).is_file():
            try:
                module = self._module(DASHBOARD)
            except OwnFileError as error:
                if self.strict:
                    raise
                log.warning("%s; the page is worldflux's own", error)
                self.page_modes.append("dashboard_unavailable")
                module = None
            if module is not None:
                parts = {"parts": module, "root": (self.folder / PAGE).parent}
        strict = config.data.on_env_failure != "degrade"
        self.live = LiveDashboard(
            config.visualization, gameplay, folder, config.env, strict=strict, **parts
        )
        return self.live

    def source(
        self,
        config: RunConfig,
        envs: VectorEnv | None,
        agent: Agent,
        model: WorldModelConfig,
        ranks: Ranks,
        recorded: RecordedSet | None = None,
    ) -> Source:
        """The data of dataset.py, or what it stands in for, with what degrades it."""
        if self.model is None:
            data = replace(config.data, source="random") if self.failed else config.data
            config = replace(config, data=data)
            source = super().source(config, envs, agent, model, ranks, recorded)
        else:
            source = as_source(self.data, agent, config.training)
        if isinstance(source, Feed):
            source.data_mode, source.data_provenance = self.mode, self.provenance
        source.degraded_modes.extend(self.degraded_modes)
        return source

    def _module(self, name: str) -> ModuleType | None:
        """A file of the project as a module; it can import its neighbours."""
        path = self.folder / name
        if not path.is_file():
            return None
        folder = str(self.folder.resolve())
        if folder not in sys.path:
            sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Under its own name, as its neighbours import it, and never that of another project.
        sys.modules[path.stem] = module
        with placed_errors(self.folder):
            spec.loader.exec_module(module)
        return module


@contextmanager
def placed_errors(folder: Path) -> Iterator[None]:
    """Makes one line, with file and line, of what a file of the project raises."""
    try:
        yield
    except SyntaxError as error:
        where = f"{Path(error.filename or DATASET).name}, line {error.lineno}"
        raise OwnFileError(f"{where}: {type(error).__name__}: {error.msg}") from error
    except Exception as error:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve().is_relative_to(folder.resolve())
        ]
        where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else DATASET
        reason = " ".join(str(error).split())
        raise OwnFileError(f"{where}: {type(error).__name__}: {reason}") from error


def fitted(config: RunConfig) -> WorldModelConfig:
    """The model with the sizes the file gives; those it leaves out are the environment's."""
    model = config.model
    if config.env.suite == "none" or {"obs_shape", "action_dim", "action_type"} <= model.explicit:
        return model
    try:
        envs = one_environment(config)
    except WorldFluxError:
        return model  # whoever needs the environment reports it
    try:
        return model.with_spaces(envs.obs_spaces, envs.action_spaces)
    except ConfigurationError:
        # The data is what is trained on, and the file gives its sizes; it has no word for the kind.
        kind = None if "action_type" in model.explicit else action_type_of(envs.action_spaces)
        return model.with_overrides(action_type=kind)
    finally:
        envs.close()
