"""What a suite tried, told in one line at the end of the tests, and kept with `--record`.

A test counts with a fixture of its suite's; the counts travel with its report, so that they also arrive from another
worker, and only those of tests that passed are told.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.record import append

COUNTED = "counted"


def counter_of(request: pytest.FixtureRequest, suite: str) -> Iterator[Counter[str]]:
    """For a fixture of the suite: `yield from counter_of(request, "wire faults")`."""
    counter: Counter[str] = Counter()
    yield counter
    request.node.user_properties.append((COUNTED, [suite, dict(counter)]))


def tell(reporter: Any, *, record: bool) -> None:
    """At the end of a session. `reporter` is pytest's terminal reporter."""
    passed = {report.nodeid for report in reporter.stats.get("passed", [])}
    suites: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    for report in (one for reports in reporter.stats.values() for one in reports):
        if getattr(report, "when", None) != "teardown" or report.nodeid not in passed:
            continue
        for suite, counts in (found for name, found in report.user_properties if name == COUNTED):
            suites.setdefault(suite, Counter()).update(counts)
            seconds[suite] += sum(one.duration for one in reporter.stats["passed"] if one.nodeid == report.nodeid)
    for suite, counter in suites.items():
        counts = dict(sorted(counter.items()))
        reporter.write_line(f"{suite}: {counter.total()} passed: {json.dumps(counts)}")
        if record:
            took = {"wall_s": round(seconds[suite], 1)}
            append("reliability", {"suite": suite, "total": counter.total(), "counts": counts, **took})
