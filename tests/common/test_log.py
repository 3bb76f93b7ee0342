"""Logs and refusals carry no patient and no path.

``confrere_common.log``: "Guarantee: a record that quotes an exception from outside Confrere shows
its type, never its text, which may hold a path or a name."
"""

import logging
from collections.abc import Iterator

import pytest

from confrere_common.errors import (
    CheckpointError,
    ConfigError,
    ConfrereError,
    DataError,
    ExchangeError,
    RoundError,
    TrainingError,
)
from confrere_common.log import reason, start_logging

PACKAGES = ("confrere_common", "confrere_server", "confrere_client", "confrere_deploy")
NAME = "PATIENT-NAME /data/ward7"


@pytest.fixture
def _loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.parametrize(
    "fault",
    [
        ConfigError(["train.lr is 0."]),
        CheckpointError("cut short"),
        TrainingError("the loss was no longer a number"),
        ExchangeError("'w' holds NaN"),
        RoundError("no site"),
    ],
)
def test_our_own_sentence_about_the_run_may_be_said(fault: ConfrereError) -> None:
    assert reason(fault) == str(fault)


@pytest.mark.parametrize(
    "fault",
    [
        DataError(f"1 patients have images at several sites. One of them: {NAME}."),
        FileNotFoundError(2, "No such file", NAME),
        ValueError(NAME),
        KeyError(NAME),
        ConfrereError(NAME),
    ],
)
def test_of_anything_else_only_the_type_is_said(fault: Exception) -> None:
    said = reason(fault)

    assert type(fault).__name__ in said
    assert "PATIENT" not in said
    assert "ward7" not in said


@pytest.mark.usefixtures("_loggers_as_before")
def test_only_our_own_loggers_write_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    root = list(logging.getLogger().handlers)

    start_logging()
    start_logging()
    logging.getLogger("confrere_client.work").warning("round %d refused", 3)
    logging.getLogger("confrere_client.work").info("not shown")

    shown = capsys.readouterr().err
    assert shown.count("WARNING confrere_client.work: round 3 refused") == 1
    assert "not shown" not in shown
    assert logging.getLogger().handlers == root
