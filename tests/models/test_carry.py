"""What training carries from chunk to chunk of a sequence: an argument, cut with the rows."""

import os
import signal

import numpy as np
import pytest
import torch

from tests.models import test_tdmpc2 as tdmpc2
from tests.models.test_agent import B, T, batch_for, build
from tests.training.test_end_to_end_run import settings
from tests.training.test_resume_exact import assert_equal, content
from worldflux.config.data import DataConfig
from worldflux.errors import ConfigurationError
from worldflux.models.dreamerv3.agent import DreamerV3Agent
from worldflux.models.dreamerv3.objective import Noise
from worldflux.models.tdmpc2.agent import TDMPC2Agent
from worldflux.run_folder.checkpoint import read_checkpoint, write_checkpoint
from worldflux.runner.run import run
from worldflux.training import TrainingConfig


def chunk(agent, index: int) -> dict[str, torch.Tensor]:
    """Part `index % 2` of sequences that are trained in two chunks."""
    batch = batch_for(agent, seed=index)
    batch["dyn/deter"].normal_(generator=torch.Generator().manual_seed(index))
    return batch | {"consec": torch.full(batch["reward"].shape, index % 2, dtype=torch.int32)}


def train(parts: int, context: int, chunks: int = 4):
    agent = build(gradient_accumulation_steps=parts, optimizer="sgd", beta1=0.0)
    agent.replay_context = context
    carry, history = {}, []
    for index in range(chunks):
        noise = Noise.draw(agent.model, B, T, torch.Generator().manual_seed(index), agent.device)
        batch = chunk(agent, index)
        if not context:
            batch = {key: value for key, value in batch.items() if "dyn/" not in key}
        metrics, entries, carry = agent.update(batch, carry, noise)
        history.append((metrics, entries, carry))
    return agent, history


@pytest.mark.parametrize("context", [0, 1])
def test_accumulated_parts_carry_their_rows(context):
    (whole, expected), (halves, ours) = train(1, context), train(2, context)
    values = halves.model.state_dict()
    for name, value in whole.model.state_dict().items():
        if not name.startswith("return_norm"):  # its percentiles are those of each part
            torch.testing.assert_close(values[name], value, atol=1e-5, rtol=1e-4)
    for (metrics, _, carry), (others, _, other) in zip(expected, ours, strict=True):
        assert float(others["loss/total"]) == pytest.approx(float(metrics["loss/total"]), rel=1e-4)
        assert carry.keys() == other.keys() == {"deter", "stoch", "action"}
        for key, value in carry.items():
            torch.testing.assert_close(other[key], value, atol=1e-4, rtol=1e-4)


def test_a_later_chunk_starts_from_the_carry_alone():
    agent = build()
    first = agent.update(chunk(agent, 0))[2]
    second = chunk(agent, 1)
    starts = {}
    for name, carry in (("carry", first), ("none", None)):
        starts[name] = agent.context(second, carry)[1]
    assert torch.equal(starts["carry"].deter, first["deter"])
    assert torch.equal(starts["none"].deter, second["dyn/deter"][:, 0])
    again = agent.context(chunk(agent, 0), first)[1]  # a first chunk starts from the replay
    assert torch.equal(again.deter, chunk(agent, 0)["dyn/deter"][:, 0])


def test_the_report_of_a_later_chunk_starts_from_its_carry():
    agent = build(gradient_accumulation_steps=2)
    carry = agent.update(chunk(agent, 0))[2]
    batch = chunk(agent, 1)
    pictures = agent.report(batch, carry)
    assert pictures.keys() == {"openloop/obs", "openloop/reward"}
    others = agent.report(batch, {key: value * 0 for key, value in carry.items()})
    assert not np.array_equal(pictures["openloop/obs"], others["openloop/obs"])


def test_updates_keep_nothing_of_the_carry():
    agent, other = build(), build()
    carry = agent.update(chunk(agent, 0))[2]
    other.update(chunk(other, 0))
    carries = [a.update(chunk(a, 1), carry)[2] for a in (agent, other)]
    assert_equal(*carries)
    assert set(agent.rank_state()) == {"generator"}


def test_compiling_an_objective_changes_no_other_object():
    agent = build()
    before = {name: dict(vars(module)) for name, module in agent.model.named_modules()}
    calls = []

    def compiled(function):
        def call(*args):
            calls.append(function.__name__)
            return function(*args)

        return call

    objective = type(agent.objective)(agent.model, compiled)
    assert before == {name: dict(vars(module)) for name, module in agent.model.named_modules()}
    obs, start, previous = agent.context(batch_for(agent))
    noise = Noise.draw(agent.model, B, T, agent.generator, agent.device)
    objective(obs, start, previous, noise)
    assert calls.count("observe_step") == T
    calls.clear()
    agent.report(batch_for(agent))
    assert not calls


def test_an_optimizer_of_the_users_is_refused_where_there_are_two():
    model = tdmpc2.build().model
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(
        ConfigurationError, match=r"optimizer: this agent makes its own; set Training"
    ):
        model.make_agent(TrainingConfig(), "cpu", optimizer)
    assert isinstance(model.make_agent(TrainingConfig(), "cpu"), TDMPC2Agent)


def chunked(resume: str | None = None):
    config = settings(resume=resume, total_steps=8, save_interval=3, gradient_accumulation_steps=2)
    config.data = DataConfig(prefill_steps=60, collect_steps_per_update=2.5, consec=2)
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(chunked(), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("former", [False, True], ids=["", "checkpoint of an agent with a carry"])
def test_a_run_in_chunks_and_parts_stops_and_goes_on_exactly(tmp_path, monkeypatch, whole, former):
    folder = tmp_path / "stopped"
    update, done = DreamerV3Agent.update, []

    def interrupted(agent, batch, carry):
        done.append(bool(carry))
        if len(done) == 5:  # in the middle of the sequences
            os.kill(os.getpid(), signal.SIGTERM)
        return update(agent, batch, carry)

    monkeypatch.setattr(DreamerV3Agent, "update", interrupted)
    with pytest.raises(SystemExit):
        run(chunked(), folder)
    monkeypatch.undo()
    assert done == [False] + 4 * [True]
    if former:
        newest = folder / "checkpoints" / "step_000000005"
        checkpoint = read_checkpoint(newest)
        carry = checkpoint.state.pop("carry")
        checkpoint.agent["optimizer"] |= {f"train_carry.{k}": v for k, v in carry.items()}
        write_checkpoint(newest, checkpoint)
    run(chunked(resume=str(folder)), tmp_path / "unused")
    (a, a_metrics), (b, b_metrics) = content(folder), content(whole)
    assert a_metrics == b_metrics
    assert_equal(a.agent, b.agent)
    assert_equal(a.state["carry"], b.state["carry"])
