"""`worldflux convert`: a worldflux.toml as an experiment of `worldflux-run`, and back."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from worldflux.cli.guarded import guarded_hydra
from worldflux.cli.parser import Parser
from worldflux.cli.train import told_with_lines
from worldflux.config import run as schema
from worldflux.config.composition import composed
from worldflux.config.files import environment_hidden
from worldflux.config.overrides import command
from worldflux.config.run import RunConfig
from worldflux.errors import ConfigurationError
from worldflux.project.convert import experiment, overrides, to_toml
from worldflux.project.mapping import settings
from worldflux.project.schema import FILE, load_config
from worldflux.run_folder.disk import disk_errors, write_atomic
from worldflux.run_folder.names import SAVED_CONFIG
from worldflux.runner import continuation

PROGRAM = "worldflux convert"
EXPERIMENTS = Path("conf") / "experiment"


def parser() -> Parser:
    made = Parser(
        prog=PROGRAM,
        description="worldflux.toml -> experiment YAML of worldflux-run; with --to toml, an "
        "experiment, a saved configuration or a run folder -> worldflux.toml.",
        epilog="exit codes: 0 fine, 1 written, but worldflux.toml cannot hold all of it (each value "
        "is named), 2 wrong input",
    )
    made.add_argument(
        "source", type=Path, nargs="?", default=Path(FILE), metavar="FILE", help=f"default: {FILE}"
    )
    made.add_argument("--to", choices=("yaml", "toml"), help="default: yaml for a .toml, else toml")
    made.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=f"default: {EXPERIMENTS}/<name>.yaml or {FILE}; - prints",
    )
    made.add_argument("--force", action="store_true", help="overwrite the file")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code."""
    return guarded_hydra(PROGRAM, lambda: _main(parser().read(argv)))


def _main(options: argparse.Namespace) -> int:
    is_toml = options.source.suffix == ".toml"
    target = options.to or ("yaml" if is_toml else "toml")
    if target == "yaml" and not is_toml:
        raise ConfigurationError(f"{options.source} is no .toml: --to yaml converts worldflux.toml")
    if target == "toml" and is_toml:
        raise ConfigurationError(f"{options.source} is a .toml already; --to yaml converts it")
    return _to_yaml(options) if target == "yaml" else _to_toml(options)


def _to_yaml(options: argparse.Namespace) -> int:
    config = load_config(options.source)
    of_file = settings(config)
    with told_with_lines(config, of_file):
        composed(overrides(of_file))
    text = experiment(of_file, f"{config.project_name}, as worldflux train runs it.")
    path = _write(text, options, EXPERIMENTS / f"{slug(config.project_name)}.yaml")
    if path is not None:
        flags = (
            ["--config-dir", f"{path.parent.parent}"] if path.parent.name == "experiment" else []
        )
        line = command("worldflux-run", *flags, f"+experiment={path.stem}")
        print(f"wrote {path}; run it with: {line}")
    return 0


def _to_toml(options: argparse.Namespace) -> int:
    with environment_hidden():
        run = run_of(options.source)
    text, lost = to_toml(run, options.source.resolve().stem)
    path = _write(text, options, Path(FILE))
    if path is not None:
        print(f"wrote {path}; run it with: worldflux train")
    for line in lost:
        print(f"{PROGRAM}: worldflux.toml cannot hold {line}", file=sys.stderr)
    return int(bool(lost))


def run_of(path: Path) -> RunConfig:
    """The configuration of a run folder, of its .hydra/config.yaml, or of an experiment."""
    schema.register()
    saved = path / SAVED_CONFIG if path.is_dir() else path
    if not saved.is_file():
        raise ConfigurationError(f"{path} is neither an experiment nor a run folder")
    content = continuation.loaded(saved)
    if not isinstance(content, DictConfig):
        raise ConfigurationError(f"{saved} holds no configuration of names and values")
    if OmegaConf.select(content, "model.model_type") is not None and "defaults" not in content:
        return schema.run_config(continuation.typed(saved))
    with tempfile.TemporaryDirectory() as folder:
        # A file of any place, as the option of a group.
        (Path(folder) / "experiment").mkdir()
        shutil.copy(saved, Path(folder) / "experiment" / "converted.yaml")
        beside = [saved.parent.parent] if saved.parent.name == "experiment" else []
        return composed(["+experiment=converted"], Path(folder), *beside)


def slug(name: str) -> str:
    """A project's name as the name of an experiment, which Hydra takes on its command line."""
    return re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_") or "project"


def _write(text: str, options: argparse.Namespace, default: Path) -> Path | None:
    if options.output == "-":
        print(text, end="")
        return None
    path = Path(options.output) if options.output else default
    if path.exists() and not options.force:
        if path.is_file() and path.read_bytes() == text.encode():
            return path
        raise ConfigurationError(f"{path} is there already; --force overwrites it")
    with disk_errors("file", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    return path


if __name__ == "__main__":
    sys.exit(main())
