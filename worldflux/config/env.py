"""Schema of the `env` group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldflux.config.base import CheckedConfig
from worldflux.config.options import USER, option, plain_text, plain_texts


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

    suite: str = option("gym", choices=tuple(SUITES))
    id: str = option("CartPole-v1", follows=USER, check=plain_text)
    tasks: tuple[str, ...] = option((), check=plain_texts)
    import_module: str | None = option(None, check=plain_text)
    kwargs: dict[str, Any] = option(factory=dict)
    obs: str = option("state", choices=("state", "pixels"))
    flatten: bool = False
    frame_stack: int = option(1, at_least=1, at_most=1_000)
    action_repeat: int = option(1, at_least=1, at_most=10_000)
    time_limit: int | None = option(None, at_least=1)
    image_size: tuple[int, int] | None = option(None, at_least=1, at_most=8_192)
    grayscale: bool = False
    clip_reward: bool = False
    rescale_actions: bool = True
    terminates: bool = False
    solved_return: float | None = option(None, resumable=True)
    noop_max: int = option(0, at_least=0, at_most=10_000)
    frame_pool: int = option(1, at_least=1)

    def _validate(self) -> None:
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
