"""A search before its first trial: what it varies and what all trials share, both checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from worldflux.config import run as schema
from worldflux.config.composition import Composition
from worldflux.config.hydra_errors import explain
from worldflux.config.overrides import override, parse_overrides, typed
from worldflux.config.presets import conf_dir
from worldflux.config.run import RunConfig
from worldflux.errors import ConfigurationError
from worldflux.models.families import family_of_type
from worldflux.search import JOURNAL
from worldflux.search.space import Space, bounds, changed, holds, read_space
from worldflux.search.study import Settings
from worldflux.sweep.words import NAME

# What the search itself decides.
OF_SEARCH = ("resume", "init_from", "sweep", "hydra")


@dataclass(frozen=True)
class Plan:
    """settings: of the study. config: of a run with what all trials share. source: where the
    configurations of trials are composed from."""

    settings: Settings
    config: RunConfig
    source: Composition

    @classmethod
    def of(
        cls,
        name: str,
        words: Sequence[str],
        *,
        space: str | None = None,
        config_dir: str | None = None,
        storage: str | None = None,
        **settings: Any,
    ) -> Plan:
        """The search of a command line, checked but for its ranges.

        words: overrides of `worldflux-run`. space: a YAML file or ``none``; None: the family's.
        settings: more fields of Settings.
        """
        if not NAME.fullmatch(name):
            text = "a name of letters, digits, '.', '_' and '-'"
            raise ConfigurationError(f"search {name!r}: expected {text}")
        if storage is not None and "://" not in storage and not storage.startswith(JOURNAL):
            text = "expected a URL such as sqlite:///study.db, or journal:FILE"
            raise ConfigurationError(f"--storage {storage}: {text}")
        schema.register(*([] if config_dir is None else [Path(config_dir)]))
        overrides = parse_overrides(words)
        for one in overrides:
            if one.get_key_element().split(".")[0] in OF_SEARCH:
                raise ConfigurationError(f"{one.input_line}: a search decides that itself")
        source = Composition.of(config_dir)
        config = source.check(changed({}, overrides)[1])
        varied, shared = changed(_space(space, config), overrides)
        if not varied:
            raise ConfigurationError(
                "nothing is searched: give a key a range, or leave out --space"
            )
        root = Path(config.training.output_dir).resolve() / "search" / name
        return cls(Settings(name, root, varied, tuple(shared), storage, **settings), config, source)

    def check(self) -> None:
        """Every choice and both ends of every range make a valid run, which has an environment."""
        for key, kind in self.settings.space.items():
            for value in bounds(kind):
                try:
                    self.source.check([*self.settings.words, override(key, value)])
                except Exception as error:
                    line = explain(error)
                    if line is None:
                        raise
                    raise ConfigurationError(f"{key}={typed(value)}: {line}") from None
        if self.config.env.suite == "none":
            text = "a search needs an environment: its score is the evaluation there"
            raise ConfigurationError(text)

    def env_set(self) -> dict[str, str]:
        """Variables of the environment that a recipe or a file sets for its runs."""
        return dict(self.source.compose(self.settings.words).hydra.job.env_set)

    def recipe(self) -> dict[str, Any]:
        """The recipe's values, where the space holds them: what the first trial tries."""
        composed = self.source.compose(self.settings.words)
        values = {k: OmegaConf.select(composed, k) for k in self.settings.space}
        return {k: value for k, value in values.items() if holds(self.settings.space[k], value)}


def _space(name: str | None, config: RunConfig) -> Space:
    if name == "none":
        return {}
    if name is not None:
        return read_space(Path(name))
    family = family_of_type(config.model.model_type)
    path = (family.conf or conf_dir()) / "search" / f"{family.name}.yaml"
    if not path.is_file():
        raise ConfigurationError(
            f"model={family.name} has no ready search space: give --space FILE"
        )
    return read_space(path)
