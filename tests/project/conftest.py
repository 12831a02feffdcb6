"""Sample files that lie beside the project, not in it."""

from __future__ import annotations

from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[2].parent / "shared" / "toml"


@pytest.fixture(scope="session")
def samples() -> Path:
    if not SAMPLES.is_dir():
        pytest.skip(f"the sample files are not there: {SAMPLES}")
    return SAMPLES
