"""What all pages share: one file that opens offline, where every text is text and never markup."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from captune.files import whole_file
from captune.printing import printable, printable_lines
from captune.text import percent


def write_template(name: str, page: Path, content: Mapping[str, Any]) -> None:
    """Fill the template `name` with `content` and write it."""
    with whole_file(page) as file:
        file.write(filled(name, content))


def filled(name: str, content: Mapping[str, Any], package: str = "captune.pages") -> str:
    """The template `name` of a package, filled with `content`; what is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        # whatever a template forgets: no text of others turns the words around it
        finalize=lambda value: value if hasattr(value, "__html__") else shown(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["embedded"] = embedded
    environment.filters["printable"] = _printable
    return environment.get_template(name).render(**content)


def _printable(text: Any) -> Any:
    return text if hasattr(text, "__html__") else printable(text)


def shown(content: Any) -> Any:
    """What a script of a page will show: the texts in lists and mappings, printable."""
    if isinstance(content, str):
        return printable_lines(content)
    if isinstance(content, Mapping):
        return {name: shown(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [shown(value) for value in content]
    return content


def embedded(content: Any) -> Markup:
    """JSON inside a script element, which nothing in it can end. Raises ValueError for NaN."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for sign in "<>&'":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704  # what could be markup is escaped above
