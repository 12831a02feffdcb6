"""An update that several processes make together is the update on the joined batch."""

import dataclasses

import pytest
import torch

from tests.models import test_agent as dreamerv3
from tests.models import test_tdmpc2 as tdmpc2
from tests.models import test_tdmpc2_tasks as tasks
from tests.together import together
from worldflux.models.dreamerv3.objective import Noise as DreamerNoise
from worldflux.models.tdmpc2.objective import Noise as TDMPC2Noise

UPDATES = 3


class DreamerV3Case:
    """Wide returns, so that the percentiles of the normaliser decide its scale."""

    def __init__(self, kind="continuous", **training):
        self.agent = dreamerv3.build(kind, **training)
        stir(self.agent.model)
        self.agent.model.return_norm.rate = 0.5
        self.agent.model.return_norm.limit = 1e-3

    def batch(self, seed):
        batch = dreamerv3.batch_for(self.agent, seed=seed)
        batch["is_terminal"][1, 2] = batch["is_last"][1, 2] = True
        return batch

    def noise(self, seed):
        generator = torch.Generator().manual_seed(seed)
        shape = dreamerv3.B, dreamerv3.T
        return DreamerNoise.draw(self.agent.model, *shape, generator, self.agent.device)

    rows = dreamerv3.B
    axes = {"observe": 1, "imagine": 1, "act": 1}  # noqa: RUF012

    def statistic(self):
        return self.agent.model.return_norm.hi


class TDMPC2Case:
    """One slice runs into another episode, one ends; Q is spread wider than 1."""

    episodic = True

    def __init__(self, kind="continuous", **training):
        self.agent = tdmpc2.build(kind, training, episodic=self.episodic, dropout=0.1)
        stir(self.agent.model)
        self.agent.model.q[-1].weight.data *= 30
        self.agent.model.q_scale.rate = 0.5

    def batch(self, seed):
        batch = tdmpc2.batch_for(self.agent, seed)
        batch["is_first"][1, 2] = True
        batch["is_terminal"][4, 3] = batch["is_last"][4, 3] = True
        return batch

    def noise(self, seed):
        generator = torch.Generator().manual_seed(seed)
        return TDMPC2Noise.draw(self.agent.model, tdmpc2.H, tdmpc2.B, generator)

    rows = tdmpc2.B
    axes = {"td_action": 1, "policy_action": 1}  # noqa: RUF012
    dropout = {"q_dropout": tdmpc2.H, "policy_dropout": tdmpc2.H + 1}  # noqa: RUF012

    def statistic(self):
        return self.agent.model.q_scale.value


class LateEndCase(TDMPC2Case):
    """The first end comes in the second batch, in the rows of one rank: all add the head there."""

    episodic = False

    def batch(self, seed):
        batch = super().batch(seed)
        batch["is_terminal"] &= seed > 0
        return batch


class SeveralTasksCase:
    """The ranks see different tasks: an embedding is shortened by one and learned by the other."""

    def __init__(self, **training):
        self.agent = tasks.build(training)
        self.agent.model.q[-1].weight.data *= 30
        self.agent.model.q_scale.rate = 0.5

    def batch(self, seed):
        order = [0, 3, 1, 2, 5, 4]  # tasks 0 0 1 and 2 2 1
        return {key: value[order] for key, value in tasks.batch().items()}

    def noise(self, seed):
        generator = torch.Generator().manual_seed(seed)
        return TDMPC2Noise.draw(self.agent.model, tasks.H, tasks.B, generator)

    rows = tasks.B
    axes = {"td_action": 1, "policy_action": 1}  # noqa: RUF012

    def statistic(self):
        return self.agent.model.q_scale.value


def stir(model):
    """Heads that start at zero would have no values to take percentiles of."""
    model.double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.1 * noise


