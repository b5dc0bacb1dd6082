"""The schema's history; `upgrade.upgrade_database` brings a database to its end at every start.

To add a step: change `tables.py` and add `versions/NNNN_what.py`; a test compares what the steps make with the tables.
"""
