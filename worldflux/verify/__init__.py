"""What can be checked of a finished run."""
