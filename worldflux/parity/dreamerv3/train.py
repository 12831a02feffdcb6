"""train_step*.npz: whole updates, their gradients, metrics and the parameters that they leave."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldflux.core.optim import adaptive_clip_
from worldflux.models.dreamerv3.objective import Noise, Step
from worldflux.models.dreamerv3.official import load_official, official_names
from worldflux.parity.compare import Comparison, Recorded, flatten_json
from worldflux.parity.dreamerv3.subject import Subject

MODULES = ("enc", "dyn", "dec", "rew", "con", "pol", "val")


def compare_training(subject: Subject, folder: Path, comparison: Comparison) -> None:
    """Adds a row for every array of a set's train steps, gradients, parameters and metrics."""
    Training(subject, folder, comparison).run()


class Training:
    """The comparisons of consecutive updates. B batch, T time, K starts, H imagined steps."""

    def __init__(self, subject: Subject, folder: Path, comparison: Comparison):
        self.subject, self.folder, self.comparison = subject, folder, comparison
        self.agent, self.model = subject.agent, subject.model
        self.names = official_names(self.model)
        tensors = dict(self.model.named_parameters())
        self.trained = {
            official: tensors[weight.name]
            for official, weight in self.names.items()
            if weight.name in tensors and tensors[weight.name].requires_grad
        }
        self.expected = Recorded(flatten_json(folder / "expected.json"), "expected/")
        self.gradients: dict[str, Tensor] = {}
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
        files = sorted(self.folder.glob("train_step*.npz"), key=lambda f: (len(f.name), f.name))
        for index, file in enumerate(files):
            self.step(index, Recorded.load(file, f"{file.stem}/"))
            self.after(index + 1, params.arrays, count)
        self.optimizer_state()
        self.comparison.finish(self.expected)

    # === One update ===================================================================

    def step(self, index: int, recorded: Recorded) -> None:
        batch = self.batch(recorded)
        noise = self.subject.noise(
            recorded["noise/obs_gumbel"],
            recorded["noise/img_gumbel"],
            recorded.group("noise/act_noise/"),
        )
        self.carry(index, recorded)
        self.inside(index, recorded, batch, noise)
        before = {name: param.detach().clone() for name, param in self.trained.items()}
        metrics, entries = self.agent.update(batch, noise)
        if "loss_total" in recorded:
            self.check(recorded, "loss_total", metrics["loss/total"])
        for key, value in entries.items():
            exact = key == "dyn/stoch"
            self.check(recorded, f"replay_update/{key}", value, exact)
        stepid = batch["stepid"][:, self.agent.replay_context :]
        self.check(recorded, "replay_update/stepid", stepid, exact=True)
        assert self.agent.train_carry is not None
        self.check_carry(recorded, "carry_out", self.agent.train_carry)
        for key, value in self.model.return_norm.named_buffers():
            self.check(recorded, f"retnorm_after/{key}", value)
        self.scalars(index, metrics, before)
        self.comparison.finish(recorded)

    def check(
        self, recorded: Recorded, name: str, ours: Tensor | np.ndarray | float, exact: bool = False
    ) -> None:
        self.comparison.check(recorded, name, ours, tolerance=0.0 if exact else None)

    def batch(self, recorded: Recorded) -> dict[str, Tensor]:
        """The recorded batch as the replay would give it, `[B, C+T, ...]`."""
        data = recorded.group("data/")
        actions = {key: data.pop(key) for key in self.subject.action_spaces}
        batch = self.subject.observations(data)
        return batch | {"action": self.subject.flat_action(actions)}

    def carry(self, index: int, recorded: Recorded) -> None:
        """The first carry is an input, later ones must be what the agent kept."""
        if index:
            assert self.agent.train_carry is not None
            self.check_carry(recorded, "carry_in", self.agent.train_carry)
            return
        latent = self.subject.latent(recorded.group("carry_in/"))
        action = self.subject.flat_action(recorded.group("carry_in/prevact/"))
        self.agent.train_carry = {**latent._asdict(), "action": action}

    def check_carry(self, recorded: Recorded, name: str, carry: Mapping[str, Tensor]) -> None:
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
                ours = self.names[name].to_official(grad)
                self.comparison.check(
                    grads, name, ours, tolerance=self.comparison.tolerances.gradient
                )
            self.comparison.finish(grads)
        file = self.folder / f"params_after{steps}.npz"
        if file.is_file():
            self.parameters(Recorded.load(file, f"{file.stem}/"), start, steps, count)

    def parameters(
        self, after: Recorded, start: Mapping[str, np.ndarray], steps: int, count: int
    ) -> None:
        state, tolerances = self.model.state_dict(), self.comparison.tolerances
        for name, weight in self.names.items():
            ours = weight.to_official(state[weight.name])
            scale = None
            if name in self.trained and name in after:
                scale = float(np.abs(after[name] - start[name]).max())
            tolerance = tolerances.forward if scale is None else tolerances.change
            self.comparison.check(after, name, ours, tolerance=tolerance, scale=scale)
        self.check(after, "slowval_count/value", count + self.agent.updates, exact=True)
        self.check(after, "opt/step/value", self.agent.updates, exact=True)
        self.comparison.finish(after)

    # === Inside an update ==============================================================

    def objective(self, batch: Mapping[str, Tensor], noise: Noise) -> Step:
        """The update's forward pass, without its effect on the return statistics."""
        norm = self.model.return_norm
        saved = {key: value.clone() for key, value in norm.state_dict().items()}
        step = self.agent.objective(*self.agent.context(batch), noise)
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
        for name in recorded.names("loss/"):
            if name in step.losses:
                self.check(recorded, f"loss/{name}", step.losses[name])
        if recorded.names("imag/"):
            self.imagined(recorded, step, noise)
        if recorded.names("rep/"):
            self.replayed(recorded, step, batch)
        if not index:
            self.loss_gradients(step, batch, noise)
            self.clipping(step)

    def context(self, recorded: Recorded, batch: Mapping[str, Tensor]) -> None:
        obs, start, previous = self.agent.context(batch)
        self.check(recorded, "ctx/carry/deter", start.deter)
        self.check(recorded, "ctx/carry/stoch", start.stoch)
        for key, value in self.subject.official_actions(previous).items():
            self.check(recorded, f"ctx/prevact/{key}", value, exact=True)
        self.check(recorded, "ctx/is_first", obs["is_first"], exact=True)
        stepid = batch["stepid"][:, self.agent.replay_context :]
        self.check(recorded, "ctx/stepid", stepid, exact=True)

    @torch.no_grad()
    def imagined(self, recorded: Recorded, step: Step, noise: Noise) -> None:
        assert self.model.actor is not None
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

    # === Scalars =========================================================================

    def scalar(
        self, name: str, ours: Tensor | float, tolerance: float, scale: float | None = None
    ) -> None:
        self.comparison.check(self.expected, name, ours, tolerance=tolerance, scale=scale)

    def loss_gradients(self, step: Step, batch: Mapping[str, Tensor], noise: Noise) -> None:
        """Which modules each loss reaches, and how strongly."""
        params = list(self.trained.values())
        for loss in step.losses:
            mean = self.objective(batch, noise).losses[loss].mean()
            grads = torch.autograd.grad(mean, params, allow_unused=True)
            name = f"per_loss_grad_norm_by_module/{loss}"
            self.scalar(f"{name}/value", mean, self.comparison.tolerances.forward)
            for module in MODULES:
                norms = [
                    grad.double().norm()
                    for key, grad in zip(self.trained, grads, strict=True)
                    if grad is not None and key.startswith(f"{module}/")
                ]
                norm = torch.stack(norms).norm() if norms else 0.0
                self.scalar(f"{name}/{module}", norm, self.comparison.tolerances.gradient)

    def clipping(self, step: Step) -> None:
        """Which gradients the optimizer clips in the first update."""
        total = self.agent.objective.total(step.losses)
        grads = torch.autograd.grad(total, list(self.trained.values()))
        for (name, param), grad in zip(self.trained.items(), grads, strict=True):
            clipped = grad.clone()
            adaptive_clip_([param], [clipped], self.agent.training.agc)
            row, tolerance = f"agc_step1/{name}", self.comparison.tolerances.gradient
            self.scalar(f"{row}/gnorm", grad.double().norm(), tolerance)
            self.scalar(f"{row}/pnorm", param.detach().double().norm(), tolerance)
            self.scalar(f"{row}/clipped", float(not torch.equal(clipped, grad)), 0.0)

    def scalars(
        self, index: int, metrics: Mapping[str, Tensor], before: Mapping[str, Tensor]
    ) -> None:
        """Metrics of an update, and the norms of gradients and parameter changes."""
        tolerances = self.comparison.tolerances
        grads = {name: grad.double() for name, grad in self.gradients.items()}
        changes = {n: p.detach().double() - before[n].double() for n, p in self.trained.items()}
        for name, grad in grads.items():
            self.scalar(f"steps/{index}/grad_norm/{name}", grad.norm(), tolerances.gradient)
        for name, change in changes.items():
            norm = change.norm()
            self.scalar(f"steps/{index}/update_norm/{name}", norm, tolerances.change)
        found = {name: float(value) for name, value in metrics.items()}
        found |= {
            "opt/loss": found["loss/total"],
            "opt/grad_rms": root_mean_square(grads),
            "opt/param_rms": root_mean_square(self.trained),
            "opt/update_rms": root_mean_square(changes),
            "opt/param_count": sum(param.numel() for param in self.trained.values()),
            "opt/updates": self.agent.updates,
        }
        for name in self.expected.names(f"steps/{index}/metrics/"):
            if name in found:
                kind = name.startswith("opt/")
                tolerance = tolerances.change if name == "opt/update_rms" else tolerances.forward
                if kind and tolerance == tolerances.forward:
                    tolerance = tolerances.gradient
                self.scalar(f"steps/{index}/metrics/{name}", found[name], tolerance)

    def optimizer_state(self) -> None:
        """Moments and counters after the last update."""
        prefix, tolerances = "opt_state_after/opt/state", self.comparison.tolerances
        for path in ("1/0", "2/0", "3/count"):
            self.scalar(f"{prefix}/{path}", self.agent.updates, 0.0)
        for place, moment in (("1/1", "nu"), ("2/1", "mu")):
            for name, param in self.trained.items():
                value = self.agent.optimizer.state[param][moment].double()
                ours = f"{prefix}/{place}/{name}"
                self.scalar(f"{ours}/l2", value.norm(), tolerances.change)
                self.scalar(f"{ours}/sum", value.sum(), tolerances.change, float(value.abs().sum()))
                shape = np.array(self.names[name].official_shape(param.shape))
                self.comparison.check(self.expected, f"{ours}/shape", shape, tolerance=0.0)


def root_mean_square(tensors: Mapping[str, Tensor]) -> float:
    """Over all elements of all tensors."""
    total = sum(float(value.detach().double().square().sum()) for value in tensors.values())
    return float((total / sum(value.numel() for value in tensors.values())) ** 0.5)
