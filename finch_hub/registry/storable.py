"""Values of foreign files, in a form that every database stores."""

from __future__ import annotations

import json
import math
from typing import Any

_MAX_LENGTH = 200


def make_storable(value: Any) -> Any:
    """Return a JSON value for people to read, in a form that every database stores.

    PostgreSQL stores no NUL, no half of a surrogate pair, and no infinity. Texts with other control characters, and
    values that are longer than a line, become short quotations, too.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) > _MAX_LENGTH or (isinstance(value, str) and not text.isprintable()):
        return ascii(text[:_MAX_LENGTH])
    if isinstance(value, list):
        return [make_storable(entry) for entry in value]
    if isinstance(value, dict):
        return {make_storable(name): make_storable(entry) for name, entry in value.items()}
    return value
