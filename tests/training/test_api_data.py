"""`Trainer(model).train(data)` from Python: buffers, iterables and what goes wrong with them."""

import numpy as np
import pytest
import torch

from worldflux import Batch, create_world_model, set_seed
from worldflux.config.spaces import Space
from worldflux.errors import ConfigurationError, TrainingError
from worldflux.run_folder.manifest import read_manifest
from worldflux.training import Callback, ReplayBuffer, Trainer, TrainingConfig, train
from worldflux.training.feeds import to_host


def world_model(seed=0):
    set_seed(seed)
    return create_world_model("dreamerv3:ci", obs_shape=(4,), action_dim=2, action_type="discrete")


def buffer(episodes=6, length=30):
    """Observation 0 tells the next reward, so that the loss can fall."""
    rng = np.random.default_rng(0)
    made = ReplayBuffer(1000, (4,), 2)
    for _ in range(episodes):
        obs = rng.standard_normal((length, 4)).astype(np.float32)
        actions = np.eye(2, dtype=np.float32)[rng.integers(2, size=length)]
        made.add_episode(obs, actions, obs[:, 0])
    return made


def config(folder, **fields):
    values = dict(
        total_steps=4,
        batch_size=4,
        sequence_length=8,
        output_dir=str(folder),
        device="cpu",
        log_interval=2,
        save_interval=2,
        learning_rate=1e-3,
    )
    return TrainingConfig(**{**values, **fields})


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_buffer_trains_a_world_model_and_its_loss_falls(tmp_path):
    model, data = world_model(), buffer()
    trainer = Trainer(model, config(tmp_path, total_steps=40))
    before = trainer.evaluate(data, num_batches=4)
    assert trainer.train(data) is model
    after = trainer.evaluate(data, num_batches=4)
    assert {"loss", "reward", "reconstruction", "kl"} <= set(after)
    assert after["loss"] < 0.9 * before["loss"]
    manifest = read_manifest(tmp_path)
    assert manifest["data_mode"] == "offline" and manifest["env_steps"] == 0
    assert manifest["run_classification"] == "meaningful_local_training"
    assert (tmp_path / "checkpoints" / "step_000000040").is_dir()


def test_evaluate_changes_nothing(tmp_path):
    model, data = world_model(), buffer()
    trainer = Trainer(model, config(tmp_path))
    before, state = weights(model), torch.get_rng_state()
    assert trainer.evaluate(data) == trainer.evaluate(data)
    assert torch.equal(weights(model), before) and torch.equal(torch.get_rng_state(), state)


def test_train_with_a_resume_equals_one_without(tmp_path):
    whole = Trainer(world_model(), config(tmp_path / "a", total_steps=6)).train(buffer())
    Trainer(world_model(), config(tmp_path / "b", total_steps=3)).train(buffer())
    set_seed(123)
    resumed = Trainer(world_model(5), config(tmp_path / "b", total_steps=6))
    resumed.train(buffer(), resume_from=tmp_path / "b")
    assert resumed.state.global_step == 6
    assert torch.equal(weights(resumed.model), weights(whole))


def test_the_function_train_takes_the_documented_arguments(tmp_path):
    model = train(
        world_model(),
        buffer(),
        2,
        4,
        8,
        1e-3,
        10.0,
        str(tmp_path),
        "cpu",
        log_interval=1,
        optimizer="adam",
    )
    training = read_manifest(tmp_path)["training_config"]
    assert training["total_steps"] == 2 and training["grad_clip"] == 10.0
    assert training["optimizer"] == "adam" and torch.isfinite(weights(model)).all()
    with pytest.raises(TypeError, match="not_a_field"):
        train(world_model(), buffer(), not_a_field=1)


def batches(count, **changes):
    data = buffer()
    for _ in range(count):
        sample = data.sample(4, 8)
        fields = dict(obs=sample.obs, actions=sample.actions, rewards=sample.rewards)
        fields["terminations"] = sample.terminations
        yield {key: value for key, value in {**fields, **changes}.items() if value is not None}


def test_an_iterable_of_batches_is_gone_through_again_and_again(tmp_path):
    epochs = []

    class Epochs(Callback):
        def on_epoch_begin(self, trainer):
            epochs.append(("begin", trainer.state.global_step))

        def on_epoch_end(self, trainer):
            epochs.append(("end", trainer.state.global_step))

    trainer = Trainer(world_model(), config(tmp_path, total_steps=5), [Epochs()])
    trainer.train([Batch(**batch) for batch in batches(2)])
    assert trainer.state.global_step == 5 and trainer.state.epoch == 2
    assert epochs == [
        ("begin", 0), ("end", 2), ("begin", 2), ("end", 4), ("begin", 4), ("end", 5),
    ]  # fmt: skip


def test_dicts_of_arrays_are_batches_too(tmp_path):
    arrays = [{key: value.numpy() for key, value in batch.items()} for batch in batches(2)]
    model = world_model()
    before = weights(model)
    Trainer(model, config(tmp_path, total_steps=3)).train(arrays)
    assert not torch.equal(weights(model), before)


def test_data_that_runs_out_is_told(tmp_path):
    trainer = Trainer(world_model(), config(tmp_path))
    with pytest.raises(TrainingError, match="training data ended"):
        trainer.train(batches(3))
    assert trainer.state.global_step == 3


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (lambda: 3, ConfigurationError, "data: expected an object with sample.*got int"),
        (lambda: list(batches(1, rewards=None)), TrainingError, r"missing keys \['rewards'\]"),
        (lambda: [torch.zeros(3)], TrainingError, "expected a Batch or a dict"),
        (lambda: [], TrainingError, "training data ended"),
    ],
)
def test_data_that_is_none_is_told(tmp_path, data, error, text):
    with pytest.raises(error, match=text):
        Trainer(world_model(), config(tmp_path)).train(data())


def test_gradient_accumulation_takes_its_parts_from_one_larger_batch(tmp_path):
    sizes = []

    class Spy(ReplayBuffer):
        def sample(self, batch_size, seq_len, device="cpu"):
            sizes.append(batch_size)
            return super().sample(batch_size, seq_len, device)

    data = buffer()
    data.__class__ = Spy
    Trainer(world_model(), config(tmp_path, gradient_accumulation_steps=3)).train(data)
    assert sizes == [12] * 4


def test_bfloat16_trains_on_the_cpu(tmp_path):
    mixed = dict(mixed_precision=True, mixed_precision_dtype="bfloat16")
    model = Trainer(world_model(), config(tmp_path, **mixed)).train(buffer())
    assert torch.isfinite(weights(model)).all() and weights(model).dtype == torch.float32


def test_entries_reach_the_replay_in_the_types_that_it_keeps() -> None:
    entries = {"deter": torch.randn(2, 3, 4), "stoch": torch.eye(5).expand(2, 3, 5, 5)}
    spaces = {"deter": Space((4,)), "stoch": Space((5, 5), "uint8")}
    arrays = to_host(entries, spaces)
    assert {key: array.dtype.name for key, array in arrays.items()} == {
        "deter": "float32",
        "stoch": "uint8",
    }
    for key, value in entries.items():
        np.testing.assert_array_equal(arrays[key], value.numpy())
