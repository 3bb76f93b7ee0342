"""Every field of a run, with its value, its default and what it means."""

from collections.abc import Iterator
from dataclasses import MISSING, is_dataclass
from typing import Any

from confrere_common.config import NO_METHOD, Run
from confrere_common.family import Family, Named
from confrere_common.section import default_of, documentation, section_fields
from confrere_deploy.families import ALL_FAMILIES


def explained(run: Run) -> str:
    """Return the whole run as indented text."""
    return "\n".join(_section(run, place="", indent=""))


def _section(section: Any, place: str, indent: str) -> Iterator[str]:
    kind: Any = type(section)
    texts = documentation(kind)
    for field in section_fields(type(section)):
        value = getattr(section, field.name)
        here = f"{place}.{field.name}".lstrip(".")
        text = " ".join(texts.get(field.name, "").split())
        if value == NO_METHOD:
            yield f"{indent}{field.name}: absent    # {text}"
        elif here in ALL_FAMILIES and isinstance(value, tuple):
            names = ", ".join(named.name for named in value)
            yield f"{indent}{field.name}: [{names}]    # {text}"
            for named in value:
                yield f"{indent}  {named.name}:"
                yield from _choice(ALL_FAMILIES[here], named, indent + "    ")
        elif isinstance(value, Named) and here in ALL_FAMILIES:
            yield f"{indent}{field.name}: {value.name}    # {text}"
            yield from _choice(ALL_FAMILIES[here], value, indent + "  ")
        elif is_dataclass(value):
            yield f"{indent}{field.name}:    # {text}"
            yield from _section(value, here, indent + "  ")
        else:
            yield f"{indent}{field.name}: {_shown(value)}    # {text}{_default(field, value)}"


def _choice(family: Family[Any], named: Named, indent: str) -> Iterator[str]:
    yield f"{indent}# {family.caption(named.name)} Known: {', '.join(family.names())}."
    yield from _section(family.configure(named), place="?", indent=indent)


def _default(field: Any, value: Any) -> str:
    default = default_of(field)
    if default is MISSING:
        return " (must be given)"
    return "" if default == value else f" (default {_shown(default)})"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):  # as YAML has it
        return str([*value])
    return "absent" if value is None else str(value)
