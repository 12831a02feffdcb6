"""Hyperparameter search: spaces, studies that several processes share, and trials."""
