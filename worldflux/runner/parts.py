"""What a run is made of beside its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from worldflux.config.model import WorldModelConfig
from worldflux.config.overrides import command
from worldflux.run_folder.disk import shown

if TYPE_CHECKING:
    from worldflux.config.run import RunConfig
    from worldflux.core.agent import Agent
    from worldflux.core.ranks import Ranks
    from worldflux.dashboard.live import LiveDashboard
    from worldflux.data.recorded.opening import RecordedSet
    from worldflux.data.sources import Source
    from worldflux.envs.vector import VectorEnv
    from worldflux.training.session import Callback


class Fitted(NamedTuple):
    """The environments of a run, None where it trains in none, the episodes that it reads, and its
    model's configuration with what they decide."""

    envs: VectorEnv | None
    model: WorldModelConfig
    recorded: RecordedSet | None = None

    def close(self) -> None:
        if self.envs is not None:
            self.envs.close()


class Parts:
    """The parts of a plain run, all from its configuration; a subclass brings its own.

    model: what a subclass has its data made for; None: the configured one, in the environment.
    facts: more content for the manifest. page_modes: degraded modes of what is only shown.
    fitted, callbacks: environments and own callbacks that were made when the run was checked; the
    run takes them over.
    """

    def __init__(self) -> None:
        self.model: WorldModelConfig | None = None
        self.facts: Mapping[str, Any] = {}
        self.page_modes: list[str] = []
        self.fitted: Fitted | None = None
        self.callbacks: list[Callback] | None = None

    def prepare(self, config: RunConfig) -> None:
        """Gets ready for a checked configuration; writes nothing."""

    def page(self, config: RunConfig, folder: Path) -> LiveDashboard:
        """The live page of the run."""
        from worldflux.dashboard.live import LiveDashboard

        return LiveDashboard.of(config, folder)

    def source(
        self,
        config: RunConfig,
        envs: VectorEnv | None,
        agent: Agent,
        model: WorldModelConfig,
        ranks: Ranks,
        recorded: RecordedSet | None = None,
    ) -> Source:
        """Where the batches come from. envs: this process's share of the environments, None where
        there are none. recorded: the episodes of `data.path`."""
        from worldflux.data.sources import Sequences, make_source
        from worldflux.training.parallel import rank_seed

        training = config.training
        sequences = Sequences(
            obs_spaces=model.obs_spaces(),
            action_spaces=model.action_spaces(),
            entry_spaces=agent.entry_spaces,
            batch_size=training.effective_batch_size() // ranks.size,
            sequence_length=training.sequence_length,
            replay_context=agent.replay_context,
            seed=rank_seed(training.seed, ranks.rank),
            ranks=ranks.size,
            rank=ranks.rank,
        )
        return make_source(config.data, envs, sequences, recorded)

    def continuation(self, folder: Path) -> str:
        """The command that continues a run, for a shell."""
        return command("worldflux-run", f"resume={shown(folder)}")

    def close(self) -> None:
        """The run is over, or was refused."""
        if self.fitted is not None:
            self.fitted.close()
