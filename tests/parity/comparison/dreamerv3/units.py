"""units.npz: single formulas, layers, normalisers and the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.parity.comparison.compare import Comparison, Computation, Recorded
from tests.parity.comparison.dreamerv3.subject import read_config
from tests.parity.comparison.dreamerv3.units_flow import compare_flow
from worldflux.config.training import TrainingConfig
from worldflux.core.distributions import Binary, OneHot
from worldflux.core.math import one_hot_flat, percentile, symexp, symexp_bins, symlog
from worldflux.core.optim import make_optimizer, move_target_, schedule_factor
from worldflux.models.dreamerv3.convolutions import Conv
from worldflux.models.dreamerv3.distributions import BoundedNormal, SymlogMSE, TwoHot
from worldflux.models.dreamerv3.layers import BlockLinear, Linear, RMSNorm
from worldflux.models.dreamerv3.losses import imagined_returns, replay_returns
from worldflux.models.dreamerv3.normalize import RunningScale
from worldflux.models.dreamerv3.official.weights import CONV, LINEAR, Weight

LAMBDA, DISCOUNT = 0.95, 1 - 1 / 333
UNIMIX = 0.01
SLOW_RATE = 0.02
NORMALIZERS: dict[str, dict[str, Any]] = {
    "norm_perc": dict(impl="perc", rate=0.01, limit=1.0),
    "norm_perc_debias": dict(impl="perc", rate=0.05, limit=1e-8, debias=True),
    "norm_meanstd": dict(impl="meanstd", rate=0.01, limit=1e-8, debias=True),
}


def compare_units(folder: Path, comparison: Comparison, how: Computation) -> None:
    """Adds a row for every case of a units folder."""
    recorded = Recorded.load(folder / "units.npz", "units/")
    settings = read_config(folder / "units.json")
    Units(recorded, comparison, how, settings.pop("optim", {})).run()
    comparison.finish(recorded)
    compare_flow(settings, comparison)


class Units:
    """The comparisons of one units file; each group of arrays has a method."""

    def __init__(
        self,
        recorded: Recorded,
        comparison: Comparison,
        how: Computation,
        variants: dict[str, dict[str, Any]],
    ):
        self.recorded, self.comparison = recorded, comparison
        self.dtype, self.tensor = how.dtype, how.tensor
        self.variants = variants

    def run(self) -> None:
        cases: dict[str, Callable[[str], None]] = {
            "symlog": lambda name: self.check(f"{name}/y", symlog(self[f"{name}/x"])),
            "symexp": lambda name: self.check(f"{name}/y", symexp(self[f"{name}/x"])),
            "rmsnorm": self.rmsnorm,
            "blocklinear": self.blocklinear,
            "conv5same": self.conv,
            "unimix": self.unimix,
            "straight_through": self.straight_through,
            "bounded_normal": self.bounded_normal,
            "categorical": self.categorical,
            "binary": self.binary,
            "symlog_mse": self.symlog_mse,
            "lambda": self.lambda_returns,
            "percentile": self.percentile,
            "optim": lambda name: self.optimizers(),
            **dict.fromkeys(NORMALIZERS, self.normalizer),
        }
        for name in dict.fromkeys(key.split("/")[0] for key in self.recorded.names()):
            if name.startswith("twohot"):
                self.two_hot(name)
            elif name.startswith("slow_every"):
                self.slow_target(name)
            elif name in cases:
                cases[name](name)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensor(self.recorded[name])

    def check(self, name: str, ours: Tensor | float, exact: bool = False) -> None:
        tolerance = 0.0 if exact else None
        self.comparison.check(self.recorded, name, ours, tolerance=tolerance)

    # === Formulas and layers ===========================================================

    def two_hot(self, name: str) -> None:
        logits = self[f"{name}/logits"]
        bins = symexp_bins(logits.shape[-1])
        self.check(f"{name}/bins", bins)
        dist = TwoHot(logits, bins.to(self.dtype))
        pred = dist.pred()
        self.check(f"{name}/pred", pred)
        if pred[0] != 0:  # uniform probabilities must cancel exactly
            self.comparison.fail(f"units/{name}/pred", f"row 0 is {float(pred[0])}, expected 0")
        self.check(f"{name}/loss", dist.loss(self[f"{name}/target"]))

    def rmsnorm(self, name: str) -> None:
        x = self[f"{name}/x"]
        layer = self.layer(RMSNorm(x.shape[-1]), scale=self[f"{name}/scale"])
        self.check(f"{name}/y", layer(x))

    def blocklinear(self, name: str) -> None:
        x, kernel = self[f"{name}/x"], self[f"{name}/kernel"]
        blocks, _, width = kernel.shape
        layer = BlockLinear(x.shape[-1], blocks * width, blocks)
        self.layer(layer, weight=kernel, bias=self[f"{name}/bias"])
        self.check(f"{name}/y", layer(x))

    def conv(self, name: str) -> None:
        x, kernel = self[f"{name}/x"], self.recorded[f"{name}/kernel"]
        layer = Conv(kernel.shape[2], kernel.shape[3], kernel.shape[0])
        weight = Weight("", CONV).from_official(kernel, layer.weight.shape)
        self.layer(layer, weight=weight, bias=self[f"{name}/bias"])
        self.check(f"{name}/y", layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))

    def layer(self, layer: nn.Module, **params: Tensor) -> nn.Module:
        layer.to(self.dtype).load_state_dict(params)
        return layer

    # === Distributions =================================================================

    def unimix(self, name: str) -> None:
        a, b = (OneHot(self[f"{name}/logits_{key}"], UNIMIX) for key in "ab")
        self.check(f"{name}/logprob_a", a.logprob)
        self.check(f"{name}/entropy_a", a.entropy())
        self.check(f"{name}/kl_ab", a.kl(b))

    def straight_through(self, name: str) -> None:
        # The logits of this case are those of the unimix case.
        logits = self["unimix/logits_a"].requires_grad_()
        sample = OneHot(logits, UNIMIX).sample(self[f"{name}/noise_gumbel"])
        (sample * self[f"{name}/upstream_grad"]).sum().backward()
        self.check(f"{name}/sample", sample)
        assert logits.grad is not None
        self.check(f"{name}/grad_logits", logits.grad)

    def bounded_normal(self, name: str) -> None:
        x = self[f"{name}/x"]
        outs = []
        for key in ("mean", "stddev"):
            kernel, bias = self.recorded[f"{name}/{key}/kernel"], self[f"{name}/{key}/bias"]
            layer = Linear(*kernel.shape)
            weight = Weight("", LINEAR).from_official(kernel, layer.weight.shape)
            outs.append(self.layer(layer, weight=weight, bias=bias)(x))
        dist = BoundedNormal(outs[0], outs[1])
        self.check(f"{name}/mean", dist.mean)
        self.check(f"{name}/stddev", dist.stddev)
        self.check(f"{name}/logp", dist.logp(self[f"{name}/event"]))
        self.check(f"{name}/entropy", dist.entropy())
        for bound, value in zip(("minent", "maxent"), dist.entropy_range(), strict=True):
            each = torch.full_like(dist.mean, value / dist.mean.shape[-1])
            self.check(f"{name}/{bound}", each)

    def categorical(self, name: str) -> None:
        logits = self[f"{name}/logits"]
        dist = OneHot(logits)
        event = one_hot_flat(self[f"{name}/event"][:, None], logits.shape[-1:])
        self.check(f"{name}/logp", dist.logp(event))
        self.check(f"{name}/entropy", dist.entropy())
        self.check(f"{name}/mode", dist.pred().argmax(-1), exact=True)

    def binary(self, name: str) -> None:
        dist = Binary(self[f"{name}/logit"])
        self.check(f"{name}/loss", dist.loss(self[f"{name}/target"]))
        self.check(f"{name}/prob1", dist.prob())
        self.check(f"{name}/mode", dist.pred(), exact=True)

    def symlog_mse(self, name: str) -> None:
        dist = SymlogMSE(self[f"{name}/mean"])
        self.check(f"{name}/loss_sum", dist.loss(self[f"{name}/target"]))
        self.check(f"{name}/pred", dist.mean)

    # === Returns, statistics, targets =================================================

    def lambda_returns(self, name: str) -> None:
        rew, con, val, boot = (self[f"{name}/{key}"] for key in ("rew", "con", "val", "boot"))
        last, term = self[f"{name}/last"], self[f"{name}/term"]
        self.check(f"{name}/imag_ret", imagined_returns(rew, con, val, LAMBDA).returns)
        replayed = replay_returns(rew, last, term, boot, DISCOUNT, LAMBDA)
        self.check(f"{name}/replay_ret", replayed)

    def percentile(self, name: str) -> None:
        x = self[f"{name}/x"]
        values = [percentile(x, q) for q in self.recorded[f"{name}/q"].tolist()]
        self.check(f"{name}/y", torch.stack(values))

    def normalizer(self, name: str) -> None:
        norm, seen = RunningScale(**NORMALIZERS[name]).to(self.dtype), []
        for x in self[f"{name}/x"]:
            norm.update(x)
            seen.append(torch.stack(norm.offset_scale()))
        self.check(f"{name}/offset_scale", torch.stack(seen))
        for key, value in norm.named_buffers():
            self.check(f"{name}/final_n/{key}/value", value)

    def slow_target(self, name: str) -> None:
        target, seen = self[f"{name}/initial"], []
        every = int(name.removeprefix("slow_every"))
        for count, source in enumerate(self[f"{name}/source"]):
            move_target_([target], [source], SLOW_RATE, every=every, count=count)
            seen.append(target.clone())
        self.check(f"{name}/after", torch.stack(seen))

    # === Optimizer ======================================================================

    def optimizers(self) -> None:
        named = sorted({key.split("/")[0] for key in self.recorded.names("optim/")})
        for variant in named:
            if variant not in ("grads", "initial") and variant in self.variants:
                self.optimizer(variant)

    def optimizer(self, variant: str) -> None:
        """All updates of one variant; its settings are those of `default` where it has none."""
        opt = {**self.variants["default"], "warmup": 0, **self.variants[variant]}
        params = {
            key: nn.Parameter(self.tensor(value))
            for key, value in self.recorded.group("optim/initial/").items()
        }
        training = TrainingConfig(
            optimizer="laprop",
            learning_rate=opt["lr"],
            agc=opt["agc"],
            beta1=opt["beta1"],
            beta2=opt["beta2"],
            optimizer_eps=opt["eps"],
            weight_decay=opt["wd"],
            grad_clip=0.0,
        )
        optimizer = make_optimizer(params.values(), training)
        # The official cosine schedule ends at the rate times `final` times the rate again.
        final = opt.get("final", 0.0) * opt["lr"]
        for step in self.steps(variant):
            for key, param in params.items():
                param.grad = self[f"optim/grads/{step}/{key}"]
            for group in optimizer.param_groups:
                group["lr"] = opt["lr"] * schedule_factor(
                    opt.get("schedule", "none"),
                    step,
                    opt.get("anneal", 0),
                    opt["warmup"],
                    final,
                )
            optimizer.step()
            for key, param in params.items():
                name = f"optim/{variant}/params/{step}/{key}"
                start = self.recorded[f"optim/initial/{key}"]
                self.comparison.check_change(self.recorded, name, param, start)

    def steps(self, variant: str) -> Iterator[int]:
        names = self.recorded.names(f"optim/{variant}/params/")
        yield from range(1 + max(int(name.split("/")[0]) for name in names))
