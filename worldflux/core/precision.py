"""Mixed precision: autocast, and loss scaling where float16 needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from worldflux.config.training import TrainingConfig
from worldflux.errors import ConfigurationError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def computing_in(dtype: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context in which matrix products compute in ``float16`` or ``bfloat16``; for
    ``float32`` the one that changes nothing."""
    if dtype not in DTYPES:
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[dtype])


def tune_cuda(device: torch.device, mixed_precision: bool) -> None:
    """Settings of this process for training on CUDA: cuDNN tries its algorithms out, and what mixed
    precision leaves in float32 may use TF32, whose products keep 10 bits. Elsewhere nothing."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = mixed_precision
        torch.set_float32_matmul_precision("high" if mixed_precision else "highest")


def convolves_in_half(x: Tensor) -> bool:
    """Whether a convolution of x computes in 16 bits here, by its own type or by autocast."""
    return x.dtype in DTYPES.values() or torch.is_autocast_enabled(x.device.type)


def recurrence_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context in which a recurrence over few rows computes: on the CPU never in 16 bits, whose
    casts at each step take longer there than the products that they speed up."""
    if device.type == "cpu":
        return torch.autocast("cpu", enabled=False)
    return contextlib.nullcontext()


@dataclass
class Precision:
    """How a forward and backward pass computes. Parameters stay in float32.

    dtype None computes in the parameters' own type. float16 scales the loss and needs CUDA;
    bfloat16 works on CUDA and CPU without scaling.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    scaler: torch.amp.GradScaler | None = None

    @staticmethod
    def of(training: TrainingConfig, device: torch.device) -> Precision:
        """The precision that a TrainingConfig names, on a device."""
        if not training.mixed_precision:
            return Precision(device)
        dtype = DTYPES[training.mixed_precision_dtype]
        if dtype is torch.bfloat16:
            return Precision(device, dtype)
        if device.type != "cuda":
            raise ConfigurationError(
                "training.mixed_precision_dtype=float16 needs a CUDA device, got"
                f" {device.type!r}; use training.mixed_precision_dtype=bfloat16"
            )
        return Precision(device, dtype, torch.amp.GradScaler("cuda"))

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context in which the forward pass runs."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def backward(self, loss: Tensor) -> None:
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        if self.scaler:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Steps the optimizer; with loss scaling, skips it when a gradient overflowed."""
        if self.scaler:
            self.scaler.step(optimizer)
            self.scaler.update()
        else:
            optimizer.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Loss scale and growth counter as a flat tensor, for the checkpoint."""
        if not self.scaler:
            return {}
        state = self.scaler.state_dict()
        return {"scaler": torch.tensor([state["scale"], state["_growth_tracker"]])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self.scaler and "scaler" in state:
            scale, tracker = state["scaler"].tolist()
            full = self.scaler.state_dict() | {"scale": scale, "_growth_tracker": int(tracker)}
            self.scaler.load_state_dict(full)
