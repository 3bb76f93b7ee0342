"""A report to JSON and back; what does not fit the contract is refused with all faults at once."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from confrere_common.errors import ConfigError
from confrere_deploy.report.schema import SCHEMA, Report

WHERE = "report.json"


def to_json(report: Report) -> str:
    """Return the text of report.json; ConfigError when the configuration is no plain JSON."""
    try:
        return json.dumps(plain(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as fault:
        raise ConfigError([f"'run' must hold plain, finite JSON values: {fault}"], WHERE) from fault


def from_json(text: str | bytes) -> Report:
    """Read the text of a report.json; ConfigError lists whatever is wrong with it."""
    try:
        content = json.loads(text)
    except ValueError as fault:
        raise ConfigError([f"it is no JSON: {fault}; write the report anew"], WHERE) from fault
    return validate(content)


def validate(content: Any) -> Report:
    """Check the content of a report.json against the contract; ConfigError lists every fault."""
    if not isinstance(content, Mapping):
        raise ConfigError([f"it holds a {type(content).__name__}, not a mapping of keys"], WHERE)
    if content.get("schema") != SCHEMA:
        found = repr(content["schema"]) if "schema" in content else "missing"
        raise ConfigError(
            [f"'schema' is {found}; this version reads {SCHEMA}: use the confrere that wrote it"],
            WHERE,
        )
    try:
        text = json.dumps(content, allow_nan=False)
        return _adapter().validate_json(text, strict=True)
    except ValidationError as fault:
        raise ConfigError([_sentence(error) for error in fault.errors()], WHERE) from fault
    except (TypeError, ValueError) as fault:
        raise ConfigError([f"it holds a value that JSON has not: {fault}"], WHERE) from fault


def plain(value: Any) -> Any:
    """Return *value* as JSON has it: sections as mappings, without optional keys that are empty."""
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((field, getattr(value, field.name)) for field in fields(value))
        return {
            field.name: plain(content)
            for field, content in pairs
            if not (content is None and field.default is not MISSING)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(content) for key, content in value.items()}
    if isinstance(value, tuple | list):
        return [plain(content) for content in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return value


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def _sentence(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "the whole"
    if error["type"] == "missing":
        return f"'{place}' is missing"
    if error["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        return f"'{place}' is no key of schema {SCHEMA}: take it out"
    given = str(error["input"])
    shown = given if len(given) <= 60 else given[:57] + "..."
    return f"'{place}' is {shown}: {error['msg'].removeprefix('Value error, ')}"
