"""Format the values of a result as short, exact text."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

NO_VALUE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def to_number(value: Any) -> float | None:
    """The value as a float (NaN and inf included), or None if it is not a number."""
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def finite(value: Any) -> float | None:
    """The value as a float, or None if it is missing, NaN or infinite."""
    number = to_number(value)
    return number if number is not None and math.isfinite(number) else None


def diverged(value: Any) -> bool:
    """Whether the value was recorded and is NaN or infinite (missing is not diverged)."""
    number = to_number(value)
    return number is not None and not math.isfinite(number)


def format_number(value: Any, decimals: int = 3, *, signed: bool = False, suffix: str = "") -> str:
    """Fixed decimals and a real minus sign; a dash for a missing value, `NaN`/`inf` as such."""
    number = to_number(value)
    if number is None:
        return NO_VALUE
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "inf" if number > 0 else f"{MINUS}inf"
    # Adding 0.0 turns -0.0 into 0.0, so that a margin of nothing is not shown as negative.
    rounded = round(number, decimals) + 0.0
    if abs(rounded) >= 1e9:
        return format_short(rounded) + suffix
    sign = "+" if signed and rounded else ""
    sign = MINUS if rounded < 0 else sign
    return f"{sign}{abs(rounded):,.{decimals}f}{suffix}"


def format_percent(value: Any, decimals: int = 1) -> str:
    """A share between 0 and 1 as a percentage."""
    number = to_number(value)
    return format_number(None if number is None else number * 100, decimals, suffix="%")


def format_short(value: Any) -> str:
    """About three significant digits, with an exponent for the very small and very large."""
    number = finite(value)
    if number is None or number == 0:
        return format_number(value, 0)
    size = abs(number)
    if size < 1e-3 or size >= 1e6:
        mantissa, exponent = f"{size:.1e}".split("e")
        sign = MINUS if number < 0 else ""
        return f"{sign}{mantissa.removesuffix('.0')}e{int(exponent)}".replace("e-", f"e{MINUS}")
    decimals = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return format_number(number, decimals)


def format_count(value: Any) -> str:
    """A whole number with thousands separators."""
    return format_number(value, 0)


def format_duration(seconds: Any) -> str:
    """Seconds as `12.3 s`, `2 min 22 s` or `1 h 05 min`."""
    number = finite(seconds)
    if number is None:
        return format_number(seconds)
    if number < 59.95:
        return f"{number:.1f} s"
    total = round(number)
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    minutes = round(number / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def format_bytes(num_bytes: Any) -> str:
    """A number of bytes in MiB below one GiB, else in GiB."""
    number = finite(num_bytes)
    if number is None:
        return format_number(num_bytes)
    if number < 2**30:
        return format_number(number / 2**20, 0, suffix=" MiB")
    return format_number(number / 2**30, 2, suffix=" GiB")


def utc_stamp(moment: float | datetime) -> str:
    """A time, in seconds since 1970 or with its time zone, as results have it: `2026-11-21T07:00:00Z`."""
    moment = moment if isinstance(moment, datetime) else datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_time(stamp: Any) -> str:
    """An ISO 8601 time as `2026-11-21 07:00:00 UTC`; other text unchanged."""
    try:
        moment = datetime.fromisoformat(stamp)
    except (TypeError, ValueError):
        return NO_VALUE if stamp is None else str(stamp)
    if moment.tzinfo is None:
        return moment.strftime("%Y-%m-%d %H:%M:%S")
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def align_columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table whose rows all have the same number of cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
