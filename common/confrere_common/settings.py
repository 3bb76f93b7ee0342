"""YAML files that hold sections: every fault told at once, nothing guessed, written explained."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from confrere_common.errors import ConfigError
from confrere_common.family import sentence
from confrere_common.section import documentation

T = TypeVar("T")


def read_settings(path: Path, cls: type[T]) -> T:
    """Return the section *cls* that *path* holds; ConfigError lists all that is wrong with it."""
    plain = read_mapping(path)
    if not plain:
        raise ConfigError(["is not a mapping of keys to values: it is empty."], path.name)
    return check_settings(plain, cls, path.name)


def read_mapping(path: Path) -> dict[str, Any]:
    """Return what a YAML file holds, {} when it is empty; ConfigError when it is no mapping.

    A fault names the file, not its folder, which may be called after a patient.
    """
    try:
        plain = yaml.load(path.read_text(encoding="utf-8"), _Once)  # noqa: S506  (a SafeLoader)
    except OSError as fault:
        raise ConfigError([f"cannot be read: {fault.strerror}."], path.name) from None
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as fault:
        raise ConfigError([f"is not YAML: {' '.join(str(fault).split())}"], path.name) from None
    if not isinstance(plain, dict | None):
        raise ConfigError(["is not a mapping of keys to values."], path.name)
    return {str(key): value for key, value in (plain or {}).items()}


def check_settings(plain: Mapping[str, Any], cls: type[T], where: str) -> T:
    """Return plain values as the section *cls*; ConfigError lists all that is wrong with them."""
    try:
        return TypeAdapter(cls).validate_python(dict(plain))
    except ValidationError as fault:
        faults = [sentence(error, _known(cls, error["loc"])) for error in fault.errors()]
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


class _Once(yaml.SafeLoader):
    """Refuses a key that stands twice: the second would silently undo the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _known(kind: Any, where: tuple[int | str, ...]) -> list[str]:
    """Return the keys that there are at a place in the section *kind*."""
    for key in where[:-1]:
        field = getattr(kind, "__dataclass_fields__", {}).get(key)
        kind = _section_in(field.type) if field else kind
    return list(getattr(kind, "__dataclass_fields__", {}))


def _section_in(annotation: Any) -> Any:
    if is_dataclass(annotation):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)
