"""YAML -> run, and run -> plain values: every fault at once, each with its place and its cure."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from confrere_common.config import NO_METHOD, Run
from confrere_common.encoder import ENCODERS
from confrere_common.errors import ConfigError
from confrere_common.family import Family, Named, sentence
from confrere_common.method import METHODS
from confrere_common.mixing import MIXINGS
from confrere_common.section import default_of, section_fields
from confrere_common.task import TASKS

Families = Mapping[str, Family[Any]]
"""Place of a choice in the run ("method", "federation.rule") -> the family it is chosen from.

At some places ("federation.mixing") stands a list of choices.
"""

COMMON_FAMILIES: Families = {
    "encoder": ENCODERS,
    "method": METHODS,
    "federation.mixing": MIXINGS,
    "finetune.task": TASKS,
}


LATER = ("leave_out", "preparation", "crop_px")
"""Keys of data that are absent from a dumped run which does not use them: they came after digests
of runs had been written down. A section of knobs names its own in ``LATER``."""


def read_run(
    path: Path, overrides: Sequence[str] = (), families: Families = COMMON_FAMILIES
) -> Run:
    """Load a run's YAML file, change what *overrides* (``a.b=c``) say, and validate everything."""
    return parse_run(read_plain(path, overrides), families, where=str(path))


def read_plain(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a run's YAML file says, with *overrides*, not yet validated."""
    try:
        plain = _yaml(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise ConfigError([f"cannot be read: {fault.strerror}."], str(path)) from None
    except ValueError as fault:
        raise ConfigError([f"is not YAML: {' '.join(str(fault).split())}"], str(path)) from None
    if not isinstance(plain, dict):
        raise ConfigError(["is not a mapping of sections; see configs/quickstart.yaml."], str(path))
    found: dict[str, Any] = plain
    for text in overrides:
        found = override(found, text)
    return found


def parse_run(plain: Mapping[str, Any], families: Families, where: str = "the run") -> Run:
    """Validate plain values as a run; ConfigError lists every fault in it and in every choice.

    A choice that says only what differs from its default needs no name.
    """
    faults: list[str] = []
    run = None
    for place in families:
        plain = _named(plain, place)
    try:
        run = TypeAdapter(Run).validate_python(plain)
    except ValidationError as fault:
        faults += [sentence(error, _keys_at(error["loc"])) for error in fault.errors()]
    for place, family in families.items():
        faults += _faults_of_choice(plain, place, family)
    if faults or run is None:
        raise ConfigError(dict.fromkeys(faults), where)
    return run


def choice_at(plain: Mapping[str, Any], place: str) -> Named | None:
    """Return what plain values choose at *place*; None where nothing, or no name, stands there.

    An absent choice is its default, if it has one.
    """
    value = _at(_named(plain, place), place)
    return _default_at(place) if value is None else _choice(value)


def choices_at(plain: Mapping[str, Any], place: str) -> Sequence[Named]:
    """Return all that plain values choose at *place*, where one choice or a list of them stands."""
    value = _at(plain, place)
    found = map(_choice, value) if isinstance(value, list | tuple) else [choice_at(plain, place)]
    return [named for named in found if named is not None]


def _choice(value: Any) -> Named | None:
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return None
    knobs = {key: item for key, item in value.items() if key != "name"}
    return Named(name=value["name"], knobs=knobs)


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
    for key in LATER:
        if not plain["data"][key]:
            del plain["data"][key]
    for place, family in families.items():
        *parents, last = place.split(".")
        holder = _at(plain, ".".join(parents)) if parents else plain
        if holder is None:  # a section that the run leaves out
            continue
        chosen = holder[last]
        if chosen == NO_METHOD.as_dict():  # a task takes its place
            del holder[last]
            continue
        listed = isinstance(chosen, list)
        holder[last] = (
            [_effective(family, one) for one in chosen] if listed else _effective(family, chosen)
        )
    return plain


def _effective(family: Family[Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    knobs = {key: item for key, item in chosen.items() if key != "name"}
    named = Named(name=chosen["name"], knobs=knobs)
    config = family.configure(named)
    return {"name": named.name, **_without_later(config, _plain(config))}


def _without_later(config: Any, plain: dict[str, Any]) -> dict[str, Any]:
    """Return knobs without those in the section's ``LATER`` that stand at their defaults."""
    later = {field.name: field for field in section_fields(type(config))}
    usual = {name: default_of(later[name]) for name in getattr(config, "LATER", ())}
    return {
        key: value
        for key, value in plain.items()
        if key not in usual or getattr(config, key) != usual[key]
    }


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
    faults: list[str] = []
    for named in choices_at(plain, place):  # what is no choice is a fault of the run, told already
        try:
            family.configure(named)
        except ConfigError as fault:
            faults += [f"{place}: {text}" for text in fault.faults]
    return faults


def _named(plain: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """Return *plain* with the default's name where only knobs are given at *place*."""
    value, default = _at(plain, place), _default_at(place)
    if default is None or not isinstance(value, Mapping) or "name" in value:
        return plain
    return _put(plain, [*place.split("."), "name"], default.name)


def _at(plain: Any, place: str) -> Any:
    for key in place.split("."):
        plain = plain.get(key) if isinstance(plain, Mapping) else None
    return plain


def _default_at(place: str) -> Named | None:
    """Return what is chosen where a run says nothing; None where it must say something."""
    *parents, last = place.split(".")
    default = default_of(_fields_at(parents)[last])
    return default if isinstance(default, Named) and default != NO_METHOD else None


def _keys_at(where: Sequence[int | str]) -> list[str]:
    return list(_fields_at(where[:-1]))


def _fields_at(where: Sequence[int | str]) -> Mapping[str, Any]:
    section: Any = Run
    for key in where:
        field = getattr(section, "__dataclass_fields__", {}).get(key)
        section = _section_in(field.type) if field else None
    return getattr(section, "__dataclass_fields__", {})


def _section_in(kind: Any) -> Any:
    """Return the section that a field holds, also where it may be absent."""
    return next((part for part in get_args(kind) if hasattr(part, "__dataclass_fields__")), kind)
