"""Tables that are written as answers come: CSV or Parquet, a batch of rows at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

TEXT, REAL, WHOLE = pa.string(), pa.float32(), pa.int64()
FORMS = ("csv", "parquet")


def vector(width: int) -> Any:
    """Return the type of a column that holds *width* numbers a row; Parquet alone has it."""
    return pa.list_(REAL, width)


@dataclass(frozen=True, kw_only=True)
class Table:
    """An open table; leave it as a context, and it is whole."""

    path: Path
    schema: Any
    writer: Any

    def add(self, columns: Mapping[str, Any]) -> None:
        """Add rows, given column by column (lists or arrays); None is an empty cell."""
        arrays = [pa.array(columns[field.name], field.type) for field in self.schema]
        if arrays and len(arrays[0]):
            self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()


def open_table(
    path: Path, columns: Mapping[str, Any], said: Mapping[str, str] | None = None
) -> Table:
    """Return an empty table at *path*, whose ending says its form; *said* goes into a Parquet."""
    schema = pa.schema(list(columns.items()), metadata=dict(said) if said else None)
    make = pq.ParquetWriter if path.suffix == ".parquet" else pa_csv.CSVWriter
    return Table(path=path, schema=schema, writer=make(str(path), schema))
