"""YAML -> run, and run -> plain values: every fault at once, each with its place and its cure."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from confrere_common.config import Run
from confrere_common.encoder import ENCODERS
from confrere_common.errors import ConfigError
from confrere_common.family import Family, Named, sentence
from confrere_common.method import METHODS

Families = Mapping[str, Family[Any]]
"""Place of a choice in the run ("method", "federation.rule") -> the family it is chosen from."""

COMMON_FAMILIES: Families = {"encoder": ENCODERS, "method": METHODS}


def read_run(
    path: Path, overrides: Sequence[str] = (), families: Families = COMMON_FAMILIES
) -> Run:
    """Load a run's YAML file, change what *overrides* (``a.b=c``) say, and validate everything."""
    try:
        plain = _yaml(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise ConfigError([f"cannot be read: {fault.strerror}."], str(path)) from None
    except ValueError as fault:
        raise ConfigError([f"is not YAML: {' '.join(str(fault).split())}"], str(path)) from None
    if not isinstance(plain, dict):
        raise ConfigError(["is not a mapping of sections; see configs/quickstart.yaml."], str(path))
    for text in overrides:
        plain = override(plain, text)
    return parse_run(plain, families, where=str(path))


def parse_run(plain: Mapping[str, Any], families: Families, where: str = "the run") -> Run:
    """Validate plain values as a run; ConfigError lists every fault in it and in every choice."""
    faults: list[str] = []
    run = None
    try:
        run = TypeAdapter(Run).validate_python(plain)
    except ValidationError as fault:
        faults += [sentence(error, _keys_at(error["loc"])) for error in fault.errors()]
    for place, family in families.items():
        faults += _faults_of_choice(plain, place, family)
    if faults or run is None:
        raise ConfigError(dict.fromkeys(faults), where)
    return run


def override(plain: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return *plain* with ``a.b=c`` applied; the value is read as YAML."""
    place, equals, value = text.partition("=")
    keys = place.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError([f"--set {text!r} is not of the form a.b=c."])
    try:
        return _put(plain, keys, _yaml(value))
    except ValueError as fault:
        raise ConfigError([f"--set {text!r}: {' '.join(str(fault).split())}."]) from None


def as_dict(run: Run, families: Families = COMMON_FAMILIES) -> dict[str, Any]:
    """Return the effective run as plain values, each choice with all its knobs spelled out."""
    plain: dict[str, Any] = _plain(run)
    for place, family in families.items():
        *parents, last = place.split(".")
        holder = plain
        for key in parents:
            holder = holder[key]
        knobs = {k: v for k, v in holder[last].items() if k != "name"}
        named = Named(name=holder[last]["name"], knobs=knobs)
        holder[last] = {"name": named.name, **_plain(family.configure(named))}
    return plain


def dump(run: Run, families: Families = COMMON_FAMILIES) -> str:
    """Return the effective run as canonical JSON: equal runs give equal text."""
    return json.dumps(as_dict(run, families), sort_keys=True, separators=(",", ":"))


def digest(text: str) -> str:
    """Return the SHA-256 of a dumped run, as hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Named):
        return value.as_dict()
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, LookupError, RecursionError) as fault:
        # PyYAML also stumbles over impossible dates and tags: those are ValueErrors already.
        raise ValueError(str(fault)) from None


def _put(plain: Any, keys: Sequence[str], value: Any) -> dict[str, Any]:
    # A choice written as a bare name becomes a mapping when one of its knobs is set.
    holder = {"name": plain} if isinstance(plain, str) else {} if plain is None else plain
    if not isinstance(holder, Mapping):
        raise ValueError(f"what stands before '.{keys[0]}' is {plain!r}, which has no keys")
    inner = _put(holder.get(keys[0]), keys[1:], value) if len(keys) > 1 else value
    return {**holder, keys[0]: inner}


def _faults_of_choice(plain: Mapping[str, Any], place: str, family: Family[Any]) -> list[str]:
    value: Any = plain
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return []  # absent means the default; anything else is already a fault of the run
    knobs = {key: item for key, item in value.items() if key != "name"}
    try:
        family.configure(Named(name=value["name"], knobs=knobs))
    except ConfigError as fault:
        return [f"{place}: {text}" for text in fault.faults]
    return []


def _keys_at(where: Sequence[int | str]) -> list[str]:
    section: Any = Run
    for key in where[:-1]:
        field = getattr(section, "__dataclass_fields__", {}).get(key)
        section = field.type if field else None
    return list(getattr(section, "__dataclass_fields__", {}))
