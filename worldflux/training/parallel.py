"""Training by several processes: what each holds, what they agree on, what is saved of each."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldflux.core.ranks import Ranks
from worldflux.data.collect import Episode
from worldflux.run_folder.checkpoint import Checkpoint
from worldflux.training.seed import RANK, derive_seed


def rank_seed(seed: int, rank: int) -> int:
    """The seed of what a process draws for itself: environments, replay, exploration, noise."""
    return seed if rank == 0 else derive_seed(seed, RANK, rank)


def replay_name(name: str, ranks: Ranks) -> Path:
    """Where in a run folder a process keeps its replay: one folder each if there are several."""
    return Path(name) if ranks.size == 1 else Path(name) / f"rank_{ranks.rank}"


def share_model(ranks: Ranks, model: nn.Module) -> None:
    """Gives every process the first one's weights and normalisers."""
    if ranks.size > 1:
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.copy_(ranks.broadcast(tensor))


# While training


def agree(
    ranks: Ranks, received: signal.Signals | None, done: bool
) -> tuple[signal.Signals | None, bool]:
    """The stop signal that any process received, and whether any is done."""
    answers = ranks.numbers([received or 0, done])
    number = max(number for number, _ in answers)
    return (signal.Signals(number) if number else None), any(end for _, end in answers)


def decide(ranks: Ranks, decision: bool) -> bool:
    """The first process's decision."""
    return bool(ranks.numbers([decision])[0][0])


def join_episodes(
    ranks: Ranks, episodes: Sequence[Episode], env_steps: int
) -> tuple[list[Episode], int]:
    """The episodes that ended in any process, in order, and the environment steps of all.

    An episode's env_steps becomes the count of all: the processes step at the same pace.
    """
    if ranks.size == 1:
        return list(episodes), env_steps
    counts = ranks.numbers([env_steps, len(episodes)])
    total = sum(steps for steps, _ in counts)
    if not any(number for _, number in counts):
        return [], total
    every = ranks.share_object(ranks.gather_objects(list(episodes)))
    joined = [
        replace(episode, env_steps=min(total, episode.env_steps * ranks.size))
        for part in every
        for episode in part
    ]
    return sorted(joined, key=lambda episode: episode.env_steps), total


def join_metrics(ranks: Ranks, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over the processes; `*_min` and `*_max` are the least and the greatest."""
    if ranks.size == 1 or not metrics:
        return metrics
    values = torch.stack([value.detach().float().reshape(()) for value in metrics.values()])
    every = ranks.gather(values[None])  # [R, M]
    ways = {"_min": every.amin(0), "_max": every.amax(0)}
    mean = every.mean(0)
    return {name: ways.get(name[-4:], mean)[i] for i, name in enumerate(metrics)}


# What a checkpoint holds of each


def gather_states(ranks: Ranks, state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """In the first process the states of the others, by rank from 1; empty in the others."""
    return ranks.gather_objects(_on_cpu(state))[1:]


def part_of_rank(state: Mapping[str, Any], ranks: Ranks) -> Mapping[str, Any]:
    """What a checkpoint's state holds of one of the processes: its ``source`` and ``rng``."""
    return state if ranks.first else state["ranks"][ranks.rank - 1]


def of_rank(checkpoint: Checkpoint, ranks: Ranks) -> Checkpoint:
    """A checkpoint as one of the processes continues from it."""
    if ranks.first:
        return checkpoint
    part = part_of_rank(checkpoint.state, ranks)
    optimizer = {**checkpoint.agent["optimizer"], **part["agent"]}
    streams = {key: part[key] for key in ("source", "rng", "carry") if key in part}
    return Checkpoint({**checkpoint.agent, "optimizer": optimizer}, {**checkpoint.state, **streams})


def _on_cpu(tree: Any) -> Any:
    """A tree of dicts and lists with its tensors on the CPU, to be sent to another process."""
    if isinstance(tree, Mapping):
        return {key: _on_cpu(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_on_cpu(value) for value in tree]
    return tree.detach().cpu() if isinstance(tree, Tensor) else tree
