"""Recorded episodes on disk: a module for each format, all of them read as rows of the step dict."""
