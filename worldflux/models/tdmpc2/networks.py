"""TD-MPC2's networks: MLPs of Linear, LayerNorm and Mish, SimNorm latents, the Q ensemble.

Letters: L latent, Z what the networks read, A action, Q number of Q networks, N rows, U units,
K bins, G classes of a SimNorm group, `...` any leading dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldflux.config.spaces import Space, flat_action_dim
from worldflux.core.distributions import MultiOneHot, gumbel_noise
from worldflux.core.math import percentile
from worldflux.models.tdmpc2.config import TDMPC2Config
from worldflux.models.tdmpc2.distributions import SquashedNormal

INIT_STD = 0.02


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, computed in float32; `lead` for ensembles."""

    def __init__(self, dim: int, lead: tuple[int, ...] = ()):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*lead, dim))
        self.bias = nn.Parameter(torch.zeros(*lead, dim))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x `[..., D]` normalised, with affine parameters `[D]` or, of an ensemble, such that they
    broadcast; eps is the official 1e-5."""
    full = x if x.dtype == torch.float64 else x.float()
    if weight.ndim == 1:
        return F.layer_norm(full, full.shape[-1:], weight, bias, 1e-5)
    return F.layer_norm(full, full.shape[-1:], eps=1e-5) * weight + bias


class Mish(torch.autograd.Function):
    """x tanh(softplus(x)) with a single exponential, and its gradient with another.

    With e = exp(x), tanh(log(1 + e)) is n / (n + 2) for n = e (e + 2). Beyond 20 that is 1 in any
    precision, and e squared does not overflow below.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * mish_gate(x.clamp(max=20.0).exp())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grown = x.clamp(max=20.0).exp()
        gate, sigmoid = mish_gate(grown), grown / (grown + 1)
        return grad * (gate + x * (1 - gate * gate) * sigmoid)


def mish_gate(grown: Tensor) -> Tensor:
    """tanh(log(1 + e)) of e."""
    square = grown * (grown + 2)
    return square / (square + 2)


def mish(x: Tensor) -> Tensor:
    """`Mish` of x, of any shape."""
    out: Tensor = Mish.apply(x)
    return out


class GroupSoftmax(torch.autograd.Function):
    """Softmax over the last axis, for few classes.

    Folding the axis in halves keeps the work on whole vectors, where a reduction over a short axis
    goes number by number.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        weights = (x - fold(torch.maximum, x)).exp()  # [..., G]
        probs = weights / fold(torch.add, weights)  # [..., G] / [..., 1]
        ctx.save_for_backward(probs)
        return probs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (probs,) = ctx.saved_tensors
        weighted = grad * probs  # [..., G]
        return weighted - probs * fold(torch.add, weighted)  # [..., G]


def fold(pair: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    """The last axis reduced by an associative function of two tensors, `[..., 1]`."""
    while (width := x.shape[-1]) > 1:
        half = width // 2
        low, high, odd = (
            x[..., :half],
            x[..., half : 2 * half],
            x[..., 2 * half :],
        )  # odd: 0 or 1 wide
        x = torch.cat([pair(low, high), odd], -1) if width % 2 else pair(low, high)
    return x


def simnorm(x: Tensor, group: int) -> Tensor:
    """Softmax inside groups of the last axis (TD-MPC2, section "SimNorm")."""
    out: Tensor = GroupSoftmax.apply(x.unflatten(-1, (-1, group)))  # [..., L] -> [..., L/G, G]
    return out.flatten(-2)  # [..., L]


class Layer(nn.Linear):
    """Linear, LayerNorm, then Mish or (group above 0) SimNorm, or (group None) nothing."""

    def __init__(self, in_features: int, out_features: int, group: int | None = 0):
        super().__init__(in_features, out_features)
        self.ln = LayerNorm(out_features)
        self.group = group

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=INIT_STD)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(F.linear(x, self.weight, self.bias))

    def finish(self, x: Tensor) -> Tensor:
        """Norm and activation of the linear part."""
        normed = layer_norm(x, self.ln.weight, self.ln.bias)
        if self.group is None:
            return normed.to(x.dtype)
        out = simnorm(normed, self.group) if self.group else mish(normed)
        return out.to(x.dtype)


class Plain(nn.Linear):
    """A last layer: Linear alone; zero starts with zero weights."""

    def __init__(self, in_features: int, out_features: int, zero: bool = False):
        self.zero = zero
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        if self.zero:
            nn.init.zeros_(self.weight)
        else:
            nn.init.trunc_normal_(self.weight, std=INIT_STD)
        nn.init.zeros_(self.bias)


def hidden_layers(in_features: int, units: int, layers: int) -> list[nn.Module]:
    """`layers` times Linear, LayerNorm, Mish."""
    widths = [in_features] + [units] * layers
    return [Layer(a, b) for a, b in itertools.pairwise(widths)]


def head(in_features: int, units: int, layers: int, out: int, zero: bool = False) -> nn.Sequential:
    """An MLP that ends with a plain linear layer."""
    return nn.Sequential(*hidden_layers(in_features, units, layers), Plain(units, out, zero=zero))


def latent_mlp(
    in_features: int, units: int, layers: int, latent: int, group: int | None
) -> nn.Sequential:
    """An MLP that ends in a SimNorm latent, or (group None) before its SimNorm."""
    return nn.Sequential(
        *hidden_layers(in_features, units, layers), Layer(units, latent, group=group)
    )


def first_layer(net: nn.Module) -> Layer | None:
    """The first layer of an MLP of ours; None: the network is the user's own."""
    first = net[0] if isinstance(net, nn.Sequential) else None
    return first if isinstance(first, Layer) else None


