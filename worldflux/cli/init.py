"""`worldflux init`: makes a project that `worldflux train` trains as it is."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from worldflux.cli.guarded import guarded_hydra
from worldflux.cli.parser import Parser
from worldflux.config.fields import near_miss
from worldflux.config.overrides import command
from worldflux.errors import ConfigurationError
from worldflux.models.families import DEFAULT, Family, families
from worldflux.project.create import (
    ENVIRONMENTS,
    NewProject,
    configuration,
    files,
    write,
)
from worldflux.project.sections import Architecture, Training, plain_text
from worldflux.reference import FILE, json_schemas

PROGRAM = "worldflux init"
NAME = "my-project"
SCHEMA = f"{FILE}.schema.json"  # by which an editor completes and checks the file
T = TypeVar("T")
DRAWN_BY_PYGAME = ("cartpole", "pendulum")


def parser() -> Parser:
    made = Parser(
        prog=PROGRAM,
        description="Makes a project. Asks what no flag gives, or reads it from stdin line by line.",
        epilog="exit codes: 0 fine, 2 wrong input, 130 cancelled",
    )
    made.add_argument(
        "dir", nargs="?", type=Path, metavar="DIR", help="default: the project's name"
    )
    made.add_argument("--name", help=f"the project's name (default: DIR's, or {NAME})")
    made.add_argument(
        "--environment", choices=list(ENVIRONMENTS), help="what to learn (default: cartpole)"
    )
    made.add_argument("--env-id", metavar="ID", help="any Gymnasium id, or dmc/walker-walk")
    made.add_argument("--model", choices=list(by_name()), help=f"default: {DEFAULT.toml_name}")
    made.add_argument("--obs-shape", metavar="N,N", help="without an environment: such as 3,64,64")
    made.add_argument("--action-dim", type=int, metavar="N", help="without an environment")
    made.add_argument("--steps", type=int, metavar="N", help="gradient updates")
    made.add_argument("--device", default="auto", help="default: auto")
    made.add_argument("-y", "--yes", action="store_true", help="ask nothing, take the defaults")
    made.add_argument("--force", action="store_true", help="overwrite files that are there")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code."""
    return guarded_hydra(PROGRAM, lambda: _main(parser().read(argv)))


def _main(options: argparse.Namespace) -> int:
    new = requested(options)
    folder = options.dir or Path(new.project_name)
    content = files(new, configuration(new))
    content[SCHEMA] = json.dumps(json_schemas()[FILE], indent=2) + "\n"
    content[FILE] = f"#:schema ./{SCHEMA}\n{content[FILE]}"
    write(folder, content, force=options.force)
    print(f"made {folder}: {', '.join(content)}")
    for line in hints(new):
        print(line)
    go = "" if folder.resolve() == Path.cwd() else f"{command('cd', str(folder))} && "
    print(f"next: {go}worldflux train")
    return 0


def hints(new: NewProject) -> list[str]:
    """The lines that install what the project shows and this Python lacks."""
    lines = []
    if importlib.util.find_spec("starlette") is None:
        lines.append("for the live dashboard: pip install 'worldflux[dashboard]'")
    if new.environment in DRAWN_BY_PYGAME and importlib.util.find_spec("pygame") is None:
        lines.append("for frames of the environment: pip install 'worldflux[render]'")
    return lines


def by_name() -> dict[str, Family]:
    """Every family by its name in worldflux.toml."""
    return {one.toml_name: one for one in families()}


