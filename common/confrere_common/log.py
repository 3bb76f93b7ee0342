"""Logs that never carry a patient: plain lines on standard error, one logger for each module.

Guarantee: a record that quotes an exception from outside Confrere shows its type, never its text,
which may hold a path or a name.
"""

import logging

from confrere_common.errors import (
    CheckpointError,
    ConfigError,
    ExchangeError,
    RoundError,
    TrainingError,
)

SAYABLE = (ConfigError, CheckpointError, TrainingError, ExchangeError, RoundError)
"""Errors whose sentences speak of the run alone; one about data may name a file or a patient."""


def start_logging(level: int = logging.WARNING) -> None:
    """Send Confrere's own records to standard error; leave other libraries' loggers alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for package in ("confrere_common", "confrere_server", "confrere_client", "confrere_deploy"):
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


def reason(fault: BaseException) -> str:
    """Return what may be said of *fault* outside the site: a sentence of the run, or its type."""
    if isinstance(fault, SAYABLE):
        return str(fault)
    return f"{type(fault).__name__} (where it arose is in the site's own log)"


def without_text(fault: BaseException) -> Exception:
    """Return an exception that shows where *fault* arose, without its text."""
    return RuntimeError(type(fault).__name__).with_traceback(fault.__traceback__)
