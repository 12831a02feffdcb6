"""The YAML groups of installed families on Hydra's search path, for every command that composes."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from worldflux.models.families import conf_folders


class FamilyFolders(SearchPathPlugin):
    """Files of ours come first, those of a user's ``hydra.searchpath`` last."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for name, folder in conf_folders().items():
            search_path.append(f"family {name}", f"file://{folder}")
