"""The names of the files of a run; they are spelled nowhere else."""

from __future__ import annotations

MANIFEST = "run_manifest.json"
METRICS = "metrics.jsonl"
CSV = "metrics.csv"
LOCK = "run.lock"
CHECKPOINTS, REPLAY = "checkpoints", "replay"
EPISODES = "episodes"  # with data.record=true
REPORT, VIDEOS, PICTURES = "report", "videos", "pictures"
LEARNING_CURVE = f"{REPORT}/learning_curve.png"
PREVIOUS = "previous"  # earlier runs of the folder

# Written by Hydra
HYDRA, LOG = ".hydra", "run.log"
SAVED_CONFIG = f"{HYDRA}/config.yaml"
SAVED_OVERRIDES = f"{HYDRA}/overrides.yaml"

# In CHECKPOINTS: text files that name a checkpoint; in a checkpoint: its files
LATEST, BEST = "latest", "best"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"

TENSORBOARD = "events.out.tfevents.*"
WANDB = "wandb"  # Weights & Biases' own files
OF_TRAINER = (
    MANIFEST,
    METRICS,
    CSV,
    CHECKPOINTS,
    REPLAY,
    EPISODES,
    TENSORBOARD,
    PICTURES,
    VIDEOS,
    REPORT,
    WANDB,
)
FOLDERS = frozenset({CHECKPOINTS, REPLAY, EPISODES, PREVIOUS, HYDRA, REPORT, VIDEOS, PICTURES})
