"""The agent of one hospital: `daemon.py` holds the loop, `phases/` one function per phase, `reconcile.py` the rules."""
