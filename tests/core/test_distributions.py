"""Distributions, compared with torch.distributions in float64."""

import torch
from torch import distributions as td

from worldflux.core.distributions import Binary, MultiOneHot, OneHot, gumbel_noise
from worldflux.core.math import symexp_bins, two_hot
from worldflux.models.dreamerv3.distributions import BoundedNormal, SymlogMSE, TwoHot


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_hot_with_unimix_is_the_mixed_categorical():
    a, b = logits(5, 7), logits(5, 7, seed=1)
    mixed = [td.Categorical(probs=0.99 * x.softmax(-1) + 0.01 / 7) for x in (a, b)]
    ours, other = OneHot(a, 0.01), OneHot(b, 0.01)
    event = torch.eye(7, dtype=torch.float64)[[0, 3, 6, 1, 2]]
    assert torch.allclose(ours.entropy(), mixed[0].entropy())
    assert torch.allclose(ours.kl(other), td.kl_divergence(*mixed))
    assert torch.allclose(ours.logp(event), mixed[0].log_prob(event.argmax(-1)))


def test_samples_follow_the_probabilities():
    x = torch.tensor([1.0, 0.0, -1.0])
    noise = gumbel_noise((20_000, 3), torch.Generator().manual_seed(0), torch.device("cpu"))
    share = OneHot(x.expand(20_000, 3)).sample(noise).mean(0)
    assert torch.allclose(share, x.softmax(-1), atol=0.015)


def test_straight_through_gradient_is_that_of_the_mixed_probabilities():
    x = logits(4, 6).requires_grad_()
    upstream = logits(4, 6, seed=3)
    sample = OneHot(x, 0.01).sample(torch.zeros(4, 6, dtype=torch.float64))
    assert set(sample.detach().unique().tolist()) == {0.0, 1.0}
    (got,) = torch.autograd.grad((sample * upstream).sum(), x)
    probs = 0.99 * x.softmax(-1) + 0.01 / 6
    (expected,) = torch.autograd.grad((probs * upstream).sum(), x)
    assert torch.allclose(got, expected)


def test_multi_one_hot_keeps_unequal_parts_apart():
    dist = MultiOneHot(logits(3, 5), (2, 3))
    sample = dist.sample(torch.zeros(3, 5, dtype=torch.float64))
    assert torch.equal(sample[:, :2].sum(-1), torch.ones(3, dtype=torch.float64))
    assert torch.equal(sample[:, 2:].sum(-1), torch.ones(3, dtype=torch.float64))
    x = logits(3, 5)
    parts = [td.OneHotCategorical(logits=x[:, :2]), td.OneHotCategorical(logits=x[:, 2:])]
    expected = parts[0].log_prob(sample[:, :2]) + parts[1].log_prob(sample[:, 2:])
    assert torch.allclose(dist.logp(sample), expected)
    assert torch.allclose(dist.entropy(), parts[0].entropy() + parts[1].entropy())


def test_bounded_normal_is_a_normal_with_bounded_deviation():
    mean, raw, event = logits(4, 3), 5 * logits(4, 3, seed=1), logits(4, 3, seed=2)
    dist = BoundedNormal(mean, raw, 0.1, 1.0)
    assert dist.stddev.min() >= 0.1 and dist.stddev.max() <= 1.0
    reference = td.Independent(td.Normal(dist.mean, dist.stddev), 1)
    assert torch.allclose(dist.logp(event), reference.log_prob(event))
    assert torch.allclose(dist.entropy(), reference.entropy())
    assert torch.equal(dist.mean, mean.tanh())


def test_two_hot_loss_is_the_cross_entropy_with_the_code():
    bins = symexp_bins(255).double()
    x, target = logits(6, 255), torch.tensor([-1e9, -3.0, 0.0, 0.5, 12.0, 1e9]).double()
    expected = -(two_hot(target, bins) * x.log_softmax(-1)).sum(-1)
    assert torch.allclose(TwoHot(x, bins).loss(target), expected)


def test_binary_and_symlog_losses():
    logit, target = logits(8), torch.rand(8, dtype=torch.float64)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
    assert torch.allclose(Binary(logit).loss(target), expected)
    dist = SymlogMSE(torch.tensor([[0.0, 1.0]]))
    assert torch.allclose(dist.pred(), torch.tensor([[0.0, torch.e - 1]]))
    assert dist.loss(torch.tensor([[0.0, torch.e - 1]])).item() < 1e-12


def test_one_uniform_number_samples_each_class_as_often_as_its_probability():
    dist = OneHot(logits(3, 5), unimix=0.01)
    count = 20_000
    uniform = (torch.arange(count).double() + 0.5) / count  # [M], as even as numbers can be
    with torch.no_grad():
        many = OneHot(dist.logprob.expand(count, 3, 5))
        samples = many.sample(uniform.view(-1, 1, 1).expand(-1, 3, 1))  # [M, 3, 5]
    assert torch.equal(samples.sum(-1), torch.ones(count, 3).double())
    assert torch.allclose(samples.mean(0), dist.probs, rtol=0, atol=1.5 / count)
    # The ends: no number reaches the first class's share from below, and none lies beyond the last.
    assert many.sample(torch.zeros(count, 3, 1))[..., 0].all()
    assert many.sample(torch.full((count, 3, 1), 1 - 2**-24))[..., -1].all()
