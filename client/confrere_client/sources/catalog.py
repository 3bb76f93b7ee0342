"""A CSV or Parquet table, a row an image: path, patient, site, split, label, mask, sex ..."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from pydantic import Field

from confrere_client.data.boxes import read_boxes
from confrere_client.data.catalog import check_patients, split_name
from confrere_client.data.decode import Pixels, decode_image
from confrere_client.data.fingerprint import content, known
from confrere_client.data.masks import decode_mask
from confrere_client.source import FACTORS, Record, Source, UnreadableImage
from confrere_common.errors import DataError, unknown
from confrere_common.section import section

log = getLogger(__name__)
Column = Annotated[str, Field(min_length=1)]
OPTIONAL = ("patient", "site", "split", "label", "mask", "boxes")


class Catalog(Source):
    """Images wherever they lie, listed in a table. Paths start at the table's folder."""

    @section
    class Config:
        """An optional column is used when it is there; one that is named here must be there.

        Columns sex, age, vendor, kernel and slice_thickness_mm are read where they are there: an
        evaluation shows whom a model serves worse.
        """

        path: Annotated[str, Field(min_length=1)]
        """The table: CSV (UTF-8; comma, semicolon or tab) or Parquet."""

        path_column: Column = "path"
        """Column of the image's path, relative to the table."""

        patient_column: Column | None = None
        """Column that groups images by patient ('patient' if there); else each is its own."""

        site_column: Column | None = None
        """Column of the acquisition site ('site' if there)."""

        split_column: Column | None = None
        """Column of the split: train, val or test ('split' if there)."""

        label_column: Column | None = None
        """Column of the class ('label' if there); an empty cell is unlabelled."""

        mask_column: Column | None = None
        """Column of the mask's path, as the image's ('mask' if there); an empty cell has none."""

        boxes_column: Column | None = None
        """Column of boxes as JSON, [["name", x0, y0, x1, y1], ...] in pixels, the name in quotes
        ('boxes' if there); an empty cell has none drawn, [] nothing to draw."""

    def records(self) -> Sequence[Record]:
        """List the rows; those of a missing file too, which are found unreadable later."""
        table = self.folder / Path(self.config.path).expanduser()
        rows = _distinct(_rows(table, self.config))
        if not rows:
            raise DataError(f"the catalog '{self.config.path}' has a header but no row.")
        found = [_record(table.parent, row) for row in rows]
        check_patients(found)
        return found

    def fingerprint(self) -> Iterator[bytes]:
        """Yield what is known of each image, then its file."""
        table = self.folder / Path(self.config.path).expanduser()
        drawn = {row["path"]: row for row in _rows(table, self.config)}
        for record in self.records():
            yield known(record)
            yield from content(table.parent / record.name)
            if record.mask is not None:
                yield from content(table.parent / drawn[record.name]["mask"])
            yield drawn[record.name]["boxes"].encode()


def _record(folder: Path, row: dict[str, str]) -> Record:
    path = row["path"]
    return Record(
        name=path,
        decode=partial(decode_image, folder / path) if path else _no_path,
        patient=row["patient"] or path,
        site=row["site"],
        split=split_name(row["split"]),
        label=row["label"],
        mask=partial(decode_mask, folder / row["mask"]) if row["mask"] else None,
        boxes=partial(read_boxes, row["boxes"]) if row["boxes"] else None,
        about={name: row[name] for name in FACTORS if row[name]},
    )


def _no_path() -> Pixels:
    raise UnreadableImage("row has no path")


def _distinct(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return each row once; DataError when one image is told of in two ways."""
    unique = list({tuple(row.items()): row for row in rows}.values())
    torn = sum(
        count > 1 for count in Counter(row["path"] for row in unique if row["path"]).values()
    )
    if torn:
        raise DataError(
            f"{torn} images stand in the catalog more than once with different patient, site, "
            "split or label. Keep one row for each image."
        )
    if len(unique) < len(rows):
        log.warning("the catalog repeats %d rows; each image is used once", len(rows) - len(unique))
    return unique


def _rows(path: Path, config: Any) -> list[dict[str, str]]:
    """Return the rows as path, patient, site, split, label; '' for what is not known."""
    table = _table(path, config.path)
    columns = {"path": _cells(table, config.path_column, config.path)}
    for name in (*OPTIONAL, *FACTORS):
        wanted = getattr(config, f"{name}_column", None)
        there = wanted is not None or name in table.column_names
        columns[name] = (
            _cells(table, wanted or name, config.path) if there else [""] * table.num_rows
        )
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _cells(table: Any, column: str, written: str) -> list[str]:
    """Return one column as text without blanks around it."""
    names: list[str] = table.column_names
    if column not in names:
        raise DataError(f"the catalog '{written}': {unknown('column', column, names)}")
    if names.count(column) > 1:
        raise DataError(f"the catalog '{written}' has {names.count(column)} columns '{column}'.")
    try:
        cells = table.column(column).cast(pa.string()).to_pylist()
    except (pa.ArrowException, UnicodeDecodeError):
        raise DataError(
            f"the column '{column}' of the catalog '{written}' is not text in UTF-8. "
            "Save the table as 'CSV UTF-8'."
        ) from None
    return [(cell or "").strip() for cell in cells]


def _table(path: Path, written: str) -> Any:
    """Return the table of a file: Parquet by its first bytes, else CSV with all cells as text."""
    try:
        with path.open("rb") as file:
            head = file.readline(1 << 16)
        if head.startswith(b"PAR1"):
            return pa_parquet.ParquetFile(path).read()
        return _csv(path, head)
    except FileNotFoundError:
        raise DataError(
            f"there is no catalog '{written}' (paths start at the run's file)."
        ) from None
    except (OSError, pa.ArrowException, UnicodeDecodeError) as fault:
        raise DataError(_unreadable(written, fault)) from None


def _csv(path: Path, head: bytes) -> Any:
    delimiter = max((b",", b";", b"\t"), key=head.count).decode()
    names = head.decode("utf-8-sig").strip().split(delimiter)
    # a patient '007' must not become 7
    text = {name.strip().strip('"'): pa.string() for name in names}
    return pa_csv.read_csv(
        path,
        parse_options=pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(column_types=text, strings_can_be_null=False),
    )


def _unreadable(written: str, fault: Exception) -> str:
    """Say why a table cannot be read; the fault's own words may quote a row, so they are left."""
    if isinstance(fault, UnicodeDecodeError) or "UTF8" in str(fault):
        return f"the catalog '{written}' is not text in UTF-8. Save the table as 'CSV UTF-8'."
    kind = type(fault).__name__
    return (
        f"the catalog '{written}' cannot be read as CSV or Parquet ({kind}). Each row must have "
        "as many cells as the header, and the file must not be empty."
    )