def requested(options: argparse.Namespace) -> NewProject:
    """The project of the flags, and of the answers to what they leave open."""
    prompt = Prompt(silent=options.yes)
    default = options.dir.resolve().name if options.dir else NAME
    name = options.name or prompt.text("project name", default, _name)
    environment = options.environment
    if environment is None and options.env_id:
        environment = {v: k for k, v in ENVIRONMENTS.items()}.get(options.env_id, "custom")
    environment = environment or prompt.choice("environment", ENVIRONMENTS, "cartpole")
    env_id = options.env_id or ENVIRONMENTS[environment]
    sized = options.obs_shape is not None or options.action_dim is not None
    if environment == "custom" and not env_id and not sized:
        env_id = prompt.text("Gymnasium id (empty: none yet)", "", plain)
    titles = {name: one.title for name, one in by_name().items()}
    family = options.model or prompt.choice("model", titles, DEFAULT.toml_name)
    steps = {} if options.steps is None else {"total_steps": options.steps}
    Training(device=options.device, **steps)
    new = NewProject(
        project_name=_name(name),
        environment=environment,
        family=by_name()[family],
        gym_env=plain(env_id),
        total_steps=options.steps,
        device=options.device,
    )
    if new.gym_env:
        if sized:
            text = "--obs-shape and --action-dim are read off the environment; leave them out"
            raise ConfigurationError(text)
        return new
    shape, width = options.obs_shape, options.action_dim
    shape = prompt.text("observation shape", "4", _shape) if shape is None else _shape(shape)
    width = prompt.text("action width", "2", _width) if width is None else width
    Architecture(obs_shape=shape, action_dim=width)
    return replace(new, obs_shape=shape, action_dim=width)


class Prompt:
    """Questions on the terminal, or answers from stdin, one a line. An empty answer is the default.

    silent: everything takes its default.
    """

    def __init__(self, silent: bool) -> None:
        self.silent = silent

    def text(self, what: str, default: str, read: Callable[[str], T]) -> T:
        """An answer that `read` takes; at a terminal the question is repeated until it does."""
        while True:
            answer = self._answer(f"{what} [{default}]: ") or default
            try:
                return read(answer)
            except ConfigurationError as error:
                if self.silent or not sys.stdin.isatty():
                    raise
                print(error, file=sys.stderr)

    def choice(self, what: str, options: dict[str, str], default: str) -> str:
        """One of the options, by number or name."""
        names = list(options)
        if not self.silent:
            for number, name in enumerate(names, 1):
                print(f"  {number} {name:<10}{options[name]}")

        def read(answer: str) -> str:
            if answer.isdecimal() and 1 <= int(answer) <= len(names):
                return names[int(answer) - 1]
            if answer in names:
                return answer
            text = f"{what} must be 1 to {len(names)} or a name; got {answer!r}."
            raise ConfigurationError(text + near_miss(answer[:40], names))

        return self.text(what, str(names.index(default) + 1), read)

    def _answer(self, prompt: str) -> str:
        if self.silent:
            return ""
        try:
            return input(prompt).strip()
        except EOFError:
            if sys.stdin.isatty():  # Ctrl-D: cancelled
                raise KeyboardInterrupt from None
            text = f"no answer to {prompt.partition(' [')[0]!r}: the input ended"
            raise ConfigurationError(text, hint="--yes takes every default") from None


def plain(text: str) -> str:
    """A text that a worldflux.toml may hold."""
    wrong = plain_text(text)
    if wrong:
        raise ConfigurationError(f"the answer {wrong}")
    return text.strip()


def _name(text: str) -> str:
    name = plain(text)
    if not name or "/" in name or name in (".", ".."):
        raise ConfigurationError(f"a project's name is no path; got {text!r}")
    return name


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\[?\d{1,9}([x,] ?\d{1,9})*\]?", text):
        raise ConfigurationError(f"{text!r} is no shape such as 3,64,64")
    shape = tuple(int(part) for part in re.findall(r"\d+", text))
    return Architecture(obs_shape=shape).obs_shape


def _width(text: str) -> int:
    try:
        return Architecture(action_dim=int(text)).action_dim
    except ValueError:
        raise ConfigurationError(f"action width must be a whole number, got {text!r}") from None


if __name__ == "__main__":
    sys.exit(main())
