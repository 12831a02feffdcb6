"""Where the training data comes from: `worldflux train` calls `build_training_data`.

Register environments of your own here, at the top of the file, and name them in [data] gym_env.
"""

from worldflux.project import AS_CONFIGURED


def build_training_data(model_config, frame_callback=None, phase_callback=None):
    """Returns (data, cleanup, mode).

    AS_CONFIGURED collects in the environment while training, as worldflux.toml says. For data of
    your own return anything that has ``sample(batch_size=, seq_len=, device=)``, for example
    recorded episodes:

        from worldflux.training import ReplayBuffer

        return ReplayBuffer.load("episodes.npz"), lambda: None, "offline"

    model_config: has obs_shape, action_dim and action_type. cleanup: called at the end. mode:
    "online", "offline" or "random". frame_callback(frame, episode, episode_step, reward, done) and
    phase_callback(phase, detail) show on the dashboard what you collect here yourself.
    """
    return AS_CONFIGURED, lambda: None, "online"
