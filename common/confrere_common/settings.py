"""A YAML file that holds one section: read with every fault told at once, written explained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from confrere_common.errors import ConfigError
from confrere_common.family import sentence
from confrere_common.section import documentation, section_fields

T = TypeVar("T")


def read_settings(path: Path, cls: type[T]) -> T:
    """Return the section *cls* that *path* holds; ConfigError lists all that is wrong with it."""
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise ConfigError([f"cannot be read: {fault.strerror}."], str(path)) from None
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as fault:
        raise ConfigError([f"is not YAML: {' '.join(str(fault).split())}"], str(path)) from None
    if not isinstance(plain, dict):
        raise ConfigError(["is not a mapping of keys to values."], str(path))
    return check_settings(plain, cls, str(path))


def check_settings(plain: Mapping[str, Any], cls: type[T], where: str) -> T:
    """Return plain values as the section *cls*; ConfigError lists all that is wrong with them."""
    try:
        return TypeAdapter(cls).validate_python(plain)
    except ValidationError as fault:
        known = [field.name for field in section_fields(cls)]
        faults = [sentence(error, known) for error in fault.errors()]
        raise ConfigError(dict.fromkeys(faults), where) from None


def written(settings: Any) -> str:
    """Return a section as YAML in which each key stands under its documentation."""
    cls: Any = type(settings)
    said = documentation(cls)
    plain = TypeAdapter(cls).dump_python(settings, mode="json")
    parts = [_comment(said.get(key, "")) + yaml.safe_dump({key: plain[key]}) for key in plain]
    return "\n".join(parts)


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in text.splitlines())
