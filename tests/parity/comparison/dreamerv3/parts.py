"""parts.npz: the model's components one by one, each fed with recorded inputs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tests.parity.comparison.compare import Comparison, Recorded
from tests.parity.comparison.dreamerv3.subject import Subject
from worldflux.core.distributions import MultiOneHot
from worldflux.models.dreamerv3.distributions import BoundedNormal, ImageMSE
from worldflux.models.dreamerv3.losses import continue_target, kl_losses
from worldflux.models.dreamerv3.objective import Noise
from worldflux.models.dreamerv3.rssm import Latent


@torch.no_grad()
def compare_parts(subject: Subject, recorded: Recorded, comparison: Comparison) -> None:
    """Adds a row for every output in the file."""
    obs = subject.observations(recorded.group("in/obs/"))
    carry = subject.latent(recorded.group("in/carry/"))
    previous = subject.flat_action(recorded.group("in/prevact/"))
    Parts(subject, recorded, comparison).run(obs, carry, previous)
    comparison.finish(recorded)


class Parts:
    """The comparisons of one parts file. B batch, T time, H imagined steps."""

    def __init__(self, subject: Subject, recorded: Recorded, comparison: Comparison):
        self.subject, self.recorded, self.comparison = subject, recorded, comparison
        self.agent, self.model = subject.agent, subject.model

    def run(self, obs: dict[str, Tensor], carry: Latent, previous: Tensor) -> None:
        self.core(carry)
        latent, logit = self.observe(obs, carry, previous)
        self.latents(latent, logit)
        self.decoder(obs, latent)
        self.heads(obs, latent.feat())
        self.actor(latent.feat())
        self.imagine(latent)
        self.open_loop(carry, previous)
        self.policy()

    def check(self, name: str, ours: Tensor | np.ndarray | float, exact: bool = False) -> None:
        self.comparison.check(self.recorded, name, ours, tolerance=0.0 if exact else None)

    def core(self, carry: Latent) -> None:
        rssm = self.model.rssm
        action = self.subject.tensor(self.recorded["core/in_action_embedding"])
        embed = rssm.embed_action(action)
        self.check("core/deter", rssm.core(*carry, embed, rssm.hoisted()))

    def observe(
        self, obs: dict[str, Tensor], carry: Latent, previous: Tensor
    ) -> tuple[Latent, Tensor]:
        """Compares encoder and posterior; returns the recorded latents and posterior logits."""
        self.check("enc/tokens", self.model.encoder(obs))
        gumbel = self.subject.tensor(self.recorded["observe/noise_gumbel"])
        share, action, _ = self.agent.objective.prepare(obs, previous)
        latent, logit = self.model.rssm.observe(carry, share, action, obs["is_first"], gumbel)
        self.check("observe/deter", latent.deter)
        self.check("observe/stoch", latent.stoch, exact=True)
        self.check("observe/logit", logit)
        deter, stoch, logit = (
            self.subject.tensor(self.recorded[f"observe/{key}"])
            for key in ("deter", "stoch", "logit")
        )
        return Latent(deter, stoch), logit

    def latents(self, latent: Latent, logit: Tensor) -> None:
        rssm = self.model.rssm
        prior_logit = rssm.prior(latent.deter)
        self.check("prior/logit", prior_logit)
        posterior, prior = rssm.dist(logit), rssm.dist(prior_logit)
        self.check("kl/kl_raw", kl_losses(posterior, prior, 0.0)[0])
        self.check("kl/kl_clipped", kl_losses(posterior, prior, self.model.config.kl_free)[0])
        self.check("kl/ent_post", posterior.entropy().sum(-1))
        self.check("kl/ent_prior", prior.entropy().sum(-1))
        self.check("kl/post_logprob", posterior.logprob)
        self.check("kl/prior_logprob", prior.logprob)
        self.check("feat2tensor", latent.feat())

    def decoder(self, obs: dict[str, Tensor], latent: Latent) -> None:
        decoded = self.model.decoder(latent.deter, latent.stoch.flatten(-2))
        targets = self.model.decoder.targets(obs)
        for key, dist in decoded.items():
            name = f"dec/{key}"
            self.check(f"{name}/loss", dist.loss(targets[key]))
            if isinstance(dist, ImageMSE):
                shown = f"{name}/mean_first_frames"
                rows, frames = self.recorded[shown].shape[:2]
                self.check(shown, dist.mean[:rows, :frames].movedim(-3, -1))
                self.check(f"{name}/mean_per_frame_avg", dist.mean.mean((-3, -2, -1)))
            elif isinstance(dist, MultiOneHot):
                shape = self.subject.obs_spaces[key].shape
                self.check(f"{name}/logits", dist.logits.unflatten(-1, (*shape, dist.classes[0])))
            else:
                shape = self.subject.obs_spaces[key].shape
                self.check(f"{name}/pred", dist.mean.reshape(*dist.mean.shape[:-1], *shape))

    def heads(self, obs: dict[str, Tensor], feat: Tensor) -> None:
        model, tensor = self.model, self.subject.tensor
        heads = {"rew": model.reward, "val": model.critic, "slowval": model.slow_critic}
        targets = {"rew": obs["reward"], "val": tensor(self.recorded["heads/val/loss_target"])}
        for name, head in heads.items():
            dist = head(feat)
            self.check(f"heads/{name}/logits", dist.logits)
            self.check(f"heads/{name}/pred", dist.pred())
            if name in targets:
                self.check(f"heads/{name}/loss", dist.loss(targets[name]))
                self.check(f"heads/bins/{name}", dist.bins)
        con = model.con(feat)
        target = continue_target(obs["is_terminal"], model.config.discount)
        self.check("heads/con/logit", con.logit)
        self.check("heads/con/prob", con.prob())
        self.check("heads/con/target", target)
        self.check("heads/con/loss", con.loss(target))

    def actor(self, feat: Tensor) -> None:
        dists = self.model.actor(feat).parts
        events = {key: self.recorded[f"heads/pol/{key}/event"] for key in dists}
        flat = self.subject.split_action(self.subject.flat_action(events))
        for key, dist in dists.items():
            name = f"heads/pol/{key}"
            space, shape = self.subject.action_spaces[key], self.subject.action_shapes[key]
            if isinstance(dist, BoundedNormal):
                lead = dist.mean.shape[:-1]
                self.check(f"{name}/mean", dist.mean.reshape(*lead, *shape))
                self.check(f"{name}/stddev", dist.stddev.reshape(*lead, *shape))
            else:
                full = (*shape, space.classes[0])
                logprob = torch.cat([part.logprob for part in dist.parts], -1)
                self.check(f"{name}/logits", dist.logits.unflatten(-1, full))
                self.check(f"{name}/logprob", logprob.unflatten(-1, full))
            self.check(f"{name}/logp", dist.logp(flat[key]))
            self.check(f"{name}/entropy", dist.entropy())
            for bound, value in zip(("minent", "maxent"), dist.entropy_range(), strict=True):
                # Recorded for each entry of the action on its own, ours for all of them.
                recorded = f"{name}/{bound}"
                each = np.full(self.recorded[recorded].shape, value / max(1, space.size))
                self.check(recorded, each)

    def imagine(self, latent: Latent) -> None:
        gumbel = self.subject.tensor(self.recorded["imagine/noise_gumbel"])
        act = self.subject.action_noise(self.recorded.group("imagine/noise_act/"), 2)
        # An update also samples an action in the last state, which is not recorded here.
        act = torch.cat([act, act[-1:]])
        starts = gumbel.shape[1] // latent.deter.shape[0]
        start = Latent(*(x[:, -starts:].flatten(0, 1)[:, None] for x in latent))
        imagined = self.agent.objective.imagine(start, Noise(gumbel, gumbel, act))
        action = imagined.action[:-1].transpose(0, 1)  # [N, H, A]
        for key, value in self.subject.official_actions(action).items():
            exact = self.subject.action_spaces[key].discrete
            self.check(f"imagine/action/{key}", value, exact)
        feat = imagined.feat[1:].transpose(0, 1)
        self.rollout("imagine", Latent(*(x[:, 0] for x in start)), action, gumbel)
        deter, stoch = feat.split([latent.deter.shape[-1], latent.stoch[0, 0].numel()], -1)
        self.check("imagine/deter", deter)
        self.check("imagine/stoch", stoch.unflatten(-1, latent.stoch.shape[-2:]), exact=True)

    def open_loop(self, carry: Latent, previous: Tensor) -> None:
        gumbel = self.subject.tensor(self.recorded["openloop/noise_gumbel"])
        self.rollout("openloop", carry, previous, gumbel)

    def rollout(self, name: str, start: Latent, action: Tensor, gumbel: Tensor) -> None:
        latent, logit = self.model.rssm.imagine(start, action, gumbel)
        if name == "openloop":
            self.check(f"{name}/deter", latent.deter)
            self.check(f"{name}/stoch", latent.stoch, exact=True)
        self.check(f"{name}/logit", logit)

    def policy(self) -> None:
        """Consecutive acting steps from the initial carry, as in an environment."""
        steps = sorted({int(name.split("/")[0]) for name in self.recorded.names("policy/")})
        carry = None
        for t in steps:
            obs = self.subject.observations(self.recorded.group(f"policy/{t}/obs/"))
            is_first = obs.pop("is_first")
            carry = self.agent.initial_carry(len(is_first)) if carry is None else carry
            gumbel = self.subject.tensor(self.recorded[f"policy/{t}/noise_gumbel"])
            noise = self.recorded.group(f"policy/{t}/noise_act/")
            act_noise = self.subject.action_noise(noise, 1)
            carry = self.agent.policy(carry, obs, is_first, gumbel, act_noise)
            for key, value in self.subject.official_actions(carry["action"]).items():
                exact = self.subject.action_spaces[key].discrete
                self.check(f"policy/{t}/action/{key}", value, exact)
            self.check(f"policy/{t}/deter", carry["deter"])
            self.check(f"policy/{t}/stoch", carry["stoch"], exact=True)
