"""Files that several processes write."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from worldflux.run_folder.disk import write_atomic


def test_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    contents = [f"{number}\n" * 2000 for number in range(8)]

    def write_often(content: str) -> None:
        for _ in range(40):
            write_atomic(path, content)
            assert path.read_text() in contents

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write_often, contents))
    assert path.read_text() in contents
    assert [file.name for file in tmp_path.iterdir()] == ["trials.csv"]
