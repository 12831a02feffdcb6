"""forward.npz and checkpoint_io.npz: the single functions, each fed with recorded inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.parity.comparison.compare import Comparison, Recorded
from tests.parity.comparison.tdmpc2.subject import Doubles, Subject, Twice
from worldflux.core.math import episode_discount, symexp, symlog, symlog_two_hot
from worldflux.models.tdmpc2.distributions import SquashedNormal, SymlogTwoHot
from worldflux.models.tdmpc2.losses import entropies, termination_statistics
from worldflux.models.tdmpc2.networks import QScale

# Of the squashed log-density, whose slope near the bounds magnifies rounding: the official float32
# and float64 numbers themselves differ by 5e-5.
ENTROPY = 2e-4


class Forward:
    """The comparisons of one folder's single functions. N rows, L latent, K bins."""

    def __init__(
        self, subject: Subject, recorded: Recorded, doubles: Doubles, comparison: Comparison
    ):
        self.subject, self.model, self.recorded = subject, subject.model, recorded
        self.check = Twice(recorded, doubles, comparison, subject.dtype)

    def __getitem__(self, name: str) -> Tensor:
        return self.subject.tensor(self.recorded[name])

    @torch.no_grad()
    def run(self) -> None:
        self.networks()
        self.policy()
        self.values()
        if self.model.termination is not None:
            self.termination()
        self.scalars()
        self.scale()
        self.discount()

    def networks(self) -> None:
        model = self.model
        self.z, self.action = (
            model.latent(model.observation({"obs": self["in_obs"]})),
            self["in_action"],
        )
        self.check("encode", self.z)
        self.check("next", model.next(self.z, self.action))
        self.check("next_zfree", model.next(self["in_z_free"], self.action))
        reward = model.reward_dist(self.z, self.action)
        self.check("reward_logits", reward.logits)
        self.check("reward_value", reward.pred()[:, None])

    def policy(self) -> None:
        dist, noise = self.model.pi.dist(self.z), self["noise_pi_eps"]
        assert isinstance(dist, SquashedNormal)
        self.check("pi_raw", self.model.pi(self.z))
        self.check("pi_mean", dist.pred())
        self.check("pi_log_std", dist.log_std)
        self.check("pi_action", dist.sample(noise))
        entropy, scaled = entropies(dist, noise)
        self.check("pi_entropy", entropy[:, None], ENTROPY)
        self.check("pi_scaled_entropy", scaled[:, None])

    def values(self) -> None:
        pair = self.z, self.action
        for suffix, target in (("", False), ("_target", True)):
            self.check(f"q_logits{suffix}", self.model.q_logits(*pair, target=target))
            values = self.model.q_values(*pair, target=target)[..., None]
            self.check(f"q_values{suffix}", values)
            for name in ("min", "avg"):
                label = f"q_{name}{suffix}"
                if f"noise_{label}_qidx" not in self.recorded:
                    continue
                index = self.subject.tensor(self.recorded[f"noise_{label}_qidx"])
                drawn = self.model.q_values(*pair, index, target=target)[..., None]
                self.check(label, drawn.amin(0) if name == "min" else drawn.mean(0))

    def termination(self) -> None:
        assert self.model.termination is not None
        prob = self.model.terminated(self.z)[:, None]
        self.check("termination_logits", self.model.termination(self.z))
        self.check("termination_prob", prob)
        # What had ended was not recorded: every third row, which is the recorded share.
        ended = (torch.arange(len(prob), device=prob.device) % 3 == 0).to(prob)
        rate, f1 = termination_statistics(prob[:, 0], ended)
        self.check("termination_stat_rate", rate)
        self.check("termination_stat_f1", f1)

    def scalars(self) -> None:
        x, bins = self["in_twohot_x"], self.model.bins
        code = symlog_two_hot(x[:, 0], bins)
        # Every element by its own size: values reach from 1e-3 to 2e4.
        limit = 2e-5
        self.check("symlog", symlog(x), limit, absolute=True)
        self.check("symexp", symexp(symlog(x).clamp(bins[0], bins[-1])), limit, absolute=True)
        self.check("two_hot", code)
        logits = (code + 1e-12).log()
        self.check("two_hot_inv_of_log", SymlogTwoHot(logits, bins).pred()[:, None], limit)
        dist = SymlogTwoHot(self["in_ce_logits"], bins)
        self.check("soft_ce", dist.loss(x[:, 0])[:, None])
        self.check("ce_two_hot_inv", dist.pred()[:, None])

    def scale(self) -> None:
        scale = QScale(self.subject.config["tau"]).to(self.z.device, self.z.dtype)
        values, percentiles = [], []
        for i in range(len(self.recorded.names("in_scale_x"))):
            x = self[f"in_scale_x{i}"]
            scale.update(x)
            values.append(scale.value[0].clone())
            percentiles.append(torch.stack(scale.percentiles(x)))
        self.check("scale_values", torch.stack(values))
        self.check("scale_percentiles", torch.stack(percentiles))
        self.check("scale_forward_x1", self["in_scale_x1"] / scale.value)

    def discount(self) -> None:
        config = self.model.config
        lengths = self.recorded["in_discount_episode_lengths"]
        rule = config.discount_denom, config.discount_min, config.discount_max
        ours = torch.tensor([episode_discount(n, *rule) for n in lengths], dtype=torch.float64)
        self.check("discount", ours, 1e-12)


@torch.no_grad()
def compare_checkpoint_io(
    subject: Subject, recorded: Recorded, doubles: Doubles, comparison: Comparison
) -> None:
    """Encoder, policy and Q of a loaded checkpoint."""
    model = subject.model
    check = Twice(recorded, doubles, comparison, subject.dtype)
    z = model.encode(subject.tensor(recorded["in_obs"])).tensors["latent"]
    action = model.pi.dist(z).pred()
    values = model.q_values(z, action)[..., None]
    index = subject.tensor(recorded["noise_qidx"])
    check("encode", z, double="ck_encode")
    check("pi_mean", action, double="ck_pi_mean")
    check("q_all_values", values, double="ck_q_all_values")
    check("q_avg_all", values.mean(0), double="ck_q_avg_all")
    drawn = model.q_values(z, action, index)[..., None].mean(0)
    check("q_avg", drawn, double="ck_q_avg")
