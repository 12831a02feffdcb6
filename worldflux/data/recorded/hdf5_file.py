"""Writes the plain layout as HDF5: contiguous arrays, which reading maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from worldflux.config.spaces import Space
from worldflux.data.recorded.hdf5 import library
from worldflux.data.recorded.layout import SPACES, described
from worldflux.data.recorded.parts import Steps
from worldflux.data.recorded.writing import pieces, spooled
from worldflux.run_folder.disk import replaced


def write(
    out: Path,
    episodes: Iterable[Steps],
    obs_spaces: Mapping[str, Space],
    action_spaces: Mapping[str, Space],
) -> None:
    h5py = library()
    with spooled(out, episodes, obs_spaces, action_spaces) as columns, replaced(out) as draft:
        with h5py.File(draft, "w") as file:
            file.attrs[SPACES] = described(obs_spaces, action_spaces)
            for key, array in columns.items():
                made, row = file.create_dataset(key, array.shape, array.dtype), 0
                for piece in pieces(array):
                    made[row : row + len(piece)] = piece
                    row += len(piece)
