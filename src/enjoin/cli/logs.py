"""Structured logs on stderr: JSON lines, or coloured ones on a terminal."""

import logging
import os
import sys
from typing import Any, Final

import msgspec
import structlog

from enjoin.cli.failure import UsageFailure

LEVEL: Final = "ENJOIN_LOG_LEVEL"
LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logs() -> None:
    """Send every log of this process, uvicorn's included, to stderr; raise UsageFailure for an unknown level."""
    level = _level()
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    factory: structlog.PrintLoggerFactory | structlog.BytesLoggerFactory
    if sys.stderr.isatty():
        rendered: structlog.typing.Processor = structlog.dev.ConsoleRenderer()
        written, factory = rendered, structlog.PrintLoggerFactory(sys.stderr)
    else:
        rendered = structlog.processors.JSONRenderer(serializer=_text)
        # Bytes, and no locale in between: a third of the time of the standard way, on the path of every request.
        written = structlog.processors.JSONRenderer(serializer=_bytes)
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=[*shared, written],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=rendered, foreign_pre_chain=shared))
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


def _level() -> int:
    name = os.environ.get(LEVEL, "info")
    if name.lower() not in LEVELS:
        text = f"{LEVEL}={name}: allowed are {', '.join(LEVELS)}"
        raise UsageFailure(text)
    return LEVELS[name.lower()]


def _bytes(fields: Any, **_: object) -> bytes:  # noqa: ANN401 - whatever was logged
    try:
        return msgspec.json.encode(fields, enc_hook=repr)
    except UnicodeEncodeError:  # a lone surrogate in what a client sent
        return ascii(fields).encode()


def _text(fields: Any, **_: object) -> str:  # noqa: ANN401 - the same
    return _bytes(fields).decode()