def share_of_latent(net: nn.Module, z: Tensor) -> Tensor:
    """What z `[..., Z]` adds to the first layer's linear part in an MLP on `[z, action]`.

    Where many actions are tried in one z, it is taken once for all: see `with_action`. A network of
    the user's own has no such part; it is z itself.
    """
    first = first_layer(net)
    if first is None:
        return z
    return F.linear(z, first.weight[:, : z.shape[-1]], first.bias)  # [..., Z] -> [..., U]


def with_action(net: nn.Module, share: Tensor, action: Tensor) -> Tensor:
    """The MLP's output for actions `[..., A]` and the share of their latents, which broadcasts."""
    first = first_layer(net)
    if first is None:
        lead = torch.broadcast_shapes(share.shape[:-1], action.shape[:-1])
        joint = [share.expand(*lead, -1), action.expand(*lead, -1).to(share.dtype)]
        out: Tensor = net(torch.cat(joint, -1))  # [..., Z + A]
        return out
    assert isinstance(net, nn.Sequential)
    weight = first.weight[:, -action.shape[-1] :]  # [U, A]
    hidden = first.finish(share + F.linear(action, weight))  # [..., U]
    for layer in [*net][1:]:
        hidden = layer(hidden)  # [..., U], in the end the width of the last layer
    return hidden


class EnsembleLayer(nn.Module):
    """A layer of Q networks: weight `[Q, out, in]`, bias `[Q, out]`, with or without norm."""

    ln: LayerNorm | None

    def __init__(self, count: int, in_features: int, out_features: int, norm: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(count, out_features))
        self.ln = LayerNorm(out_features, (count,)) if norm else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.ln is None:
            nn.init.zeros_(self.weight)
        else:
            nn.init.trunc_normal_(self.weight, std=INIT_STD)
        nn.init.zeros_(self.bias)


