"""Plays episodes with the checkpoint of [inference] and pictures what the model imagines of them:

    python inference.py [--episodes N] [--horizon N] [--out DIR]

Writes report/imagination.png into the run folder: reality, and from every [inference] horizon-th
step what the model imagines under the same actions. Observations that are pictures give a video
too, reality above imagination.
"""

import sys
from pathlib import Path

from worldflux.cli.imagine import main

if __name__ == "__main__":
    here = Path(__file__).with_name("worldflux.toml")
    sys.exit(main(["--config", str(here), *sys.argv[1:]]))
