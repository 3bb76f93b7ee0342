"""Figures, amounts and names as people read them."""

from collections.abc import Mapping, Sequence

from confrere_deploy.report.schema import ArmName, Figure

ARM_NAMES: Mapping[ArmName, str] = {
    "raw": "Raw pixels",
    "random": "Untrained encoder",
    "local": "Each site alone",
    "federated": "Federated",
    "centralised": "All images in one place",
}
ARM_PHRASES: Mapping[ArmName, str] = {
    "raw": "raw pixels",
    "random": "an untrained encoder",
    "local": "each site training alone",
    "federated": "the federation",
    "centralised": "training with all images in one place",
}


def spoken(figure: Figure, digits: int = 3, *, sign: bool = False) -> str:
    """Write a figure with its interval: 0.912 (0.893 to 0.931)."""
    if figure.low == figure.high:
        return number(figure.mean, digits, sign=sign)
    low, high = (number(end, digits, sign=sign) for end in (figure.low, figure.high))
    return f"{number(figure.mean, digits, sign=sign)} ({low} to {high})"


def number(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """Write a number with a true minus, and with its sign also when positive if asked."""
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def brief(value: float | None) -> str:
    """Write a measure in four digits, or a dash when there is none."""
    return "\N{EN DASH}" if value is None else f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def amount(count: int) -> str:
    """Write a number of bytes in the unit that fits."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.{2 if value < 10 and unit != 'bytes' else 0}f} {unit}"
        value /= 1024
    return f"{value:,.4g} TiB"


def duration(seconds: float) -> str:
    """Write a time in the two units that fit."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(count: int, one: str, many: str = "") -> str:
    """Write '1 site' or '4 sites'."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def images_of(images: int, patients: int | None) -> str:
    """Return 'so many images of so many patients', as far as it is known."""
    held = counted(images, "image")
    return held if patients is None else f"{held} of {counted(patients, 'patient')}"


def listed(items: Sequence[str], last: str = "and") -> str:
    """Write 'a, b and c'."""
    return f"{', '.join(items[:-1])} {last} {items[-1]}" if len(items) > 1 else "".join(items)


def shorten(name: str, limit: int = 28) -> str:
    """Cut a long name for a drawing, and drop what no drawing can hold."""
    name = "".join(letter for letter in name if letter.isprintable())
    return name if len(name) <= limit else name[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"
