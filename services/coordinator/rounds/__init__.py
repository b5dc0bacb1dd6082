"""Rounds: how members train, announce, fuse the same plan and agree on the result. `tick.py` has the loop."""
