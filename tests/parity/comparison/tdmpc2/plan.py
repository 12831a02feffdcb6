"""plan.npz: consecutive planning calls with everything that happens inside them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tests.parity.comparison.compare import Comparison, Recorded, compare
from tests.parity.comparison.tdmpc2.subject import Subject
from worldflux.models.tdmpc2.planner import PlanNoise

# Relative to the largest number. The official float32 and float64 plans differ by up to 3e-5 in
# values and in the actions that are refitted to them.
PLAN = 2e-4
# A score is the exponential of temperature (0.5) times a value: those 3e-5 of values of about 120
# are 2e-3 of a score.
SCORE = 2e-3


class Planning:
    """The comparisons of planning calls, each from the mean that our own last call left."""

    def __init__(self, subject: Subject, recorded: Recorded, comparison: Comparison):
        self.subject, self.model = subject, subject.model
        self.recorded, self.comparison = recorded, comparison
        self.mean: Tensor = subject.agent.initial_carry(1)["mean"]

    @torch.no_grad()
    def run(self) -> None:
        obs = self.subject.tensor(self.recorded["in_plan_obs"])
        for call in range(len(obs)):
            self.call(f"plan{call}", obs[call : call + 1], first=call == 0)
        self.comparison.finish(self.recorded)

    def noise(self, name: str) -> PlanNoise:
        def get(key: str) -> Tensor:
            return self.subject.tensor(self.recorded[f"noise_{name}_{key}"])

        exploring = f"noise_{name}_action_noise" in self.recorded
        return PlanNoise(
            policy=get("pi_traj_eps")[:, None],
            sample=get("sample_noise")[:, None],
            value=get("value_pi_eps")[:, None],
            index=get("value_qidx"),
            exponential=get("exponential")[None],
            action=get("action_noise")[None] if exploring else None,
        )

    def call(self, name: str, obs: Tensor, first: bool) -> None:
        self.check(name, "prev_mean_before", self.mean[0])
        vector = self.model.observation({"obs": obs})
        begins = torch.tensor([first], device=self.mean.device)
        plan = self.subject.agent.planner(vector, self.mean, begins, self.noise(name))
        self.mean = plan.mean
        self.check(name, "pi_actions", plan.policy_actions[0])
        self.check(name, "first_actions", plan.rounds[0].actions[0])
        self.check(name, "values", torch.cat([r.values for r in plan.rounds]))
        self.check(name, "elite_values", torch.cat([r.elite_values for r in plan.rounds]))
        self.elites(name, torch.cat([r.elites for r in plan.rounds]), plan.chosen[0])
        self.check(name, "means", torch.cat([r.mean for r in plan.rounds]))
        self.check(name, "stds", torch.cat([r.std for r in plan.rounds]))
        self.check(name, "final_score", plan.rounds[-1].score[0], SCORE)
        self.check(name, "action", plan.action[0])
        self.check(name, "prev_mean_after", plan.mean[0])

    def check(self, name: str, what: str, ours: Tensor, tolerance: float = PLAN) -> None:
        self.comparison.check(self.recorded, f"out_{name}_{what}", ours, tolerance=tolerance)

    def elites(self, name: str, elites: Tensor, chosen: Tensor) -> None:
        """The same candidates are elites, whatever the order of equal ones, and the same one acts."""
        labels = f"out_{name}_elite_idx", f"out_{name}_chosen_elite"
        expected = self.recorded[labels[0]]
        place = int(self.recorded[labels[1]])
        prefix = self.recorded.prefix
        ours = np.sort(elites.cpu().numpy(), -1)
        rows = self.comparison.rows
        rows.append(compare(prefix + labels[0], np.sort(expected, -1), ours, 0.0))
        acting = float(elites[-1, chosen])
        rows.append(compare(prefix + labels[1], np.asarray(expected[-1, place]), acting, 0.0))
