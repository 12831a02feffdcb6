"""Recorded data for the Python API; the buffers are worldflux/data/buffer.py's."""

from worldflux.data.buffer import ReplayBuffer, TrajectoryDataset, create_random_buffer

__all__ = ["ReplayBuffer", "TrajectoryDataset", "create_random_buffer"]
