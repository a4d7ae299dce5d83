"""What all pages share: one file that opens offline, where every text is text and never markup."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captune.files import whole_file


def write_template(name: str, page: Path, content: Mapping[str, Any]) -> None:
    """Fill the template `name` with `content` and write it; a name that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("captune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["printable"] = encodable
    html = environment.get_template(name).render(**content)
    with whole_file(page) as file:
        file.write(html)


def encodable(text: str) -> str:
    """File names that are not UTF-8 are shown escaped; HTML has no form for them."""
    return text.encode("utf-8", "backslashreplace").decode()


def percent(share: float, digits: int = 0) -> str:
    """0.1234 -> "12 %"."""
    return f"{100 * share:.{digits}f} %"