def share(case, batch, noise, rank, size):
    """The rows of one rank, with the draws that belong to them."""
    rows = case.rows // size
    mine = slice(rank * rows, (rank + 1) * rows)
    batch = {key: value[mine] for key, value in batch.items()}
    cut = {}
    for field in dataclasses.fields(noise):
        value = getattr(noise, field.name)
        if field.name in case.axes:
            per_row = value.shape[1] // case.rows
            cut[field.name] = value[:, rank * rows * per_row : (rank + 1) * rows * per_row]
        elif field.name in getattr(case, "dropout", {}):
            steps = value.unflatten(1, (case.dropout[field.name], case.rows))
            cut[field.name] = steps[:, :, mine].flatten(1, 2)
        else:
            cut[field.name] = value
    return batch, type(noise)(**cut)


def double(tree):
    floats = {key: v.double() if v.is_floating_point() else v for key, v in tree.items()}
    return floats


def train(case, ranks=None):
    """The agent's whole state after some updates, and its first metrics."""
    if ranks is not None:
        case.agent.join(ranks, seed=ranks.rank)
    first = {}
    for seed in range(UPDATES):
        noise = case.noise(seed)
        for field in dataclasses.fields(noise):
            value = getattr(noise, field.name)
            if value is not None and value.is_floating_point():
                setattr(noise, field.name, value.double())
        batch = double(case.batch(seed))
        if ranks is not None:
            batch, noise = share(case, batch, noise, ranks.rank, ranks.size)
        metrics, _, _ = case.agent.update(batch, noise=noise)
        first = first or {key: float(value) for key, value in metrics.items()}
    state = {
        f"{group}/{key}": value.clone()
        for group, tensors in case.agent.state_dict().items()
        for key, value in tensors.items()
        if key not in case.agent.rank_state()
    }
    return state, first, float(case.statistic().reshape(()))


SETTINGS = {
    # Plain descent: the parameters differ by exactly the gradients.
    "gradients": dict(optimizer="sgd", beta1=0.0, learning_rate=1.0, grad_clip=0.5),
    # Clipping by norms, also per tensor, comes after the mean over the ranks.
    "clipped": dict(optimizer="laprop", learning_rate=1e-2, optimizer_eps=1e-2, agc=0.3),
}


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("case", [DreamerV3Case, TDMPC2Case, LateEndCase, SeveralTasksCase])
def test_two_processes_update_as_one_does_on_the_joined_batch(tmp_path, case, setting):
    alone, metrics, statistic = train(case(**SETTINGS[setting]))
    results = together(tmp_path, lambda ranks: train(case(**SETTINGS[setting]), ranks))
    for state, others, _ in results:
        assert state.keys() == alone.keys()
        for key, value in alone.items():
            error = (state[key].double() - value.double()).abs().max() if value.numel() else 0
            assert error < 1e-6, key
        assert abs(others["opt/grad_norm"] - metrics["opt/grad_norm"]) < 1e-6
    assert abs(statistic) > 1.001, "the percentiles decide nothing here"
    half = [other["loss/total"] for _, other, _ in results]
    assert abs(half[0] - half[1]) > 1e-3, "the ranks learned from the same rows"
    assert abs(sum(half) / 2 - metrics["loss/total"]) < 1e-6


def test_ranks_draw_their_own_noise_but_one_pair_of_q_networks(tmp_path):
    def draws(ranks):
        case = TDMPC2Case()
        case.agent.join(ranks, seed=ranks.rank)
        noise = {}
        original = case.agent.objective.model_losses

        def watched(data, drawn):
            noise["pair"], noise["action"] = drawn.td_index, drawn.td_action
            noise["policy"] = drawn.policy_index
            return original(data, drawn)

        case.agent.objective.model_losses = watched
        pairs = []
        for seed in range(8):
            case.agent.update(double(case.batch(seed)))
            pairs.append((noise["pair"].tolist(), noise["policy"].tolist()))
        return pairs, noise["action"]

    (pairs, action), (others, other) = together(tmp_path, draws)
    assert pairs == others and not torch.equal(action, other)
