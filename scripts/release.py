"""Builds a release and tries it.

    pip install -c constraints.txt -e '.[release]'
    python scripts/release.py                        # dist/: sdist and wheel, checked and tried
    python scripts/release.py --resolution lowest    # tried with the lowest versions that pyproject allows
    python scripts/release.py --keep torch==2.13.0   # with this version of a package whatever is resolved

The sdist and the wheel are built, the wheel once more from the sdist, which must give the same bytes;
twine checks both. Then the wheel is installed in a bare virtual environment, where both families train,
are resumed and played. Nothing is uploaded. The version is that of worldflux/__init__.py.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A training of seconds.
SHORT = """model/size=ci training.total_steps=2 training.batch_size=2 training.sequence_length=8
    training.eval_episodes=1 training.device=cpu data.prefill_steps=40""".split()
FAMILIES = ("dreamerv3", "tdmpc2")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What a command prints; SystemExit with all of it where the command fails."""
    print("+", *command, flush=True)
    foreign = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if name not in foreign}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=env, text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}release: {command[0]} failed")
    return done.stdout


def version() -> str:
    """The version, from the one place where it stands."""
    text = (ROOT / "worldflux" / "__init__.py").read_text(encoding="utf-8")
    (number,) = re.findall(r'^__version__ = "(.+)"$', text, re.M)
    return number


def build(out: Path) -> tuple[Path, Path]:
    """Sdist and wheel in `out`, the wheel built from the tree and from the sdist with the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"worldflux-{version()}*"):
        old.unlink()
    module = (sys.executable, "-m", "build")
    run(*module, "--sdist", "--wheel", "--outdir", out, ROOT)
    (sdist,), (wheel,) = out.glob(f"*-{version()}.tar.gz"), out.glob(f"*-{version()}-*.whl")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        run(*module, "--wheel", "--outdir", Path(folder) / "again", *Path(folder).iterdir())
        (again,) = (Path(folder) / "again").iterdir()
        if digest(again) != digest(wheel):
            raise SystemExit("release: the wheel that the sdist builds differs from the tree's")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    return sdist, wheel


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lowest(folder: Path, keep: list[str]) -> Path:
    """A file of constraints: the lowest version that pyproject allows of each direct dependency."""
    kept, pins = folder / "keep.txt", folder / "lowest.txt"
    kept.write_text("\n".join(keep))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    compiled = f"uv pip compile pyproject.toml --resolution lowest-direct --python-version {python}"
    options = ("--override", kept, "--no-annotate", "-o", pins)
    run(sys.executable, "-m", *compiled.split(), *options)
    return pins


def try_wheel(wheel: Path, folder: Path, words: list[str]) -> None:
    """Installs the wheel in a bare environment and trains, resumes and plays each family."""
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / "bin"
    run(programs / "python", "-m", "pip", "install", "-q", wheel, *words)
    print(run(programs / "python", "-m", "pip", "list", "--format=freeze"))
    printed = run(programs / "worldflux", "--version", cwd=folder)
    if version() not in printed:
        raise SystemExit(f"release: worldflux --version prints {printed!r}")
    for family in FAMILIES:
        train = programs / "worldflux-run"
        run(train, f"model={family}", *SHORT, f"hydra.run.dir={family}", cwd=folder)
        run(train, f"resume={family}", "training.total_steps=3", cwd=folder)
        run(programs / "worldflux", "eval", family, "--episodes", "1", cwd=folder)
        run(programs / "worldflux", "report", family, cwd=folder)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--resolution", choices=("newest", "lowest"), default="newest")
    options.add_argument("--keep", action="append", default=[], metavar="NAME==VERSION")
    options.add_argument("--out", type=Path, default=ROOT / "dist")
    words = options.parse_args()
    sdist, wheel = build(words.out.resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pins = ["-c", str(lowest(folder, words.keep))] if words.resolution == "lowest" else []
        try_wheel(wheel, folder, [*words.keep, *pins])
    if f"## [{version()}]" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        print(f"release: CHANGELOG.md has no section [{version()}] yet")
    for path in (sdist, wheel):
        print(f"{digest(path)}  {path}")


if __name__ == "__main__":
    main()
