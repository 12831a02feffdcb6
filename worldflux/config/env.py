"""Schema of the `env` group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from worldflux.config.base import CheckedConfig


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


@dataclass
class EnvConfig(CheckedConfig):
    """Which environment, and how its observations and actions are prepared.

    suite: who makes it, `gym` or `dmc` (the DeepMind Control Suite); `none`:
        there is no environment.
    id: any Gymnasium id, or domain-task of the suite (walker-walk).
    tasks: ids of several tasks that one agent learns together, instead of id. Their vectors are
        padded to the widest, and the observation key `task` says which task a step belongs to.
    import_module: a Python module to import first, so that it can register its environments;
        written `import` in YAML and on the command line.
    kwargs: passed to `gymnasium.make`, or for dmc to `DeepMindControl` (worldflux/envs/dmc.py).
    obs: `state` takes the observation as it is, `pixels` render() frames instead of it.
    flatten: the vectors of a state observation are joined, in the environment's own order.
    frame_stack: a picture is the newest so many, one after another along the channels; the first
        one of an episode is repeated. Vectors stay as they are.
    action_repeat: environment frames per agent step.
    time_limit: agent steps after which an episode is truncated; None leaves it to the environment.
    image_size: images are resized to this height and width; None leaves them.
    clip_reward: the agent learns from the sign of each step's reward (the Atari convention);
        returns are told unclipped.
    noop_max: Atari's random start, up to so many frames of action 0 after a reset.
    frame_pool: with action_repeat, the observation is the maximum of the last so many frames.
    rescale_actions: the agent's [-1, 1] is mapped to the bounds of continuous actions.
    terminates: the task itself can end an episode, before any time limit. TD-MPC2 learns when
        (model.episodic follows this), and refuses episodes that end although it says false.
    solved_return: training ends when the mean return of an evaluation reaches this; None never.
    """

    suite: str = "gym"
    id: str = "CartPole-v1"
    tasks: tuple[str, ...] = ()
    import_module: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    obs: str = "state"
    flatten: bool = False
    frame_stack: int = 1
    action_repeat: int = 1
    time_limit: int | None = None
    image_size: tuple[int, int] | None = None
    grayscale: bool = False
    clip_reward: bool = False
    rescale_actions: bool = True
    terminates: bool = False
    solved_return: float | None = None
    noop_max: int = 0
    frame_pool: int = 1

    def _validate(self) -> None:
        self._one_of("suite", tuple(SUITES))
        self._one_of("obs", ("state", "pixels"))
        self._at_least(1, "action_repeat", "frame_pool", "frame_stack")
        self._at_least(0, "noop_max")
        if self.frame_pool > self.action_repeat:
            raise self.refuse(
                f"frame_pool must be <= action_repeat ({self.action_repeat}), got {self.frame_pool}"
            )
        if self.time_limit is not None:
            self._at_least(1, "time_limit")
        if self.image_size is not None and min(self.image_size) < 1:
            raise self.refuse(
                f"image_size must be two whole numbers above 0, got {self.image_size}"
            )
        for name in SUITES[self.suite].unused:
            if getattr(self, "import_module" if name == "import" else name):
                raise self.refuse(f"{name} has no meaning with suite {self.suite}; leave it out")
        if self.tasks:
            self._check_tasks()
        if not self.id.strip():
            raise self.refuse("id must name an environment, for example CartPole-v1")

    def _check_tasks(self) -> None:
        name = "+".join(self.tasks)
        if "id" in self._given and self.id != name:
            text = f"id is {self.id} and tasks are given too; choose env=gym or env=dmc"
            raise self.refuse(f"{text}, which name no environment of their own")
        if len(self.tasks) < 2 or len(set(self.tasks)) < len(self.tasks):
            raise self.refuse(f"tasks must be two or more different ids, got {list(self.tasks)}")
        if self.obs != "state":
            raise self.refuse("obs must be state with tasks: their observations are vectors")
        self.id = name
