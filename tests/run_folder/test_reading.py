"""A finished run is read without torch."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.training.test_trainer import make
from tests.training.tiny import TinySource
from worldflux.config.files import check_stored, read_arrays

READ = """
import sys
from pathlib import Path
from worldflux.run_folder.checkpoints import checkpoint_at, checkpoint_named, has_checkpoint
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.run_folder.state import run_state

run = Path(sys.argv[1])
assert run_state(run) == "completed" and read_manifest(run)["global_step"] == 40
assert read_metrics(run)[-1]["step"] == 40 and has_checkpoint(run)
best = checkpoint_at(run)
assert best == checkpoint_named(run, "best") == checkpoint_at(run / "checkpoints" / "best")
assert checkpoint_named(run, "latest").name == "step_000000040"
"""
LOADED = "assert not sys.modules.keys() & {'torch', 'gymnasium'}, 'torch was loaded'"


def python(code: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_a_run_holds_is_read_without_torch(tmp_path: Path) -> None:
    make(tmp_path).train(TinySource())
    python(READ + LOADED, str(tmp_path))


@pytest.mark.parametrize("name", ["names", "disk"])
def test_the_other_modules_load_no_torch_either(name: str) -> None:
    python(f"import sys, worldflux.run_folder.{name}\n{LOADED}")


def test_neither_does_the_report_of_a_run() -> None:
    python(f"import sys, worldflux.cli.report\n{LOADED}")


def test_arrays_that_are_not_of_their_size(tmp_path: Path) -> None:
    """Memory is taken only for arrays that are there, and no more than may be."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    )
    with zipfile.ZipFile(tmp_path / "lies.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue() + b"x" * 80)
    with pytest.raises(ValueError, match="no array of its size"):
        read_arrays(tmp_path / "lies.npz")
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(1000), b=np.arange(3))
    with pytest.raises(ValueError, match="need 8,024 bytes"):
        read_arrays(tmp_path / "zeros.npz", 8000)
    assert read_arrays(tmp_path / "zeros.npz")["b"].tolist() == [0, 1, 2]


def test_a_compressed_file_of_weights_is_none(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**6))
    with pytest.raises(ValueError, match="larger than the file"):
        check_stored(tmp_path / "bomb.pt")


def test_an_archive_that_cannot_be_opened_is_damaged(tmp_path: Path) -> None:
    """Whatever the modules of archives raise."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(1000))
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")
    damages = {
        "no zip": b"PK" + bytes(40),
        "encrypted": whole[: entry + 8] + b"\x01" + whole[entry + 9 :],
        "unknown compression": whole[: entry + 10] + b"\x63" + whole[entry + 11 :],
        "bits": whole[:60] + bytes(40) + whole[100:],
    }
    for content in damages.values():
        path.write_bytes(content)
        with pytest.raises(ValueError):
            read_arrays(path)
