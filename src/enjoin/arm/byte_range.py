"""The Range of a request for bytes (RFC 9110, section 14)."""

import re
from typing import Final

from enjoin.errors import RangeNotSatisfiable

_RANGE: Final = re.compile(r"bytes=(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})", re.ASCII | re.IGNORECASE)


def read_range(header: str | None, total_bytes: int) -> tuple[int, int] | None:
    """Return offset and length of what is asked for; None for everything.

    What is no range, or several, is passed over, as the RFC wants. Raises RangeNotSatisfiable.
    """
    match = _RANGE.fullmatch((header or "").strip())
    if match is None or match["first"] == match["last"] == "":
        return None
    if match["first"] == "":
        first, last = max(total_bytes - int(match["last"]), 0), total_bytes - 1
        is_there = int(match["last"]) > 0 and total_bytes > 0
    else:
        first, last = int(match["first"]), min(int(match["last"] or total_bytes), total_bytes - 1)
        if match["last"] and int(match["last"]) < first:
            return None
        is_there = first < total_bytes
    if not is_there:
        text = f"The range '{header}' is not there; the stream has {total_bytes} bytes."
        raise RangeNotSatisfiable(text)
    return first, last - first + 1
