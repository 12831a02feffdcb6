"""Data: collection, sequence replay, recorded episodes, and the sources the trainer sees."""