class QEnsemble(nn.Sequential):
    """Q networks as batched matrix products. The weights of the last layer start at zero."""

    def __init__(self, count: int, in_features: int, units: int, layers: int, bins: int):
        widths = [in_features] + [units] * layers
        pairs = itertools.pairwise(widths)
        super().__init__(
            *(EnsembleLayer(count, a, b, True) for a, b in pairs),
            EnsembleLayer(count, units, bins, False),
        )
        self.count, self.units = count, units

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        *,
        frozen: bool = False,
        dropout: Tensor | None = None,
    ) -> Tensor:
        """Logits `[Q, N, K]` of inputs `[N, in]`.

        index: only these networks are computed, in this order. frozen: no gradient reaches the
        weights. dropout `[Q, N, U]`: factors of the first layer's linear part.
        """

        def pick(weight: Tensor) -> Tensor:
            weight = weight.detach() if frozen else weight
            return weight if index is None else weight.index_select(0, index)

        hidden = x
        for i, layer in enumerate(self):
            assert isinstance(layer, EnsembleLayer)
            weight, bias = pick(layer.weight), pick(layer.bias)
            if i == 0:
                # One wide product: all networks have the same input.
                wide = F.linear(hidden, weight.flatten(0, 1))  # [N, Q*U]
                hidden = wide.unflatten(-1, bias.shape).transpose(0, 1) + bias[:, None]  # [Q, N, U]
                if dropout is not None:
                    hidden = hidden * dropout.to(hidden.dtype)
            else:
                hidden = torch.bmm(hidden, weight.transpose(1, 2)) + bias[:, None]  # [Q, N, U or K]
            if layer.ln is not None:
                affine = pick(layer.ln.weight)[:, None], pick(layer.ln.bias)[:, None]  # [Q, 1, U]
                hidden = mish(layer_norm(hidden, *affine)).to(wide.dtype)
        return hidden


def parameters_of(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """All trained parameters of the modules, in order."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


class Policy(nn.Sequential):
    """The policy prior: an MLP on z whose output parametrises the action's distribution.

    classes: empty for continuous actions; else the classes of every discrete entry.
    """

    def __init__(self, config: TDMPC2Config, in_features: int, spaces: Mapping[str, Space]):
        out = self._set_spaces(config, spaces)
        super().__init__(*head(in_features, config.hidden_dim, config.num_hidden_layers, out))

    def _set_spaces(self, config: TDMPC2Config, spaces: Mapping[str, Space]) -> int:
        """Returns the width of the output."""
        self.action_dim = flat_action_dim(spaces)
        self.classes = tuple(c for _, space in sorted(spaces.items()) for c in space.classes)
        self.log_std = config.log_std_min, config.log_std_max
        return self.action_dim if self.classes else 2 * self.action_dim

    def dist(self, z: Tensor, mask: Tensor | None = None) -> SquashedNormal | MultiOneHot:
        """Distribution of the flat action `[..., A]` in latents `[..., Z]`; mask: see
        `SquashedNormal`."""
        out = self(z)
        if self.classes:
            return MultiOneHot(out, self.classes)
        mean, raw = out.chunk(2, -1)  # [..., 2*A] -> [..., A] each
        return SquashedNormal(mean, raw, *self.log_std, mask)

    def noise(
        self, lead: tuple[int, ...], generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """Noise `[*lead, A]` for `dist(z).sample`: normal, or Gumbel for discrete actions."""
        shape = (*lead, self.action_dim)
        if self.classes:
            return gumbel_noise(shape, generator, device)
        return torch.randn(shape, generator=generator, device=device)


class QScale(nn.Module):
    """Moving range between the 5th and 95th percentile of Q, at least 1 (TD-MPC2, eq. 5)."""

    value: Tensor

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.register_buffer("value", torch.ones(1))

    @torch.no_grad()
    def update(self, q: Tensor) -> None:
        """Moves the range towards that of q, of any shape."""
        low, high = self.percentiles(q)
        self.value.lerp_((high - low).clamp(min=1.0).to(self.value), self.rate)

    @staticmethod
    def percentiles(q: Tensor) -> tuple[Tensor, Tensor]:
        """The 5th and 95th percentile, scalars."""
        full = q if q.dtype == torch.float64 else q.float()
        return percentile(full, 5.0), percentile(full, 95.0)
