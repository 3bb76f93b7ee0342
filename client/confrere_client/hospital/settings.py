"""A site's own YAML files -> sections: every fault at once, a key written twice among them."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from confrere_common.errors import ConfigError
from confrere_common.family import sentence

T = TypeVar("T")


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


def read_section(plain: Mapping[str, Any], kind: type[T], where: str) -> T:
    """Validate plain values as the section *kind*; ConfigError lists every fault."""
    try:
        return TypeAdapter(kind).validate_python(dict(plain))
    except ValidationError as fault:
        faults = [sentence(error, _known(kind, error["loc"])) for error in fault.errors()]
        raise ConfigError(dict.fromkeys(faults), where) from None


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
