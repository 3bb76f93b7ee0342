"""A model card as Markdown, from the same values as its JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

UNTOLD = "not told"


def card_markdown(card: Mapping[str, Any]) -> str:
    """Return the card as a page to read."""
    return "\n".join(_lines(card)) + "\n"


def _lines(card: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {_plain(card['title'])}"
    yield from ("", "A pre-trained encoder of medical images, exported by Confrere.")
    yield from ("", "## Intended use", "", _plain(card["intended_use"]), "", "Not for:", "")
    yield from (f"- {_plain(text)}" for text in card["out_of_scope"])
    yield from ("", "## Encoder", "")
    yield from _rows({**card["encoder"], **card["input"]})
    yield from ("", "Preprocessing:", "", *_rows(card["preprocessing"]))
    yield from _portable(card["portable"])
    yield from ("", "## Data", "")
    yield from _rows({key: value for key, value in card["data"].items() if key != "sites"})
    yield from _table(card["data"]["sites"])
    yield from ("", "## Training", "", *_rows(card["method"]))
    privacy = {key: value for key, value in card["privacy"].items() if key != "spends"}
    yield from ("", "## Privacy", "", *_rows(privacy), *_table(card["privacy"]["spends"]))
    yield from ("", "## Results", *_measured(card))
    yield from ("", "## Limits", "")
    yield from (f"- {_plain(text)}" for text in card["limits"] or ["None is known."])
    yield from ("", "## Provenance", "", *_rows(card["provenance"]))


def _rows(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        yield f"- {_plain(key).replace('_', ' ')}: {_value(value)}"


def _value(value: Any) -> str:
    if value is None or value == "" or value == [] or value == {}:
        return UNTOLD
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping | list | tuple):
        return f"`{_line(json.dumps(value, sort_keys=True)).replace('`', '')}`"
    return _plain(value)


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    yield from ("", f"| {' | '.join(columns).replace('_', ' ')} |", "| --- " * len(columns) + "|")
    for row in rows:
        yield f"| {' | '.join(_plain(row.get(key, '')) for key in columns)} |"


def _portable(files: Mapping[str, Any]) -> Iterator[str]:
    if files:
        yield from ("", "Other formats, compared with the encoder on noise:", "")
    for name, of in files.items():
        yield f"- `{name}` ({of['format']}): differs by at most {of['largest_difference']:.2g}"


def _measured(card: Mapping[str, Any]) -> Iterator[str]:
    parts = (_results(card["results"], card["floors"]), _scored(card["scored_by_sites"]))
    written = [found for part in parts if (found := [*part])] or [["Nothing was measured."]]
    for part in written:
        yield from ("", *part)


def _results(tables: Mapping[str, Any], floors: Sequence[str]) -> Iterator[str]:
    if not tables:
        return
    yield from (
        "| of | measure | mean | 95 % interval | seeds |",
        "| --- | --- | --- | --- | --- |",
    )
    for name, figures in tables.items():
        floor = " (a floor)" if name in floors else ""
        for measure, of in figures.items():
            yield (
                f"| {_plain(name)}{floor} | {_plain(measure)} | {of['mean']:.3f} | "
                f"{of['low']:.3f} to {of['high']:.3f} | {of.get('n', '')} |"
            )


def _scored(counted: Mapping[str, Any]) -> Iterator[str]:
    """Yield what sites counted of the model's scores: the mean of all classes, then each."""
    if not counted:
        return
    yield (
        f"Scored by the sites after round {counted['round']}, on patients whom they held out: "
        f"{counted['sites']} of {counted['asked']} sites told of {counted['images']} images, in "
        f"cells of {counted['smallest_cell']} patients or more."
    )
    yield from (
        "",
        "| of | measure | mean | low to high | images | of others | sites |",
        "| --- " * 7 + "|",
    )
    for measure, of in counted["pooled"].items():
        all_of_them = {key: counted[key] for key in ("images", "sites")}
        yield _counted_row("mean of all", measure, {**of, **all_of_them})
    for name, figures in counted["classes"].items():
        for measure, of in figures.items():
            yield _counted_row(f"'{name}'", measure, of)
    for note in counted["notes"]:
        yield from ("", _plain(note))


def _counted_row(name: str, measure: str, of: Mapping[str, Any]) -> str:
    mean = f"{of['mean']:.3f}" if "mean" in of else "too coarse"
    cells = (
        _plain(name), _plain(measure), mean, f"{of['low']:.3f} to {of['high']:.3f}",
        of["images"], of.get("others", ""), of["sites"],
    )  # fmt: skip
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _plain(text: Any) -> str:
    """Return text from elsewhere as one line that draws no table and no markup of its own."""
    shown = _line(text)
    return shown.replace("|", "/").replace("<", "&lt;").replace("[", "(").replace("]", ")")


def _line(text: Any) -> str:
    return "".join(mark if mark.isprintable() else " " for mark in str(text))
