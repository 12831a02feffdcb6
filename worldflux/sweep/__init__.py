"""Sweeps: many runs from one command, each in a folder that its overrides determine."""
