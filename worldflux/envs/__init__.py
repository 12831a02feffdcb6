"""Environments: from an EnvConfig to vector environments that yield the step dict."""
