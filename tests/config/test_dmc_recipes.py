"""env=dmc counts as the family's official code does; recipes hold the official settings."""

from __future__ import annotations

import dataclasses

from hydra import compose, initialize_config_dir

from worldflux.config import composition
from worldflux.config import run as schema
from worldflux.config.presets import conf_dir
from worldflux.config.run import RunConfig
from worldflux.models.tdmpc2.config import TDMPC2Config


def composed(*overrides: str) -> RunConfig:
    schema.register()
    with initialize_config_dir(str(conf_dir()), **composition.VERSION):
        return schema.run_config(compose("config", overrides=list(overrides)))


def test_each_family_counts_steps_in_its_own_way() -> None:
    dreamer = composed("env=dmc", "env.id=walker-walk").env
    assert (dreamer.suite, dreamer.action_repeat, dreamer.time_limit) == ("dmc", 1, None)
    assert not dreamer.flatten and dreamer.frame_stack == 1
    tdmpc2 = composed("model=tdmpc2", "env=dmc", "env.id=walker-walk").env
    assert (tdmpc2.action_repeat, tdmpc2.time_limit) == (2, 500)
    assert tdmpc2.flatten and tdmpc2.frame_stack == 1  # of pictures three, see below
    seen = composed("model=tdmpc2", "env=dmc", "env.id=walker-walk", "env.obs=pixels").env
    assert seen.frame_stack == 3
    changed = composed("env=dmc", "model=tdmpc2", "env.id=a-b", "env.action_repeat=4").env
    assert changed == dataclasses.replace(tdmpc2, id="a-b", action_repeat=4)


def test_recipes_are_the_official_settings() -> None:
    run = composed("+experiment=dmc_proprio_dreamerv3", "env.id=cartpole-balance")
    assert run.model.model_name == "size1m" and run.env.id == "cartpole-balance"
    training = run.training
    assert (training.batch_size, training.sequence_length, training.num_envs) == (16, 64, 16)
    assert (training.learning_rate, training.warmup_steps, training.agc) == (4e-5, 1000, 0.3)
    assert run.data.train_ratio == 1024 and run.data.capacity == 5_000_000
    assert run.env.action_repeat == 1 and run.env.obs == "state"
    vision = composed("+experiment=dmc_vision_dreamerv3")
    assert vision.model.model_name == "size200m" and vision.data.train_ratio == 256
    assert vision.env.obs == "pixels" and vision.env.image_size is None  # the suite draws 64x64


def test_the_tdmpc2_recipe_is_the_official_one() -> None:
    run = composed("+experiment=dmc_walker_tdmpc2")
    assert run.model.model_name == "5m" and run.env.action_repeat == 2
    assert (run.training.batch_size, run.training.sequence_length) == (256, 3)
    assert (run.training.learning_rate, run.training.grad_clip) == (3e-4, 20.0)
    assert run.training.optimizer == "adam" and not run.data.online
    assert run.data.prefill_steps == run.data.pretrain_updates == 2_500
    assert run.data.collect_steps_per_update == 1 and run.data.capacity == 1_000_000

    assert run.training.compile_model and run.training.eval_episodes == 10
    assert run.model.num_samples == 512 and run.model.encoder_lr_scale == 0.3


def test_the_default_of_tdmpc2_is_the_recipe_that_solves_the_default_task() -> None:
    run, named = composed("model=tdmpc2"), composed("+experiment=cartpole_tdmpc2")
    for group in ("model", "env", "data", "training"):
        assert getattr(run, group) == getattr(named, group)
    assert run.model.model_name == "75k" and run.model.episodic and run.model.num_samples == 64
    assert run.training.total_steps == 15_000 and run.data.prefill_steps == 1_000
    published = composed("model=tdmpc2", "training=tdmpc2_official", "data=tdmpc2_official")
    assert published.training.batch_size == 256 and published.data.pretrain_updates == 2_500


def test_the_pendulum_keeps_the_official_hyperparameters() -> None:
    model, official = composed("+experiment=pendulum_tdmpc2").model, TDMPC2Config()
    for name in ("encoder_lr_scale", "target_q_tau", "termination_loss_coef"):
        assert getattr(model, name) == getattr(official, name)


def test_the_unrolled_steps_follow_the_horizon() -> None:
    run = composed("+experiment=pendulum_tdmpc2", "model.horizon=5", "data.prefill_steps=700")
    assert run.training.sequence_length == 5 and run.data.pretrain_updates == 700
