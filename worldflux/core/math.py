"""Every scalar formula of both families, as pure functions of tensors and numbers.

Letters: T time, K bins, J entries of a code, C the sum of all class counts, `...` any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|) (DreamerV3, eq. 9)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """sign(x) (exp(|x|) - 1), the inverse of symlog (DreamerV3, eq. 9)."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def symexp_bins(count: int, high: float = 20.0) -> Tensor:
    """Exponentially spaced bins, symmetric about zero, `[K]` float32 (DreamerV3, eq. 10).

    An odd count has one exact zero in the middle, an even count two.
    """
    half = symexp(torch.linspace(-high, 0.0, (count + 1) // 2, dtype=torch.float32))  # [(K+1)//2]
    mirrored = -half.flip(0)  # [(K+1)//2]
    return torch.cat([half, mirrored[1:] if count % 2 else mirrored])  # [K]


class TwoHotCode(NamedTuple):
    """Codes over bins by their entries, J for each number: bins and weights `[..., J]`.

    Codes are added by joining their entries.
    """

    place: Tensor
    weight: Tensor


def two_hot_code(x: Tensor, bins: Tensor) -> TwoHotCode:
    """The entries of the two-hot code of x `[...]` (DreamerV3, eq. 8), J = 2.

    The two bins beside x get weights linear in the distance to each; values beyond an end, infinite
    ones too, get that end alone. NaN gives NaN weights.
    """
    x = x.to(bins.dtype)
    # Flat, as a compiler may lay x out as it likes, and searchsorted wants it contiguous.
    index = torch.searchsorted(bins, x.reshape(-1).contiguous(), right=True).reshape(
        x.shape
    )  # [...]
    below = (index - 1).clamp(min=0)
    above = index.clamp(max=len(bins) - 1)
    distance = torch.abs(x - bins[below])
    total = distance + torch.abs(bins[above] - x)
    weight = torch.where(below == above, torch.ones_like(x), distance / total)  # [...]
    # searchsorted puts NaN behind the last bin, the largest value there is.
    weight = torch.where(torch.isnan(x), x, weight)
    return TwoHotCode(torch.stack([below, above], -1), torch.stack([1 - weight, weight], -1))


def two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """The two-hot code `[..., K]` of x `[...]` as it is printed (DreamerV3, eq. 8).

    Losses take its entries, `two_hot_code`. NaN gives NaN in all bins.
    """
    place, weight = two_hot_code(x, bins)
    code = weight.new_zeros(*x.shape, len(bins)).scatter_add(-1, place, weight)  # [..., K]
    return torch.where(torch.isnan(x)[..., None], torch.nan, code)


class CodedCrossEntropy(torch.autograd.Function):
    """Cross-entropy `[...]` of the softmax of logits `[..., K]` with a `TwoHotCode`.

    That is the sum of the code's weights times the log-sum-exp of the logits, less the weighted logits
    at its places; the gradient is one pass over the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, place: Tensor, weight: Tensor) -> Tensor:
        largest = logits.amax(-1, keepdim=True)  # [..., 1]
        total = (logits - largest).exp().sum(-1, keepdim=True).log() + largest  # [..., 1]
        ctx.save_for_backward(logits, total, place, weight)
        return (weight * (total - logits.gather(-1, place))).sum(-1)  # [..., J] -> [...]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, total, place, weight = ctx.saved_tensors
        weight = weight * grad[..., None]  # [..., J]
        probs = weight.sum(-1, keepdim=True) * (logits - total).exp()  # [..., K]
        return probs.scatter_add(-1, place, -weight), None, None


def coded_cross_entropy(logits: Tensor, code: TwoHotCode) -> Tensor:
    """`CodedCrossEntropy` of logits `[..., K]` with codes of the same leading shape."""
    out: Tensor = CodedCrossEntropy.apply(logits, *code)
    return out


def two_hot_mean(probs: Tensor, bins: Tensor) -> Tensor:
    """Expected bin `[...]` of probs `[..., K]`.

    The bins are symmetric, so opposite bins are paired: uniform probabilities give exactly zero
    although the outer bins are astronomically large (DreamerV3, symexp two-hot loss).
    """
    half = len(bins) // 2
    upper = len(bins) - half
    # A sum and no matrix product: autocast would take the product in half precision.
    return ((probs[..., upper:] - probs[..., :half].flip(-1)) * bins[upper:]).sum(-1)  # [...]


def symlog_two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """The two-hot code `[..., K]` of symlog(x) over equally spaced bins (TD-MPC2, eq. 3).

    Infinite values get the outer bin; NaN gives NaN in all bins.
    """
    width = (bins[-1] - bins[0]) / (len(bins) - 1)
    place = ((symlog(x.to(bins.dtype)) - bins[0]) / width).clamp(0, len(bins) - 1)  # [...]
    distance = torch.arange(len(bins), device=bins.device) - place[..., None]  # [..., K]
    return (1 - distance.abs()).clamp(min=0)  # [..., K]


def episode_discount(length: float, denominator: float, low: float, high: float) -> float:
    """Discount for episodes of `length` steps: (f - 1) / f with f = length / denominator, bounded
    (TD-MPC2, appendix on hyperparameters)."""
    fraction = length / denominator
    return min(max((fraction - 1) / fraction, low), high)


def lambda_return(
    reward: Tensor, live: Tensor, keep: Tensor, value: Tensor, boot: Tensor
) -> Tensor:
    """Lambda-returns `[..., T-1]` of sequences `[..., T]` (DreamerV3, eq. 5).

    ``R[t] = r[t+1] + live[t+1] * ((1 - keep[t+1]) * value[t+1] + keep[t+1] * R[t+1])`` with
    ``R[T-1] = boot[..., T-1]``. live: discount, zero after a terminal step. keep: lambda, zero
    where the sequence is cut and the value must be bootstrapped.
    """
    reward, live, keep, value = (x[..., 1:] for x in (reward, live, keep, value))  # [..., T-1]
    step = reward + live * (1 - keep) * value  # [..., T-1]
    decay = live * keep  # [..., T-1]
    returns = []
    current = boot[..., -1]  # [...]
    for t in reversed(range(step.shape[-1])):
        current = step[..., t] + decay[..., t] * current  # [...]
        returns.append(current)
    return torch.stack(returns[::-1], -1)  # [..., T-1]


def linear_warmup(step: int, warmup: int) -> float:
    """Factor of the learning rate at update `step` (from 0): 0 first, then linear up to 1."""
    return min(1.0, step / warmup) if warmup else 1.0


def percentile(x: Tensor, q: float) -> Tensor:
    """The q-th percentile (0..100) of all elements, interpolated linearly. Works at any size."""
    flat = x.flatten()  # [...] -> [M], M elements
    position = (flat.numel() - 1) * q / 100
    below = int(position)
    above = min(below + 1, flat.numel() - 1)
    # kthvalue instead of quantile: quantile refuses more than 2^24 elements and sorts everything.
    low = flat.kthvalue(below + 1).values
    high = flat.kthvalue(above + 1).values
    return low + (high - low) * (position - below)


def one_hot_flat(x: Tensor, classes: Sequence[int]) -> Tensor:
    """Class indices `[..., len(classes)]` as concatenated one-hots `[..., C]`, float32."""
    columns = [F.one_hot(x[..., i].long(), k) for i, k in enumerate(classes)]  # each [..., K]
    return torch.cat(columns, -1).float()  # [..., C]
