"""A section of a run: a frozen, keyword-only, validated dataclass whose docstrings explain it.

The string under a field is its documentation, as in
::

    @section
    class Config:
        rounds: int = 10
        '''How often the sites are asked.'''
"""

import ast
import inspect
import textwrap
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def section(cls: type[T]) -> type[T]:
    """Make *cls* a section: frozen, keyword-only, unknown keys refused, defaults validated."""
    strict = ConfigDict(
        extra="forbid", validate_default=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )
    return pydantic_dataclass(frozen=True, kw_only=True, config=strict)(cls)  # type: ignore[return-value]


def section_fields(cls: type) -> tuple["Field[Any]", ...]:
    """Return the fields of a section in the order in which they were written."""
    return fields(cls)


def default_of(field: "Field[Any]") -> Any:
    """Return the default value of *field*, or ``dataclasses.MISSING`` when one must be given."""
    if isinstance(field.default, FieldInfo):  # as pydantic's own ``Field(...)`` leaves it
        given = field.default.get_default(call_default_factory=True, validated_data={})
        return MISSING if given is PydanticUndefined else given
    return field.default_factory() if field.default_factory is not MISSING else field.default


@cache
def documentation(cls: type) -> dict[str, str]:
    """Return field name -> the string written under that field, for a section *cls*."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    if not isinstance(body, ast.ClassDef):
        return {}
    pairs = zip(body.body, body.body[1:], strict=False)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairs
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
