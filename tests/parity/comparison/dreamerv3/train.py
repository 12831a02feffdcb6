"""train_step*.npz: whole updates, what happens inside them and the parameters that they leave."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.parity.comparison.compare import Comparison, Recorded, flatten_json
from tests.parity.comparison.dreamerv3.official import to_official
from tests.parity.comparison.dreamerv3.scalars import Scalars
from tests.parity.comparison.dreamerv3.subject import Subject
from worldflux.core.agent import Carry
from worldflux.models.dreamerv3.modules import metric_name
from worldflux.models.dreamerv3.objective import Noise, Step
from worldflux.models.dreamerv3.official.weights import load_official, official_names


def compare_training(subject: Subject, folder: Path, comparison: Comparison) -> None:
    """Adds a row for every array of a set's train steps, gradients, parameters and metrics.

    The agent is updated by its own `update`, once for each recorded step.
    """
    Training(subject, folder, comparison).run()


class Training:
    """The comparisons of consecutive updates. B batch, T time, K starts, H imagined steps."""

    def __init__(self, subject: Subject, folder: Path, comparison: Comparison):
        self.subject, self.folder, self.comparison = subject, folder, comparison
        self.agent, self.model = subject.agent, subject.model
        self.names = official_names(self.model)
        tensors = dict(self.model.named_parameters())
        self.trained: dict[str, Tensor] = {
            official: tensors[weight.name]
            for official, weight in self.names.items()
            if weight.name in tensors and tensors[weight.name].requires_grad
        }
        expected = Recorded(flatten_json(folder / "expected.json"), "expected/")
        self.scalars = Scalars(self.agent, self.trained, self.names, expected, comparison)
        self.gradients: dict[str, Tensor] = {}
        self.carry: Carry = {}
        self.tolerance = comparison.tolerances.forward
        self.agent.optimizer.register_step_pre_hook(self._keep_gradients)

    def _keep_gradients(self, *_: Any) -> None:
        self.gradients = {
            name: param.grad.clone()
            for name, param in self.trained.items()
            if param.grad is not None
        }

    def run(self) -> None:
        params = Recorded.load(self.folder / "params.npz", "params/")
        load_official(self.model, {name: params[name] for name in self.names})
        count = int(params["slowval_count/value"])
        self.comparison.finish(params)
        for index in range(len(list(self.folder.glob("train_step*.npz")))):
            name = f"train_step{index + 1}"
            self.step(index, Recorded.load(self.folder / f"{name}.npz", f"{name}/"))
            self.after(index + 1, params.arrays, count)
            self.tolerance = self.comparison.tolerances.later
        self.scalars.optimizer_state()
        self.comparison.finish(self.scalars.expected)

    def check(
        self, recorded: Recorded, name: str, ours: Tensor | np.ndarray | float, exact: bool = False
    ) -> None:
        self.comparison.check(recorded, name, ours, tolerance=0.0 if exact else self.tolerance)

    # === One update ===================================================================

    def step(self, index: int, recorded: Recorded) -> None:
        batch = self.batch(recorded)
        noise = self.subject.noise(
            recorded["noise/obs_gumbel"],
            recorded["noise/img_gumbel"],
            recorded.group("noise/act_noise/"),
        )
        self.take_carry(index, recorded)
        self.inside(index, recorded, batch, noise)
        before = {name: param.detach().clone() for name, param in self.trained.items()}
        metrics, entries, self.carry = self.agent.update(batch, self.carry, noise)
        if "loss_total" in recorded:
            self.check(recorded, "loss_total", metrics["loss/total"])
        for key, value in entries.items():
            self.check(recorded, f"replay_update/{key}", value, exact=key == "dyn/stoch")
        stepid = batch["stepid"][:, self.agent.replay_context :]
        self.check(recorded, "replay_update/stepid", stepid, exact=True)
        self.check_carry(recorded, "carry_out")
        for key, value in self.model.return_norm.named_buffers():
            self.check(recorded, f"retnorm_after/{key}", value)
        self.scalars.update(index, metrics, self.gradients, before)
        self.comparison.finish(recorded)

    def batch(self, recorded: Recorded) -> dict[str, Tensor]:
        """The recorded batch as the replay would give it, `[B, C+T, ...]`."""
        data = recorded.group("data/")
        actions = {key: data.pop(key) for key in self.subject.action_spaces}
        batch = self.subject.observations(data)
        return batch | {"action": self.subject.flat_action(actions)}

    def take_carry(self, index: int, recorded: Recorded) -> None:
        """The first carry is an input, later ones must be what the update before returned."""
        if index:
            self.check_carry(recorded, "carry_in")
            return
        latent = self.subject.latent(recorded.group("carry_in/"))
        action = self.subject.flat_action(recorded.group("carry_in/prevact/"))
        self.carry = {**latent._asdict(), "action": action}

    def check_carry(self, recorded: Recorded, name: str) -> None:
        carry = self.carry
        self.check(recorded, f"{name}/deter", carry["deter"])
        self.check(recorded, f"{name}/stoch", carry["stoch"], exact=True)
        for key, value in self.subject.official_actions(carry["action"]).items():
            self.check(recorded, f"{name}/prevact/{key}", value, exact=True)

    def after(self, steps: int, start: Mapping[str, np.ndarray], count: int) -> None:
        """Gradients and parameters of this many updates, where they were recorded."""
        file = self.folder / f"grads_step{steps}.npz"
        if file.is_file():
            grads = Recorded.load(file, f"{file.stem}/")
            for name, grad in self.gradients.items():
                ours = to_official(self.names[name], grad)
                tolerance = self.scalars.gradient_tolerance(steps - 1)
                self.comparison.check(grads, name, ours, tolerance=tolerance)
            self.comparison.finish(grads)
        file = self.folder / f"params_after{steps}.npz"
        if file.is_file():
            self.parameters(Recorded.load(file, f"{file.stem}/"), start, count)

    def parameters(self, after: Recorded, start: Mapping[str, np.ndarray], count: int) -> None:
        state = self.model.state_dict()
        for name, weight in self.names.items():
            ours = to_official(weight, state[weight.name])
            if name in self.trained:
                self.comparison.check_change(after, name, ours, start[name])
            else:
                self.check(after, name, ours)
        self.check(after, "slowval_count/value", count + self.agent.updates, exact=True)
        self.check(after, "opt/step/value", self.agent.updates, exact=True)
        self.comparison.finish(after)

    # === Inside an update ==============================================================

    def objective(self, batch: Mapping[str, Tensor], noise: Noise) -> Step:
        """The update's forward pass, without its effect on the return statistics."""
        norm = self.model.return_norm
        saved = {key: value.clone() for key, value in norm.state_dict().items()}
        step = self.agent.objective(*self.agent.context(batch, self.carry), noise)
        norm.load_state_dict(saved)
        return step

    def inside(
        self, index: int, recorded: Recorded, batch: Mapping[str, Tensor], noise: Noise
    ) -> None:
        """Intermediate results, where they were recorded."""
        step = self.objective(batch, noise)
        if recorded.names("ctx/"):
            self.context(recorded, batch)
        if recorded.names("feat/"):
            self.check(recorded, "feat/deter", step.latent.deter)
            self.check(recorded, "feat/stoch", step.latent.stoch, exact=True)
            self.check(recorded, "feat/logit", step.logit)
        if recorded.names("loss/"):
            for name, loss in step.losses.items():
                self.check(recorded, metric_name(name), loss)
        if recorded.names("imag/"):
            self.imagined(recorded, step, noise)
        if recorded.names("rep/"):
            self.replayed(recorded, step, batch)
        if not index:
            self.scalars.clipping(self.agent.objective.total(step.losses))
            for name in step.losses:
                official = metric_name(name).removeprefix("loss/")
                mean = self.objective(batch, noise).losses[name].mean()
                self.scalars.loss_gradients(official, mean)

    def context(self, recorded: Recorded, batch: Mapping[str, Tensor]) -> None:
        obs, start, previous = self.agent.context(batch, self.carry)
        self.check(recorded, "ctx/carry/deter", start.deter, exact=True)
        self.check(recorded, "ctx/carry/stoch", start.stoch, exact=True)
        for key, value in self.subject.official_actions(previous).items():
            self.check(recorded, f"ctx/prevact/{key}", value, exact=True)
        self.check(recorded, "ctx/is_first", obs["is_first"], exact=True)
        stepid = batch["stepid"][:, self.agent.replay_context :]
        self.check(recorded, "ctx/stepid", stepid, exact=True)

    @torch.no_grad()
    def imagined(self, recorded: Recorded, step: Step, noise: Noise) -> None:
        imagined = self.agent.objective.imagine(step.latent, noise)
        action = imagined.action.transpose(0, 1)  # [N, H+1, A]
        for key, value in self.subject.official_actions(action).items():
            exact = self.subject.action_spaces[key].discrete
            self.check(recorded, f"imag/action/{key}", value, exact)
        events = self.subject.split_action(imagined.action)
        for key, dist in self.model.actor(imagined.feat).parts.items():
            self.check(recorded, f"imag/logp/{key}", dist.logp(events[key]).T)
            self.check(recorded, f"imag/entropy/{key}", dist.entropy().T)
        for key in ("rew", "con", "val", "slowval", "weight", "ret", "policy_loss", "value_loss"):
            self.check(recorded, f"imag/{key}", step.arrays[f"imag/{key}"])

    def replayed(self, recorded: Recorded, step: Step, batch: Mapping[str, Tensor]) -> None:
        obs, _, _ = self.agent.context(batch)
        starts = self.model.starts(obs["is_first"].shape[1])
        for key, ours in (("last", "is_last"), ("term", "is_terminal"), ("rew", "reward")):
            self.check(recorded, f"rep/{key}", obs[ours][:, -starts:], exact=True)
        for key in ("boot", "ret", "val", "slowval"):
            width = starts - 1 if key == "ret" else starts
            self.check(recorded, f"rep/{key}", step.arrays[f"rep/{key}"][:, -width:])
