"""The two task sets of the official multi-task checkpoints, in the order of their embeddings.

Files from before November 2024 hold neither names nor action masks: both follow from these sets.
"""

from __future__ import annotations

from worldflux.config.spaces import Task

# Domain -> width of its observations and actions. DeepMind Control first, 500 agent steps an
# episode; reacher-three is the official code's own arm of three links. Meta-World: 100 steps.
_DOMAINS = {
    "walker": (24, 6),
    "cheetah": (17, 6),
    "reacher-three": (8, 3),
    "reacher": (6, 2),
    "acrobot": (6, 1),
    "pendulum": (3, 1),
    "cartpole": (5, 1),
    "cup": (8, 2),
    "finger-spin": (9, 2),
    "finger": (12, 2),
    "fish": (24, 5),
    "hopper": (15, 4),
    "mw": (39, 4),
}
_MT30 = """
walker-stand walker-walk walker-run cheetah-run reacher-easy reacher-hard acrobot-swingup
pendulum-swingup cartpole-balance cartpole-balance-sparse cartpole-swingup cartpole-swingup-sparse
cup-catch finger-spin finger-turn-easy finger-turn-hard fish-swim hopper-stand hopper-hop
walker-walk-backwards walker-run-backwards cheetah-run-backwards cheetah-run-front cheetah-run-back
cheetah-jump hopper-hop-backwards reacher-three-easy reacher-three-hard cup-spin pendulum-spin
"""
_META_WORLD = """
assembly basketball button-press-topdown button-press-topdown-wall button-press button-press-wall
coffee-button coffee-pull coffee-push dial-turn disassemble door-open door-close drawer-close
drawer-open faucet-open faucet-close hammer handle-press-side handle-press handle-pull-side
handle-pull lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place pick-place-wall
plate-slide plate-slide-side plate-slide-back plate-slide-back-side push-back push push-wall reach
reach-wall shelf-place soccer stick-push stick-pull sweep-into sweep window-open window-close
bin-picking box-close door-lock door-unlock hand-insert
"""


def official_tasks(count: int) -> tuple[Task, ...] | None:
    """The official set of so many tasks (30 or 80); None for any other number."""
    names = _MT30.split()
    if count == 80:
        names += [f"mw-{name}" for name in _META_WORLD.split()]
    return tuple(map(_task, names)) if count == len(names) else None


def _task(name: str) -> Task:
    domain = next(domain for domain in _DOMAINS if name.startswith(domain))
    obs_dim, action_dim = _DOMAINS[domain]
    return Task(name, obs_dim, action_dim, 100 if domain == "mw" else 500)
