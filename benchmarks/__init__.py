"""Measured comparisons. `python -m benchmarks` runs all of them, `python -m benchmarks fusion` one.

A benchmark is a module with `measure()`, which yields one record (a mapping) for each case it measured, and a line in
`benchmarks/__main__.py`. Each record becomes a JSON line in `results/<name>.jsonl`, together with the machine, the
versions and the commit. What is compared alternates within one run, medians are reported, and every target stands
beside the figure that has to reach it.
"""
