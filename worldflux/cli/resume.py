"""`resume=RUN`: continue a stopped run with the configuration it was started with."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override, Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from worldflux.cli import preflight
from worldflux.cli.schema import RunConfig, composed_schema, model_schema
from worldflux.core.config import WorldModelConfig
from worldflux.core.presets import conf_dir
from worldflux.errors import ConfigurationError

CONFIG_NAME = "resume"
SAVED = Path(".hydra") / "config.yaml"


def requested(overrides: list[Override]) -> str | None:
    """The run folder that `resume=` names, None if there is none."""
    for override in overrides:
        if override.get_key_element() == "resume":
            if override.is_sweep_override():
                raise ConfigurationError("resume takes one run; resume the runs one by one")
            value = override.value()
            return None if value is None else str(value)
    return None


def prepare(run: str, overrides: list[Override], multirun: bool) -> list[str]:
    """Registers the run's saved configuration and returns the overrides that continue it."""
    if multirun:
        raise ConfigurationError("resume continues one run: leave out -m")
    folder = Path(run)
    saved = folder / SAVED
    if not saved.is_file():
        raise ConfigurationError(f"resume={run} is no run: {_why(folder)}")
    groups = [o for o in overrides if "/" in o.get_key_element() or _chooses_group(o)]
    if groups:
        word = groups[0].input_line
        text = f"{word}: a resumed run keeps its own groups; single values can be changed"
        raise ConfigurationError(text)
    ConfigStore.instance().store(name="saved_run", node=typed(saved))
    rest = [str(o.input_line) for o in overrides if o.get_key_element() != "resume"]
    path = str(folder.resolve())
    return [*rest, f"resume={_quoted(run)}", f"hydra.run.dir={_quoted(path)}"]


def config_of(folder: Path, words: list[str]) -> RunConfig:
    """The configuration that continues the run in `folder`, with these overrides over it."""
    overrides = prepare(str(folder), preflight.parse_overrides(words), multirun=False)
    return preflight.Composition(conf_dir(), CONFIG_NAME).check(overrides)


def _chooses_group(override: Override) -> bool:
    return override.get_key_element() in ("model", "env", "data", "training", "logger", "dashboard")


def _why(folder: Path) -> str:
    if not folder.exists():
        return "there is no such folder"
    if not folder.is_dir():
        return "it is a file"
    runs = sorted(path.parents[1] for path in folder.glob(f"*/{SAVED}"))
    if runs:
        return f"it holds {len(runs)} runs, for example {runs[0]}"
    return f"{SAVED} is missing in it"


def typed(saved: Path) -> DictConfig:
    """A saved configuration with the schema it was composed by."""
    content = OmegaConf.load(saved)
    kind = OmegaConf.select(content, "model.model_type")
    if not isinstance(content, DictConfig) or kind not in WorldModelConfig.families:
        raise ConfigurationError(f"{saved} is no configuration of a run")
    schema = composed_schema()
    schema.model = model_schema(WorldModelConfig.families[kind])
    return OmegaConf.merge(schema, content)  # type: ignore[return-value]


def _quoted(text: str) -> str:
    return QuotedString(text=text, quote=Quote.single).with_quotes()
