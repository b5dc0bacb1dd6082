"""Runs: what is being learned, who is a member, and when it starts, pauses, goes on and ends."""
