"""What a multi-task TD-MPC2 knows of its tasks: an embedding, action masks, discounts.

Letters: T tasks, D width of the embedding, A action, `...` any leading dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

INIT_RANGE = 0.02
NORM_EPS = 1e-7  # of PyTorch's embedding_renorm_


@dataclass
class TaskTerms:
    """What tasks decide beside the latent.

    mask `[..., A]`: 1 for the action dimensions that the task has, 0 for the others. discount
    `[...]`: that of the task's episode length.
    """

    mask: Tensor
    discount: Tensor


class TaskEmbedding(nn.Module):
    """A learned vector for every task `[T, D]`, of norm at most 1."""

    def __init__(self, tasks: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tasks, dim).uniform_(-INIT_RANGE, INIT_RANGE))

    def forward(self, task: Tensor) -> Tensor:
        """Embeddings `[..., D]` of task numbers `[...]`."""
        rows = self.weight[task.long()]  # [..., D]
        return rows * _factor(rows.detach())  # [..., D] * [..., 1]

    @torch.no_grad()
    def project_(self, task: Tensor) -> None:
        """Shortens the stored vectors of these tasks to norm 1, where they are longer.

        The official code does this at each look-up, so that gradients are those of the shortened
        vectors; training calls it before them, and acting leaves the weights alone.
        """
        used = task.long().unique()  # [M], M of the T tasks
        rows = self.weight[used]  # [M, D]
        self.weight[used] = rows * _factor(rows)


def _factor(rows: Tensor) -> Tensor:
    norm = rows.norm(dim=-1, keepdim=True)  # [..., 1]
    return torch.where(norm > 1, 1 / (norm + NORM_EPS), torch.ones_like(norm))


def action_masks(dims: tuple[int, ...], width: int) -> Tensor:
    """Masks `[T, A]`: a task has the first so many action dimensions."""
    return (torch.arange(width) < torch.tensor(dims)[:, None]).float()  # [A] < [T, 1] -> [T, A]
