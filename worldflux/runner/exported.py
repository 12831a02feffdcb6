"""A trained policy as a file that needs nothing of ours: ONNX, or a program of torch.export.

Letters: N environments, A flat action width.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldflux import __version__
from worldflux.core.agent import Carry, Entries
from worldflux.envs.border import Border
from worldflux.errors import ConfigurationError, MissingDependencyError, TrainingError
from worldflux.models.families import family_of_type
from worldflux.models.policy_step import PolicyStep
from worldflux.runner.trained import SavedModel, TrainedRun

FILES = {"onnx": "policy.onnx", "torch_export": "policy.pt2"}
OPSET = 20
CHECKED_STEPS = 100
SCHEMA = 1

Trained = TrainedRun | SavedModel
Call = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]  # tensors by name in, and out


def step_of(agent: Any, planner: bool = False, draws: bool = False) -> PolicyStep:
    """The step of an agent. planner: TD-MPC2 plans instead of asking its policy prior. draws: random
    numbers are inputs. ConfigurationError: its family cannot be exported, or not so."""
    family = family_of_type(agent.model.config.model_type)
    if not family.exported:
        raise ConfigurationError(f"models of the family {family.name!r} cannot be exported")
    step: PolicyStep = resolve_name(family.exported)(agent, planner, draws)
    return step.eval()


def eager(step: PolicyStep) -> Call:
    """The step itself."""

    def call(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            outputs = step(*(tensors[name] for name in step.input_names))
        return dict(zip(step.output_names, outputs, strict=True))

    return call


def write_policy(step: PolicyStep, format: str, folder: Path) -> Path:
    """Writes the step into a folder, with any number of environments; returns the file.

    MissingDependencyError: of the format's packages one is not installed.
    """
    if format == "onnx":
        _need("onnx", "onnxscript")
    folder.mkdir(parents=True, exist_ok=True)
    file, examples = folder / FILES[format], step.examples(2)
    batch = torch.export.Dim("batch")
    shapes = tuple(
        None if axis is None else {axis: batch} for axis in (_batch_axis(step, n) for n in examples)
    )
    inputs = tuple(examples.values())
    with torch.no_grad(), _quiet():
        program = torch.export.export(step, inputs, dynamic_shapes={"tensors": shapes})
        if format == "torch_export":
            torch.export.save(program, file)
        else:
            torch.onnx.export(
                program,
                inputs,
                file,
                input_names=step.input_names,
                output_names=step.output_names,
                opset_version=OPSET,
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    return file


def read_policy(step: PolicyStep, file: Path) -> Call | None:
    """The exported file as a function, by the package that runs it; None: it is not installed."""
    names = step.output_names
    if file.suffix == ".pt2":
        program = torch.export.load(file).module()

        def run(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            with torch.no_grad():
                outputs = program(*(tensors[name] for name in step.input_names))
            return dict(zip(names, outputs, strict=True))

        return run
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def infer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        feeds = {name: tensors[name].numpy() for name in step.input_names}
        return {
            k: torch.as_tensor(v) for k, v in zip(names, session.run(names, feeds), strict=True)
        }

    return infer


class StepAgent:
    """Acts by a step, as an agent does; draws are made here. beside: another function of the same
    inputs, whose largest difference in an output is kept in `difference`, of `compared` calls."""

    def __init__(self, step: PolicyStep, call: Call, seed: int = 0, beside: Call | None = None):
        self._step, self._call, self._beside = step, call, beside
        self._generator = torch.Generator().manual_seed(seed)
        self.difference, self.compared = 0.0, 0

    def initial_carry(self, n: int) -> Carry:
        examples = self._step.examples(n)
        return {key: examples[f"carry.{key}"] for key in self._step.carry}

    def act(
        self, carry: Carry, obs: Mapping[str, np.ndarray], explore: bool
    ) -> tuple[Carry, np.ndarray, Entries]:
        step = self._step
        rows = len(obs["is_first"])
        tensors, draws = step.examples(rows), step.drawn(rows, self._generator)
        for name, example in tensors.items():
            kind, _, key = name.partition(".")
            if kind == "carry":
                tensors[name] = carry[key]
            elif kind == "draw":
                tensors[name] = draws[key]
            else:
                value = torch.as_tensor(np.ascontiguousarray(obs[key or name]))
                tensors[name] = value.to(example.dtype)
        outputs = self._call(tensors)
        if self._beside is not None and self.compared < CHECKED_STEPS:
            others = self._beside(tensors)
            pairs = ((outputs[name].double(), others[name].double()) for name in outputs)
            self.difference = max(
                [self.difference, *(float((a - b).abs().max()) for a, b in pairs)]
            )
            self.compared += 1
        return {k: outputs[f"next.{k}"] for k in carry}, outputs["action"].numpy(), {}


@dataclass(frozen=True)
class Check:
    """steps: that were compared. difference: the largest one of an output. returns: of one greedy
    episode, played by the original and by the exported file."""

    steps: int
    difference: float
    returns: tuple[float, float]


def check_policy(played: Trained, step: PolicyStep, call: Call, seed: int) -> Check:
    """Plays an episode with the original, comparing every output of the exported file in its first
    steps, and another one with the exported file alone."""
    original = StepAgent(step, eager(step), seed, beside=call)
    scores = []
    for agent in (original, StepAgent(step, call, seed)):
        evaluation = played.evaluator(1)(agent, seed)
        if evaluation is None:
            raise TrainingError("the episode was not played to its end")
        scores.append(float(evaluation.mean))
    return Check(original.compared, original.difference, (scores[0], scores[1]))


def describe(played: Trained, step: PolicyStep, file: Path, check: Check | None) -> dict[str, Any]:
    """The content of policy.json: what goes in and out, and how an episode begins."""
    examples = step.examples(2)
    outputs = eager(step)(examples)
    draws = [
        {"input": f"draw.{key}", "distribution": draw.kind} for key, draw in step.draws.items()
    ]
    carry = [
        {"input": f"carry.{key}", "output": f"next.{key}", "initial": _initial(start)}
        for key, start in step.carry.items()
    ]
    reset = "set is_first to true with an episode's first observation, else to false"
    border = Border.of_env(played.env, played.layout)
    return {
        "schema_version": SCHEMA,
        "worldflux_version": __version__,
        "file": file.name,
        "family": family_of_type(played.model.model_type).name,
        "env": {"id": played.env.id, "suite": played.env.suite},
        "inputs": [_tensor(n, x, _batch_axis(step, n)) for n, x in examples.items()],
        "outputs": [_tensor(name, x, 0) for name, x in outputs.items()],
        "carry": carry,
        "reset": f"begin with the initial carry; {reset}" if step.takes_first else "no memory",
        "draws": draws,
        "deterministic": not draws,
        "action": border.actions(),
        "check": None
        if check is None
        else {
            "steps": check.steps,
            "largest_difference": check.difference,
            "return": check.returns[0],
            "exported_return": check.returns[1],
        },
    }


def write_description(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes policy.json."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    (folder / "policy.json").write_text(text, encoding="utf-8")


def single(played: Trained) -> Trained:
    """What can be exported: its agent on the CPU, without compiler; ConfigurationError for several
    tasks at once."""
    if played.env.tasks:
        text = f"{played.folder} plays {len(played.env.tasks)} tasks: name one"
        raise ConfigurationError(f"{text}, for example env.id={played.env.tasks[0]}")
    if isinstance(played, SavedModel):
        return played
    whole = played.training.with_updates(compile_model=False, mixed_precision=False)
    return replace(played, training=whole)


def _batch_axis(step: PolicyStep, name: str) -> int | None:
    return step.draws[name.removeprefix("draw.")].batch if name.startswith("draw.") else 0


def _tensor(name: str, value: Tensor, axis: int | None) -> dict[str, Any]:
    shape: list[int | str] = list(value.shape)
    if axis is not None:
        shape[axis] = "batch"
    return {"name": name, "shape": shape, "dtype": str(value.dtype).removeprefix("torch.")}


def _initial(start: Tensor) -> Any:
    """A number where all entries are the same, else all of one environment."""
    same = bool((start == start.flatten()[0]).all())
    return float(start.flatten()[0]) if same else start[0].tolist()


def _need(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        text = f"--format onnx needs {', '.join(missing)}: pip install 'worldflux[export]'"
        raise MissingDependencyError(text)


@contextmanager
def _quiet() -> Iterator[None]:
    """What torch's exporter says of itself is nothing a user can act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
