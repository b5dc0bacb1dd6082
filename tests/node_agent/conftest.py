import logging

import pytest
import structlog


@pytest.fixture(autouse=True)
def quiet_log() -> None:
    """The agent's log would be formatted for a terminal, tracebacks in colour: slow, and nobody reads it here."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=structlog.ReturnLoggerFactory(),
    )
