"""JSON beside a model, which somebody else may have written; no library is imported for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from captune.errors import UserError
from captune.files import json_kind, printable, read_regular

_LARGEST_JSON = 8 * 2**20


def read_object(path: Path, most_bytes: int = _LARGEST_JSON) -> dict[str, Any]:
    """The object of a JSON file beside a model.

    Raises UserError for what cannot be read, is too large, nested too deeply, or no object.
    """
    shown = printable(str(path))
    try:
        content = json.loads(read_regular(path, most_bytes))
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror or error})") from None
    except RecursionError:
        raise UserError(f"{shown}: is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{shown}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{shown}: holds {json_kind(content)}, and an object was expected")
    return content
