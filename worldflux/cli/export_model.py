"""`worldflux export`: models of ours become official checkpoints, trained policies files that need
nothing of ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from worldflux.cli.guarded import verb
from worldflux.cli.import_model import official
from worldflux.cli.parser import SEED, TRUST, Parser
from worldflux.errors import ConfigurationError
from worldflux.models.families import family

POLICY = "policy"
TOLERANCE = 1e-4


def parser() -> Parser:
    made = Parser(
        "worldflux export",
        description="`export policy RUN` writes one step of a trained policy, and checks it against the"
        " original. `export FAMILY DIR` writes the weights of a model folder as the official"
        " implementation saves them, so that it can load them.",
    )
    made.add_argument(
        "family",
        metavar="WHAT",
        help="policy, or the family whose official checkpoints can be written",
    )
    made.add_argument(
        "model",
        type=Path,
        metavar="DIR",
        help="of a policy a run, a checkpoint or a model folder; else a folder of save_pretrained",
    )
    made.add_argument(
        "overrides",
        nargs="*",
        metavar="env...",
        help="the environment to check a policy in, as `worldflux eval` takes it; a run's own unless"
        " given, a model needs one",
    )
    made.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="a new folder, or a new .pt file"
    )
    made.add_argument(
        "--format",
        choices=("onnx", "torch_export"),
        default="onnx",
        help="of a policy; onnx unless given",
    )
    made.add_argument(
        "--planner",
        action="store_true",
        help="a TD-MPC2 policy plans, with its fixed number of iterations; else its policy prior acts",
    )
    made.add_argument(
        "--draws",
        action="store_true",
        help="random numbers are inputs of a policy; else it is deterministic",
    )
    made.add_argument(
        "--checkpoint", default="best", metavar="NAME", help="best (default), latest, step_..."
    )
    made.add_argument("--seed", type=int, default=SEED, help="of the environment of the check")
    made.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="X",
        help="exit with 1 if an output of the exported policy differs by more; default: %(default)s",
    )
    made.add_argument("--trust", action="store_true", help=TRUST)
    return made


def _main(options: argparse.Namespace) -> int:
    if options.family == POLICY:
        return _policy(options)
    if options.overrides:
        text = f"{options.overrides[0]}: only `export policy` takes an environment"
        raise ConfigurationError(text)
    module = official(options.family, "export_checkpoint")
    try:
        kind = family(options.family).model_class()
        model = kind.from_pretrained(options.model, trust=options.trust)
    except TypeError as error:  # another family's model
        raise ConfigurationError(str(error)) from None
    if components := model.config.components:
        text = f"{options.model} has a network of its own ({', '.join(components)})"
        raise ConfigurationError(f"{text}, which the official implementation has not")
    module.export_checkpoint(model, options.out)
    print(f"{options.out}: official {options.family} checkpoint")
    return 0


def _policy(options: argparse.Namespace) -> int:
    from worldflux.runner import exported  # PyTorch: nothing for --help
    from worldflux.runner.trained import open_trained

    if options.out.exists() and (options.out.is_file() or any(options.out.iterdir())):
        raise ConfigurationError(f"--out {options.out} is there already: name a new folder")
    opened = open_trained(options.model, options.checkpoint, options.overrides, options.trust)
    played = exported.single(opened)
    step = exported.step_of(played.agent("cpu"), options.planner, options.draws)
    file = exported.write_policy(step, options.format, options.out)
    call = exported.read_policy(step, file)
    check = None if call is None else exported.check_policy(played, step, call, options.seed)
    content = exported.describe(played, step, file, check)
    exported.write_description(options.out, content)
    print(
        f"{file}: {len(content['inputs'])} inputs, {len(content['outputs'])} outputs; see policy.json"
    )
    if check is None:
        print("not checked: onnxruntime is not installed (pip install 'worldflux[export]')")
        return 0
    wrong = not check.difference <= options.tolerance
    print(
        f"largest difference {check.difference:.3g} in {check.steps} steps"
        f" ({'above' if wrong else 'within'} the tolerance {options.tolerance:g});"
        f" return {check.returns[0]:.6g}, exported {check.returns[1]:.6g}"
    )
    return int(wrong)


main = verb(parser, _main)
