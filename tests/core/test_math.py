"""The scalar formulas, compared with closed forms and float64 computations."""

import math

import numpy as np
import pytest
import torch

from worldflux.core.math import (
    TwoHotCode,
    coded_cross_entropy,
    lambda_return,
    linear_warmup,
    percentile,
    symexp,
    symexp_bins,
    symlog,
    two_hot,
    two_hot_code,
    two_hot_mean,
)


def test_symlog_and_symexp_are_inverse_over_the_whole_range():
    x = torch.tensor([-1e8, -333.0, -1.0, -1e-4, 0.0, 1e-4, 0.5, 7.0, 1e8], dtype=torch.float64)
    assert torch.allclose(symexp(symlog(x)), x, rtol=1e-12, atol=0)
    assert symlog(torch.tensor(math.e - 1)).item() == pytest.approx(1.0)


@pytest.mark.parametrize("count", [255, 41, 40])
def test_bins_are_symmetric_and_span_symexp_of_twenty(count):
    bins = symexp_bins(count)
    assert len(bins) == count
    assert torch.equal(bins, -bins.flip(0))
    assert bins[-1].item() == pytest.approx(math.exp(20) - 1, rel=1e-6)
    assert int((bins == 0).sum()) == (1 if count % 2 else 2)


def dense(code: TwoHotCode, count: int) -> torch.Tensor:
    """Codes `[..., K]` of their entries."""
    zeros = torch.zeros(*code.weight.shape[:-1], count, dtype=code.weight.dtype)
    return zeros.scatter_add(-1, code.place, code.weight)


@pytest.mark.parametrize("count", [255, 40])
def test_coded_cross_entropy_and_its_gradient_are_those_of_the_dense_codes(count):
    torch.manual_seed(0)
    bins = symexp_bins(count).double()
    targets = torch.tensor([-4e8, -3.0, 0.0, 0.3, bins[count // 3].item(), 4e8]).double()
    first, second = two_hot_code(targets, bins), two_hot_code(targets.flip(0) / 3, bins)
    both = TwoHotCode(*(torch.cat([a, b], -1) for a, b in zip(first, second, strict=True)))
    logits = (5 * torch.randn(6, count, dtype=torch.float64)).requires_grad_()
    ours = coded_cross_entropy(logits, both)
    plain = -(dense(both, count) * logits.log_softmax(-1)).sum(-1)
    assert torch.allclose(ours, plain, rtol=1e-13)
    upstream = torch.linspace(-1, 2, 6).double()
    (a,), (b,) = (torch.autograd.grad(y, logits, upstream) for y in (ours, plain))
    assert torch.allclose(a, b, rtol=0, atol=1e-14)


def test_a_target_that_is_not_a_number_makes_loss_and_gradient_so():
    bins = symexp_bins(41)
    logits = torch.zeros(2, 41, requires_grad=True)
    loss = coded_cross_entropy(logits, two_hot_code(torch.tensor([math.nan, 1.0]), bins))
    assert torch.isnan(loss[0]) and loss[1].item() == pytest.approx(math.log(41))
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isnan(grad[0]).all() and torch.isfinite(grad[1]).all()


@pytest.mark.parametrize("count", [255, 40])
def test_two_hot_round_trip_and_two_neighbouring_weights(count):
    bins = symexp_bins(count).double()
    x = torch.tensor([-4e8, -123.4, -1.0, 0.0, 0.3, 1.0, 57.0, 9999.5, 4e8], dtype=torch.float64)
    code = two_hot(x, bins)
    assert torch.allclose(code.sum(-1), torch.ones_like(x))
    assert (code > 0).sum(-1).max() <= 2
    decoded = (code * bins).sum(-1)
    assert torch.allclose(decoded, x, rtol=1e-9, atol=1e-9)
    assert torch.allclose(two_hot_mean(code, bins), x, rtol=1e-9, atol=1e-7)


def test_two_hot_gives_values_beyond_the_ends_to_the_last_bin():
    bins = symexp_bins(255)
    code = two_hot(torch.tensor([-1e12, 1e12]), bins)
    assert code[0, 0] == 1 and code[1, -1] == 1


@pytest.mark.parametrize("count", [255, 41, 40])
def test_uniform_probabilities_mean_exactly_zero(count):
    bins = symexp_bins(count)
    assert two_hot_mean(torch.full((3, count), 1 / count), bins).abs().max() == 0


def test_lambda_return_of_constant_reward_is_the_geometric_series():
    # With lambda 1 and no end the return is the discounted sum plus the discounted bootstrap.
    length, discount, reward, boot = 9, 0.9, 2.0, 5.0
    ones = torch.ones(1, length, dtype=torch.float64)
    value = torch.full_like(ones, boot)
    got = lambda_return(reward * ones, discount * ones, ones, value, value)
    steps = torch.arange(length - 1, 0, -1, dtype=torch.float64)
    series = reward * (1 - discount**steps) / (1 - discount) + discount**steps * boot
    assert torch.allclose(got[0], series)


def test_lambda_return_with_lambda_zero_is_the_one_step_target():
    rng = np.random.default_rng(0)
    reward, value = (torch.from_numpy(rng.normal(size=(4, 7))) for _ in range(2))
    live = torch.from_numpy(rng.uniform(0, 1, (4, 7)))
    got = lambda_return(reward, live, torch.zeros_like(live), value, value)
    assert torch.allclose(got, reward[:, 1:] + live[:, 1:] * value[:, 1:])


def test_lambda_return_is_the_mixture_of_n_step_returns():
    rng = np.random.default_rng(1)
    length, lam, discount = 6, 0.7, 0.95
    reward, value = rng.normal(size=length), rng.normal(size=length)

    def n_step(t: int, n: int) -> float:
        rewards = sum(discount**k * reward[t + 1 + k] for k in range(n))
        return rewards + discount**n * value[t + n]

    expected = []
    for t in range(length - 1):
        last = length - 1 - t
        mixture = sum((1 - lam) * lam ** (n - 1) * n_step(t, n) for n in range(1, last))
        expected.append(mixture + lam ** (last - 1) * n_step(t, last))
    tensors = [torch.from_numpy(x)[None] for x in (reward, value)]
    live = torch.full((1, length), discount, dtype=torch.float64)
    got = lambda_return(tensors[0], live, torch.full_like(live, lam), tensors[1], tensors[1])
    assert np.allclose(got[0].numpy(), expected)


def test_nothing_after_a_terminal_step_reaches_the_return():
    reward = torch.tensor([[0.0, 1.0, 1.0, 100.0]])
    live = torch.tensor([[0.9, 0.9, 0.0, 0.9]])
    value = torch.full_like(reward, 50.0)
    got = lambda_return(reward, live, torch.ones_like(live), value, value)
    assert got[0, 1].item() == pytest.approx(1.0)
    assert got[0, 0].item() == pytest.approx(1.9)


@pytest.mark.parametrize("q", [0.0, 5.0, 37.5, 95.0, 100.0])
def test_percentile_agrees_with_numpy(q):
    x = np.random.default_rng(2).normal(size=(7, 31))
    assert percentile(torch.from_numpy(x), q).item() == pytest.approx(np.percentile(x, q))


def test_warmup_starts_at_zero_and_ends_at_one():
    assert [linear_warmup(step, 4) for step in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert linear_warmup(0, 0) == 1.0
