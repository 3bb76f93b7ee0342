"""Leave a run's report on disk: report.json for programs, report.html for people."""

from pathlib import Path

from confrere_common.storage import atomic_write
from confrere_deploy.report.codec import to_json
from confrere_deploy.report.html import render
from confrere_deploy.report.pictures import Pictures
from confrere_deploy.report.schema import Report


def write_report(out: Path, report: Report, pictures: Pictures) -> None:
    """Put report.json and report.html in the folder *out*, each whole or not at all."""
    atomic_write(out / "report.json", to_json(report).encode("utf-8"))
    atomic_write(out / "report.html", render(report, pictures).encode("utf-8"))
