"""The global random streams: same seed same numbers, exact restore, isolation."""

import random

import numpy as np
import torch

from worldflux import set_seed
from worldflux.run_folder.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from worldflux.training.seed import derive_seed, isolated_rng, rng_state, set_rng_state


def draw() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        float(torch.rand(())),
        float(torch.randn(17).sum()),
    ]


def test_the_same_seed_gives_the_same_numbers_in_all_three_libraries():
    set_seed(7)
    first = draw()
    set_seed(7)
    assert draw() == first
    set_seed(8)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_streams_continue_exactly_from_a_checkpoint_on_disk(tmp_path):
    set_seed(3)
    draw()  # leaves half of a Gaussian pair cached in Python's and NumPy's generators
    folder = tmp_path / "step_1"
    write_checkpoint(folder, Checkpoint({"model": {}}, {"rng": rng_state()}))
    expected = [draw() for _ in range(3)]
    set_seed(99)
    set_rng_state(read_checkpoint(folder).state["rng"])
    assert [draw() for _ in range(3)] == expected


def test_isolated_streams_leave_the_run_as_it_was():
    generator = torch.Generator().manual_seed(5)
    set_seed(1)
    expected = [*draw(), float(torch.rand((), generator=generator))]
    generator.manual_seed(5)
    set_seed(1)
    with isolated_rng(1234, generator):
        inside = [*draw(), float(torch.rand((), generator=generator))]
    assert [*draw(), float(torch.rand((), generator=generator))] == expected
    assert inside != expected
    with isolated_rng(1234, generator):
        assert [*draw(), float(torch.rand((), generator=generator))] == inside


def test_derived_seeds_differ_by_path_and_fit_every_library():
    seeds = {derive_seed(s, part, step) for s in range(5) for part in range(3) for step in range(9)}
    assert len(seeds) == 5 * 3 * 9
    assert all(0 <= seed < 2**31 for seed in seeds)
