"""The same as `worldflux train`, for a debugger or a job script: python train.py [flags]."""

import sys
from pathlib import Path

from worldflux.cli.train import main

if __name__ == "__main__":
    here = Path(__file__).with_name("worldflux.toml")
    sys.exit(main(["--config", str(here), *sys.argv[1:]]))
