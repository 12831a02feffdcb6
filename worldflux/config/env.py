"""Schema of the `env` group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldflux.config.base import CheckedConfig
from worldflux.config.options import USER, option, plain_text, plain_texts
from worldflux.config.targets import no_target


@dataclass(frozen=True)
class SuiteRow:
    """module: what makes its environments, see worldflux/envs/suites.py; None: there are none.
    unused: keys that have no meaning with it, as YAML spells them."""

    module: str | None
    unused: tuple[str, ...] = ()


SUITES = {
    "gym": SuiteRow("worldflux.envs.gym_suite"),
    "dmc": SuiteRow("worldflux.envs.dmc", unused=("import", "noop_max")),
    "none": SuiteRow(None),
}


def _seeds(value: Any) -> str | None:
    bad = [seed for seed in value or () if seed < 0]
    return f"must be whole numbers of 0 or more, got {bad[0]}" if bad else None


@dataclass
class EnvConfig(CheckedConfig):
    """Which environment, and how its observations and actions are prepared."""

    suite: str = option(
        "gym",
        choices=tuple(SUITES),
        help="Who makes the environment: gym (any Gymnasium id), dmc (DeepMind Control Suite), none (no environment; data=dataset or data=random).",
    )
    id: str = option(
        "CartPole-v1",
        follows=USER,
        check=plain_text,
        help="Any Gymnasium id, module:Id-v0 to import its module first, or domain-task of the suite (walker-walk).",
    )
    tasks: tuple[str, ...] = option(
        (),
        check=plain_texts,
        help="Ids of several tasks that one agent learns together, instead of id; vectors are padded to the widest, and the observation key task says which task a step belongs to.",
    )
    import_module: str | None = option(
        None,
        check=plain_text,
        help="Python module to import first, so that it can register its environments; written import in YAML and on the command line.",
    )
    kwargs: dict[str, Any] = option(
        factory=dict,
        help="Keywords of gymnasium.make, or for dmc of DeepMindControl (worldflux/envs/dmc.py); add one with env.kwargs.NAME=VALUE.",
    )
    wrappers: dict[str, Any] = option(
        factory=dict,
        help="Wrappers of your own around the environment, by a name of yours: {_target_: module.Class, ARGUMENT: value}; see docs/wrappers.md.",
    )
    obs: str = option(
        "state",
        choices=("state", "pixels"),
        help="state takes the observation as it is; pixels takes render() frames instead.",
    )
    flatten: bool = option(
        False,
        help="Joins the vectors of a state observation into one, in the environment's own order.",
    )
    frame_stack: int = option(
        1,
        at_least=1,
        at_most=1_000,
        unit="pictures",
        help="Newest pictures that one observation holds, one after another along the channels; vectors beside them stay as they are, vectors alone are refused. Raise it for agents without memory.",
    )
    action_repeat: int = option(
        1,
        at_least=1,
        at_most=10_000,
        unit="environment frames",
        help="How often each action is repeated; rewards are summed. All counts of environment steps are after the repeat.",
    )
    time_limit: int | None = option(
        None,
        at_least=1,
        unit="environment steps",
        help="Truncates an episode after so many steps of the agent; null leaves it to the environment.",
    )
    image_size: tuple[int, int] | None = option(
        None,
        at_least=1,
        at_most=8_192,
        unit="pixels",
        help="Resizes images to this height and width; null leaves them (suite dmc draws 64x64).",
    )
    grayscale: bool = option(False, help="Turns colour images into one channel of brightness.")
    clip_reward: bool = option(
        False,
        help="The agent learns from the sign of each reward (the Atari convention); reported returns stay unclipped.",
    )
    rescale_actions: bool = option(
        True,
        help="Maps the agent's [-1, 1] to the bounds of continuous actions; false takes its actions as the environment's own values, clipped to the bounds.",
    )
    terminates: bool = option(
        False,
        resumable=True,
        help="The task itself can end an episode before any time limit. TD-MPC2 learns when (model.episodic follows this); if it says false, from the first such end on.",
    )
    solved_return: float | None = option(
        None,
        resumable=True,
        unit="undiscounted return",
        help="Training ends when the mean return of an evaluation reaches this; null never.",
    )
    noop_max: int = option(
        0,
        at_least=0,
        at_most=10_000,
        unit="environment frames",
        help="Atari's random start: up to so many frames of the first action after a reset; for pictures and discrete actions.",
    )
    frame_pool: int = option(
        1,
        at_least=1,
        unit="environment frames",
        help="With action_repeat, the picture is the maximum of the last so many frames (Atari's flickering sprites).",
    )
    seeds: tuple[int, ...] | None = option(
        None,
        check=_seeds,
        help="The only seeds that the environment is reset with, for one that takes no others; an empty list gives it none, so that no episode can be repeated; null: each episode has its own.",
    )
    call_timeout: float | None = option(
        None,
        above=0,
        machine=True,
        unit="seconds",
        help="How long a call into the environment may take before the run ends; null: after a minute a line says that it waits.",
    )

    def _validate(self) -> None:
        for name, wrapper in self.wrappers.items():
            if text := no_target(wrapper):
                raise self.refuse(f"wrappers.{name}", text)
        if self.wrappers and self.suite == "none":
            raise self.refuse("wrappers", "has no meaning with suite none", "leave it out")
        if self.frame_pool > self.action_repeat:
            text = f"must be <= action_repeat ({self.action_repeat}), got {self.frame_pool}"
            raise self.refuse("frame_pool", text)
        for name in SUITES[self.suite].unused:
            if getattr(self, "import_module" if name == "import" else name):
                raise self.refuse(name, f"has no meaning with suite {self.suite}", "leave it out")
        if self.tasks:
            self._check_tasks()
        if not self.id.strip():
            raise self.refuse("id", "must name an environment, for example CartPole-v1")

    def _check_tasks(self) -> None:
        name = "+".join(self.tasks)
        if "id" in self.explicit and self.id != name:
            hint = "choose env=gym or env=dmc, which name no environment of their own"
            raise self.refuse("id", f"is {self.id} and tasks are given too", hint)
        if len(self.tasks) < 2 or len(set(self.tasks)) < len(self.tasks):
            text = f"must be two or more different ids, got {list(self.tasks)}"
            raise self.refuse("tasks", text)
        if self.obs != "state":
            raise self.refuse("obs", "must be state with tasks: their observations are vectors")
        self.id = name
