"""Answering an invitation through the site's agent, which reads the images first and tells the coordinator itself."""

from collections.abc import Callable
from typing import Literal

from hsl_cli.errors import RefusedError
from hsl_cli.live import wait
from hsl_cli.output import warn
from hsl_cli.paths import site_run_path
from hsl_cli.service import Service
from hsl_model.protocol.clock import Clock, SystemClock
from node_agent.status import RunSummary

PATIENCE_S = 900.0  # tens of thousands of images are read and checked in less; a hanging agent must not hold us up
WAIT_S = 20  # for one request; the agent answers earlier when it is done


def prepared(agent: Service, run_id: str, clock: Clock | None = None) -> RunSummary:
    """The run's summary, with the counts of this site's images or the reason why there are none."""
    return _until(
        lambda: agent.get(site_run_path(run_id), RunSummary),
        lambda summary: summary.counts is not None or summary.problem is not None,
        clock or SystemClock(),
    )


def answer(agent: Service, run_id: str, word: Literal["accept", "withdraw"], clock: Clock | None = None) -> RunSummary:
    """Give the answer and wait until the coordinator has heard it. `RefusedError` says what stands in the way."""
    summary = _until(
        lambda: agent.post(f"{site_run_path(run_id)}/{word}", RunSummary, wait_s=WAIT_S),
        lambda summary: summary.told or summary.problem is not None,
        clock or SystemClock(),
    )
    if summary.problem is not None:
        raise RefusedError(reason=summary.explanation)
    return summary


def _until(ask: Callable[[], RunSummary], done: Callable[[RunSummary], bool], clock: Clock) -> RunSummary:
    deadline = clock.monotonic() + PATIENCE_S
    summary = ask()
    if not done(summary):
        warn(summary.explanation)
    while not done(summary):
        if clock.monotonic() > deadline:
            raise RefusedError(reason=f"Still waiting after {PATIENCE_S / 60:.0f} minutes: {summary.explanation}")
        wait(clock, 1.0)
        summary = ask()
    return summary
