"""The `worldflux` command: everything but training, one verb each."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from worldflux import __version__
from worldflux.cli.leaving import leaving
from worldflux.config.fields import near_miss
from worldflux.training.output import lasting_output

# Verb -> module with a `main(argv) -> exit code`, and what it does.
VERBS = {
    "init": ("worldflux.cli.init", "make a project: worldflux.toml and the files beside it"),
    "train": ("worldflux.cli.train", "train what a project's worldflux.toml describes"),
    "convert": (
        "worldflux.cli.convert",
        "worldflux.toml to an experiment of worldflux-run, and back",
    ),
    "explain": ("worldflux.cli.explain", "what a key of a run or of worldflux.toml means"),
    "schema": ("worldflux.cli.schema", "JSON schemas of the YAML groups and of worldflux.toml"),
    "search": ("worldflux.cli.search", "look for hyperparameters with Optuna"),
    "models": ("worldflux.cli.models", "list the presets with their parameter counts"),
    "eval": ("worldflux.cli.evaluate", "play episodes with a trained run or a model"),
    "verify": (
        "worldflux.cli.verify",
        "check a finished run, or compare seeds with published ones",
    ),
    "report": ("worldflux.cli.report", "compare runs and sweeps: curves, tables, a page"),
    "imagine": ("worldflux.cli.imagine", "picture what a trained model imagines"),
    "record": ("worldflux.cli.record", "play episodes and write them as a file to train on"),
    "data": ("worldflux.cli.data", "what recorded episodes hold, and the same in another format"),
    "import": ("worldflux.cli.import_model", "make a model folder of an official checkpoint"),
    "export": (
        "worldflux.cli.export_model",
        "write a policy as ONNX or torch.export, a model as an official checkpoint",
    ),
    "push": ("worldflux.cli.push", "upload a model with its card to the Hugging Face hub"),
}

_HELP = """\
usage: worldflux VERB ...

{verbs}

worldflux VERB --help explains a verb; worldflux --version prints the version.
Without a project, training is worldflux-run: see worldflux-run --help.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        rows = (f"  {verb:<10}{about}" for verb, (_, about) in VERBS.items())
        print(_HELP.format(verbs="\n".join(rows)), end="")
        return 0
    if words[0] in ("-V", "--version"):
        print(f"worldflux {__version__}")
        return 0
    if words[0] not in VERBS:
        line = f"unknown verb {words[0]!r}; there are {', '.join(VERBS)}."
        print(f"worldflux: error: {line}{near_miss(words[0], VERBS)}", file=sys.stderr)
        return 2

    def run() -> int:
        with lasting_output():
            code: int = importlib.import_module(VERBS[words[0]][0]).main(words[1:])
            return code

    return leaving(run) if argv is None else run()
