"""Training by several processes: what each holds, what they agree on, what is saved of each."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldflux.core.ranks import Ranks
from worldflux.data.collect import Episode
from worldflux.errors import CheckpointError, WorldFluxError
from worldflux.run_folder.checkpoint import Checkpoint, read_checkpoint
from worldflux.training.seed import derive_seed

RANK = 2  # path of derived seeds, beside those of worldflux/training/trainer.py

Load = Callable[[Path, Checkpoint], None]


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
    words = ranks.numbers([received or 0, done])
    number = max(number for number, _ in words)
    return (signal.Signals(number) if number else None), any(end for _, end in words)


def decide(ranks: Ranks, wanted: bool) -> bool:
    """The first process's decision."""
    return bool(ranks.numbers([wanted])[0][0])


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
        for own in every
        for episode in own
    ]
    return sorted(joined, key=lambda episode: episode.env_steps), total


def join_metrics(ranks: Ranks, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over the processes; `*_min` and `*_max` are the least and the greatest."""
    if ranks.size == 1 or not metrics:
        return metrics
    own = torch.stack([value.detach().float().reshape(()) for value in metrics.values()])
    every = ranks.gather(own[None])  # [R, M]
    ways = {"_min": every.amin(0), "_max": every.amax(0)}
    mean = every.mean(0)
    return {name: ways.get(name[-4:], mean)[i] for i, name in enumerate(metrics)}


# What a checkpoint holds of each


def gather_states(ranks: Ranks, own: Mapping[str, Any]) -> list[dict[str, Any]]:
    """In the first process what the others give, by rank from 1; empty in the others."""
    return ranks.gather_objects(_on_cpu(own))[1:]


def of_rank(checkpoint: Checkpoint, ranks: Ranks) -> Checkpoint:
    """A checkpoint as one of the processes continues from it."""
    others = checkpoint.state.get("ranks", [])
    if ranks.first:
        return checkpoint
    mine = others[ranks.rank - 1]
    optimizer = {**checkpoint.agent["optimizer"], **mine["agent"]}
    own = {key: mine[key] for key in ("source", "rng", "carry") if key in mine}
    return Checkpoint({**checkpoint.agent, "optimizer": optimizer}, {**checkpoint.state, **own})


def size_of(manifest: Mapping[str, Any]) -> int:
    """How many processes train the run."""
    return int(manifest["training_config"].get("nproc", 1))


def check_size(trained_by: int, size: int, run: Path) -> None:
    """CheckpointError unless as many processes continue a run as trained it before."""
    if trained_by != size:
        raise CheckpointError(
            f"{run} was trained by {trained_by} process{'es' * (trained_by > 1)} and continues with"
            f" as many: training.nproc must be {trained_by}, got {size}"
        )


class Restoring:
    """Finds a checkpoint that every process can load.

    The first one proposes them (`accept`) and tells the end (`settle`, `give_up`); the others
    `follow`. load: restores a process's own source from a checkpoint folder.
    """

    def __init__(self, ranks: Ranks, load: Load) -> None:
        self.ranks = ranks
        self.load = load

    def accept(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Loads the checkpoint everywhere; raises what any process objects to."""
        self.ranks.share_object(("try", folder.resolve()))
        errors = self.ranks.gather_objects(_objection(self.load, folder, checkpoint))
        for error in errors:
            if error is not None:
                raise error

    def settle(self) -> None:
        self.ranks.share_object(("go", None))

    def give_up(self, error: WorldFluxError) -> None:
        self.ranks.share_object(("stop", error))

    def follow(self) -> tuple[Path, Checkpoint]:
        """The checkpoint folder that was agreed on, and its content."""
        found: tuple[Path, Checkpoint] | None = None
        while True:
            word, value = self.ranks.share_object(None)
            if word == "stop":
                raise value
            if word == "go":
                assert found is not None
                return found
            error: WorldFluxError | None = None
            try:
                found = value, read_checkpoint(value)
                self.load(*found)
            except WorldFluxError as caught:
                error = caught
            self.ranks.gather_objects(error)


def _objection(load: Load, folder: Path, checkpoint: Checkpoint) -> WorldFluxError | None:
    try:
        load(folder, checkpoint)
    except WorldFluxError as error:
        return error
    return None


def _on_cpu(tree: Any) -> Any:
    """A tree of dicts and lists with its tensors on the CPU, to be sent to another process."""
    if isinstance(tree, Mapping):
        return {key: _on_cpu(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_on_cpu(value) for value in tree]
    return tree.detach().cpu() if isinstance(tree, Tensor) else tree
