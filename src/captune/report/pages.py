"""What all pages share: one file that opens offline, where every text is text and never markup."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from captune.files import whole_file


def write_template(name: str, page: Path, content: Mapping[str, Any]) -> None:
    """Fill the template `name` with `content` and write it."""
    with whole_file(page) as file:
        file.write(filled(name, content))


def filled(name: str, content: Mapping[str, Any], package: str = "captune.report") -> str:
    """The template `name` of a package, filled with `content`; what is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["printable"] = encodable
    return environment.get_template(name).render(**content)


def encodable(text: str) -> str:
    """File names that are not UTF-8 are shown escaped; HTML has no form for them."""
    return text.encode("utf-8", "backslashreplace").decode()


def percent(share: float, digits: int = 0) -> str:
    """0.1234 -> "12 %"."""
    return f"{100 * share:.{digits}f} %"


def one_line(text: str) -> str:
    """Text for a page: line breaks are spaces; half characters and controls are escaped."""
    words = " ".join(text.split())
    return "".join(
        sign.encode("unicode_escape").decode()
        if unicodedata.category(sign) in ("Cc", "Cs")
        else sign
        for sign in words
    )


def embedded(content: Any) -> Markup:
    """JSON inside a script element, which nothing in it can end. Raises ValueError for NaN."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for sign in "<>&'":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704  # what could be markup is escaped above
