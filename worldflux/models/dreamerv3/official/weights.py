"""DreamerV3's official implementation in our terms: configuration, names and layouts of weights.

The official code stores a flat dict `module/layer/kernel -> array`. Its kernels are `[in, out]`
(linear), `[G, in/G, out/G]` (block-diagonal) and `[kh, kw, in, out]` (convolution); images are
`[H, W, C]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.models.dreamerv3.layers import MLP
from worldflux.models.dreamerv3.networks import ContinueHead, NoDecoder, TwoHotHead
from worldflux.models.dreamerv3.world_model import DreamerV3

LINEAR, CONV, SAME = "linear", "conv", "same"


@dataclass(frozen=True)
class Weight:
    """Where an official array lives in our model: our name, and how its axes are laid out."""

    name: str
    layout: str = SAME

    def from_official(self, array: np.ndarray, shape: torch.Size) -> Tensor:
        """The official array as our tensor of the given shape.

        Raises CheckpointError if its shape is another.
        """
        if array.shape != (expected := self.official_shape(shape)):
            raise CheckpointError(f"its shape is {array.shape}, expected {expected}")
        value = torch.from_numpy(np.array(array))  # a copy: official arrays are often read-only
        if self.layout == LINEAR:
            value = value.T
        elif self.layout == CONV:
            value = value.permute(3, 2, 0, 1)
        return value.contiguous()

    def official_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """The official shape of a tensor of ours."""
        if self.layout == LINEAR:
            return tuple(shape)[::-1]
        return (*shape[2:], shape[1], shape[0]) if self.layout == CONV else tuple(shape)


def _layer(official: str, ours: str, layout: str = LINEAR) -> Iterator[tuple[str, Weight]]:
    yield f"{official}/kernel", Weight(f"{ours}.weight", layout)
    yield f"{official}/bias", Weight(f"{ours}.bias")


def _normed(official: str, norm: str, ours: str) -> Iterator[tuple[str, Weight]]:
    yield from _layer(official, f"{ours}.linear")
    yield f"{norm}/scale", Weight(f"{ours}.norm.scale")


def _stack(official: str, ours: str, mlp: MLP, first: int = 0) -> Iterator[tuple[str, Weight]]:
    """Layers `official{i}` with norms `official{i}norm`, counted from `first`."""
    for i in range(len(mlp)):
        name = f"{official}{first + i}"
        yield from _normed(name, f"{name}norm", f"{ours}.{i}")


def _head_mlp(official: str, ours: str, mlp: MLP) -> Iterator[tuple[str, Weight]]:
    for i in range(len(mlp)):
        names = f"{official}/mlp/linear{i}", f"{official}/mlp/norm{i}"
        yield from _normed(*names, f"{ours}.mlp.{i}")


def _encoder(model: DreamerV3) -> Iterator[tuple[str, Weight]]:
    if model.encoder.vectors:
        yield from _stack("enc/mlp", "encoder.mlp", model.encoder.mlp)
    if model.encoder.images:
        for i in range(len(model.encoder.convs)):
            yield from _layer(f"enc/cnn{i}", f"encoder.convs.{i}", CONV)
            yield f"enc/cnn{i}norm/scale", Weight(f"encoder.norms.{i}.scale")


def _dynamics(model: DreamerV3) -> Iterator[tuple[str, Weight]]:
    rssm = model.rssm
    for i, name in enumerate(("in_deter", "in_stoch", "in_action")):
        yield from _normed(f"dyn/dynin{i}", f"dyn/dynin{i}norm", f"rssm.{name}")
    for i in range(len(rssm.hidden)):
        yield from _layer(f"dyn/dynhid{i}", f"rssm.hidden.{i}", SAME)
        yield f"dyn/dynhid{i}norm/scale", Weight(f"rssm.hidden_norms.{i}.scale")
    yield from _layer("dyn/dyngru", "rssm.gru", SAME)
    yield from _normed("dyn/obs0", "dyn/obs0norm", "rssm.posterior_in")
    yield from _stack("dyn/obs", "rssm.posterior_mlp", rssm.posterior_mlp, first=1)
    yield from _layer("dyn/obslogit", "rssm.posterior_out")
    yield from _stack("dyn/prior", "rssm.prior_mlp", rssm.prior_mlp)
    yield from _layer("dyn/priorlogit", "rssm.prior_out")


def _decoder(model: DreamerV3) -> Iterator[tuple[str, Weight]]:
    decoder = model.decoder
    if isinstance(decoder, NoDecoder):
        raise ConfigurationError("a model without a decoder has no official form")
    if decoder.vectors:
        yield from _head_mlp("dec", "decoder", decoder.mlp)
        for i, (key, space) in enumerate(decoder.vectors.items()):
            name = f"dec/vec/{key}/{'logits' if space.discrete else 'pred'}"
            yield from _layer(name, f"decoder.outs.{i}")
    if decoder.images:
        yield from _layer("dec/sp0", "decoder.from_deter", SAME)
        yield from _normed("dec/sp1", "dec/sp1norm", "decoder.from_stoch.0")
        yield from _layer("dec/sp2", "decoder.from_stoch.1")
        yield "dec/spnorm/scale", Weight("decoder.grid_norm.scale")
        stages = len(decoder.convs)
        for i in range(stages):
            # The official code counts the stages from the picture, ours as they are applied.
            name = f"dec/conv{stages - 1 - i}"
            yield from _layer(name, f"decoder.convs.{i}", CONV)
            yield f"{name}norm/scale", Weight(f"decoder.norms.{i}.scale")
        yield from _layer("dec/imgout", "decoder.out", CONV)


def _head(
    official: str, ours: str, head: TwoHotHead | ContinueHead
) -> Iterator[tuple[str, Weight]]:
    yield from _head_mlp(official, ours, head.mlp)
    out = "logits" if isinstance(head, TwoHotHead) else "logit"
    yield from _layer(f"{official}/head/{out}", f"{ours}.out")


def _behaviour(model: DreamerV3) -> Iterator[tuple[str, Weight]]:
    yield from _head_mlp("pol", "actor", model.actor.mlp)
    for i, (key, space) in enumerate(model.actor.spaces.items()):
        for out in ("logits",) if space.discrete else ("mean", "stddev"):
            yield from _layer(f"pol/head/{key}/{out}", f"actor.heads.{i}.{out}")
    yield from _head("val", "critic", model.critic)
    yield from _head("slowval", "slow_critic", model.slow_critic)
    for key, _ in model.return_norm.named_buffers():
        yield f"retnorm/{key}/value", Weight(f"return_norm.{key}")


def official_names(model: DreamerV3) -> dict[str, Weight]:
    """Every weight and statistic of the model by its official name."""
    names = dict(_encoder(model)) | dict(_dynamics(model)) | dict(_decoder(model))
    names |= dict(_head("rew", "reward", model.reward)) | dict(_head("con", "con", model.con))
    return names | (dict(_behaviour(model)) if model.has_actor else {})


def load_official(model: DreamerV3, arrays: Mapping[str, np.ndarray]) -> None:
    """Sets every weight and statistic of the model from official arrays.

    Raises CheckpointError for an array that is missing or of another shape.
    """
    state = model.state_dict()
    for official, weight in official_names(model).items():
        if official not in arrays:
            raise CheckpointError(f"the array {official} is missing")
        target = state[weight.name]
        try:
            target.copy_(weight.from_official(arrays[official], target.shape))
        except CheckpointError as error:
            raise CheckpointError(f"{official}: {error}") from None
