"""The processes that train one model together, and what they exchange.

Gradients are averaged and statistics are taken over the rows of all of them, so that an update of
several processes is the update of one process on the joined batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import Store

T = TypeVar("T")
# Tensors: how long one process may be behind the others inside an update (compiling included).
UPDATE_TIMEOUT = timedelta(minutes=30)
# Everything else: one process may evaluate, fill its replay or write a checkpoint meanwhile.
CONTROL_TIMEOUT = timedelta(days=30)


class RankLost(RuntimeError):
    """Another process of the run ended, or cannot be reached any more. No error of the user's or of
    this process: whoever started the processes reports why."""


class Ranks:
    """One process among `size`, number `rank` from 0; alone (size 1) every call is free.

    All calls but `leave` are collective: every process makes them, in the same order. They raise
    RankLost when one of the others is gone.
    """

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and evaluates."""
        return self.rank == 0

    def mean_gradients_(self, parameters: Iterable[Tensor]) -> None:
        """Replaces the gradients by their means over the processes, as one flat bucket."""

    def gather(self, x: Tensor) -> Tensor:
        """The rows `[N, ...]` of every process, `[size * N, ...]`, by rank."""
        return x

    def broadcast(self, x: Tensor) -> Tensor:
        """The first process's x, of the same shape everywhere."""
        return x

    def numbers(self, values: Sequence[int]) -> list[tuple[int, ...]]:
        """The whole numbers of every process, by rank."""
        return [tuple(values)]

    def gather_objects(self, value: T) -> list[T]:
        """A picklable value of every process, by rank, in the first; empty in the others."""
        return [value]

    def share_object(self, value: Any) -> Any:
        """The first process's picklable value."""
        return value

    def leave(self) -> None:
        """Ends the connection; the others' next call raises RankLost."""


ALONE = Ranks()


class ProcessGroup(Ranks):
    """Ranks of torch.distributed: nccl for tensors of CUDA devices, gloo for everything else.

    store, rank, size: as `torch.distributed.init_process_group` takes them; None reads the
    environment that PyTorch's launcher sets.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        store: Store | None = None,
        rank: int | None = None,
        size: int | None = None,
    ) -> None:
        import torch.distributed as dist

        tensors = "nccl" if device.type == "cuda" else "gloo"
        options: dict[str, Any] = {"backend": tensors, "timeout": UPDATE_TIMEOUT}
        if store is not None:
            options |= {"store": store, "rank": rank, "world_size": size}
        if tensors == "nccl":
            options["device_id"] = device
        with _losses():
            dist.init_process_group(**options)
            self._control: dist.ProcessGroup | None = dist.new_group(
                backend="gloo", timeout=CONTROL_TIMEOUT
            )
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @torch.no_grad()
    def mean_gradients_(self, parameters: Iterable[Tensor]) -> None:
        import torch.distributed as dist

        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        with _losses():
            dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([grad.numel() for grad in grads])
        torch._foreach_copy_(
            grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)]
        )

    def gather(self, x: Tensor) -> Tensor:
        import torch.distributed as dist

        parts = [torch.empty_like(x) for _ in range(self.size)]
        with _losses():
            dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    def broadcast(self, x: Tensor) -> Tensor:
        import torch.distributed as dist

        shared = x.detach().clone(memory_format=torch.contiguous_format)
        with _losses():
            dist.broadcast(shared, src=0)
        return shared

    def numbers(self, values: Sequence[int]) -> list[tuple[int, ...]]:
        import torch.distributed as dist

        parts = [torch.zeros(len(values), dtype=torch.int64) for _ in range(self.size)]
        with _losses():
            dist.all_gather(parts, torch.tensor(values, dtype=torch.int64), group=self._control)
        return [tuple(part.tolist()) for part in parts]

    def gather_objects(self, value: T) -> list[T]:
        import torch.distributed as dist

        values: list[Any] | None = [None] * self.size if self.first else None
        with _losses():
            dist.gather_object(value, values, dst=0, group=self._control)
        return values or []

    def share_object(self, value: Any) -> Any:
        import torch.distributed as dist

        box = [value]
        with _losses():
            dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def leave(self) -> None:
        import torch.distributed as dist

        self._control = None
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _losses() -> Iterator[None]:
    """torch.distributed raises RuntimeError for every broken connection and every timeout."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        text = f"another process of the run ended or cannot be reached ({reason})"
        raise RankLost(text) from error
