"""The Python entry to worldflux.toml: `load_config("worldflux.toml")`."""

from worldflux.project.schema import ProjectConfig, ProjectFileError, load_config

__all__ = ["ProjectConfig", "ProjectFileError", "load_config"]
