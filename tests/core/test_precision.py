"""Settings of a process that trains on CUDA, which need no GPU to be looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from worldflux.core.precision import tune_cuda


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    cudnn.benchmark, cudnn.allow_tf32 = before[:2]
    torch.set_float32_matmul_precision(before[2])


def settings() -> tuple[bool, bool, str]:
    cudnn = torch.backends.cudnn
    return cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision()


def test_float32_stays_float32_and_mixed_precision_may_use_tf32() -> None:
    tune_cuda(torch.device("cuda"), mixed_precision=False)
    assert settings() == (True, False, "highest")
    tune_cuda(torch.device("cuda:1"), mixed_precision=True)
    assert settings() == (True, True, "high")


def test_nothing_changes_on_the_cpu() -> None:
    before = settings()
    tune_cuda(torch.device("cpu"), mixed_precision=True)
    assert settings() == before
