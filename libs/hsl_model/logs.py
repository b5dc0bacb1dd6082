"""Structured logs of coordinator and hubs, one JSON object a line on stderr, also for the libraries.

Never a token, code or key.
"""

import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SECRET_WORDS = ("token", "authorization", "password", "secret", "enrolment_code")


def configure_logs(level: str, chatty: tuple[str, ...]) -> None:
    """Once a process, by its `serve`. `chatty`: libraries with a line for everything, of which warnings are enough."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hide_secrets,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in chatty:
        logging.getLogger(name).setLevel(logging.WARNING)


def _hide_secrets(logger: WrappedLogger, method: str, entry: EventDict) -> EventDict:
    """The last net: whoever logs a secret by name gets stars. Nobody should."""
    del logger, method
    shown: dict[str, Any] = {
        key: "***" if any(word in key.lower() for word in _SECRET_WORDS) else value for key, value in entry.items()
    }
    return shown
