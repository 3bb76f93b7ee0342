"""Knobs of a source as they stand on the command line: key=value, the value in YAML."""

from collections.abc import Iterable
from typing import Any

import yaml

from confrere_common.errors import ConfigError


def knobs_in(texts: Iterable[str]) -> dict[str, Any]:
    """Return key -> value; ConfigError lists every text that is no such pair."""
    found: dict[str, Any] = {}
    faults: list[str] = []
    for text in texts:
        key, sign, value = text.partition("=")
        if not (key and sign):
            faults.append(f"'{text}': expected key=value.")
            continue
        try:
            found[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            faults.append(f"'{text}': the value is not YAML; put it in quotes.")
    if faults:
        raise ConfigError(faults, "--set")
    return found
