"""What a device computed, on its way to the host."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """A copy of a tensor for the host. From CUDA it goes into pinned memory beside what the device
    computes next, and only `read` waits for it; on the CPU it is the tensor itself."""

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor.detach().to("cpu", non_blocking=True)  # pinned, where it is a copy
        self._copied: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> Tensor:
        """The copy, once it is there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host
