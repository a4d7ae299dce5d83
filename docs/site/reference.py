"""The reference pages: options out of the command line's parser, Python out of docstrings.

Nothing is described here: what a page says is what `--help` and `help()` say.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from captune.cli import build_parser
from captune.cli.commands import help_texts

_STATED_DEFAULT = re.compile(r" \(default: [^()]*\)$")
# a docstring's line about an argument, a field or what is raised, such as "images, captions: ..."
_ABOUT = re.compile(r"^(?P<names>[a-z_]\w*(?:, [a-z_]\w*)*): (?P<text>.*)")


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, in the order of `captune --help`."""
    actions = build_parser()._actions
    (subparsers,) = (a for a in actions if isinstance(a, argparse._SubParsersAction))
    return dict(subparsers.choices)


def write_commands(out: Path, guides: Path) -> None:
    """A page for each command, and commands/index.md. guides: the folder of the guides."""
    out = out / "commands"
    out.mkdir(parents=True)
    parsers = commands()
    rows = []
    for name, parser in parsers.items():
        (out / f"{name}.md").write_text(_command_page(name, parser, guides), encoding="utf-8")
        rows.append(f"| [`captune {name}`]({name}.md) | {escaped(help_texts()[name]['help'])} |")
    index = [
        "# Commands",
        "",
        "Every option of every command, as `captune COMMAND --help` prints it. In Python the "
        "functions of the same names take the same options: `--batch-size 8` is `batch_size=8`.",
        "",
        *_table(("command", "what it does"), rows),
        *_toctree(parsers),
    ]
    (out / "index.md").write_text("\n".join(index), encoding="utf-8")


def _command_page(name: str, parser: argparse.ArgumentParser, guides: Path) -> str:
    lines = [f"# captune {name}", "", escaped(_sentence(help_texts()[name]["help"])), ""]
    if (guides / f"{name}.md").is_file():
        lines += [f"Guide: [](../{name}.md)", ""]
    lines += ["```", _usage(name, parser), "```", ""]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if not isinstance(a, argparse._HelpAction)]
        if actions:
            title = {"positional arguments": "arguments"}.get(group.title or "", group.title or "")
            lines += [f"## {title.capitalize()}", "", *_options_table(actions)]
    lines += ["## Examples", "", "```", inspect.cleandoc(help_texts()[name]["examples"]), "```", ""]
    return "\n".join(lines)


def _options_table(actions: list[argparse.Action]) -> list[str]:
    """A row for each; the column of defaults only where one of them has a default."""
    rows = [[_code(_typed(a)), _meaning(a), _default(a)] for a in actions]
    width = 3 if any(default for *_, default in rows) else 2
    first = "option" if actions[0].option_strings else "argument"
    headings = (first, "meaning", "default")[:width]
    return _table(headings, [f"| {' | '.join(row[:width])} |" for row in rows])


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    """What has to be typed, in one line; the options that may be left out are in the table."""
    words = [f"captune {name}"]
    for action in sorted(parser._actions, key=lambda action: bool(action.option_strings)):
        if not action.option_strings:
            ends = {"?": "[{}]", "*": "[{} ...]", "+": "{} [...]"}
            words.append(ends.get(str(action.nargs), "{}").format(_typed(action)))
        elif action.required:
            words.append(_typed(action))
    return " ".join([*words, "[options]"])


def _typed(action: argparse.Action) -> str:
    """`--csv FILE`, or the name of a positional argument."""
    if action.nargs == 0:
        value = ""
    elif action.metavar is not None:
        value = str(action.metavar)
    elif action.choices is not None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        value = action.dest.upper().replace("_", "-")
    return " ".join(filter(None, [", ".join(action.option_strings), value]))


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "") % {"default": action.default, "prog": "captune"}
    text = escaped(_STATED_DEFAULT.sub("", text))
    if action.choices is not None and action.metavar is not None:
        text += f" ({', '.join(f'`{choice}`' for choice in action.choices)})"
    return text


def _default(action: argparse.Action) -> str:
    if action.required:
        return "must be given"
    if action.default in (None, False, [], argparse.SUPPRESS):
        return ""
    return _code(action.default)


def write_python(out: Path, modules: dict[str, str]) -> None:
    """A page for each module's public names (`__all__`), and python/index.md."""
    out = out / "python"
    out.mkdir(parents=True)
    for name in modules:
        text = "\n".join(_module_page(import_module(name)))
        (out / f"{name}.md").write_text(text, encoding="utf-8")
    index = [
        "# Python",
        "",
        "The public names. What is not here may change without notice.",
        "",
        *_table(
            ("module", "what is in it"), [f"| [`{m}`]({m}.md) | {w} |" for m, w in modules.items()]
        ),
        *_toctree(modules),
    ]
    (out / "index.md").write_text("\n".join(index), encoding="utf-8")


def _module_page(module: ModuleType) -> Iterator[str]:
    yield from (f"# {module.__name__}", "", *prose(inspect.getdoc(module) or ""))
    options_of = commands()
    names = [name for name in module.__all__ if not name.startswith("_")]
    values = {name: getattr(module, name) for name in names}
    functions = {n: v for n, v in values.items() if isinstance(v, FunctionType)}
    classes = {n: v for n, v in values.items() if inspect.isclass(v)}
    for title, members in (("Functions", functions), ("Classes", classes)):
        if members:
            yield from (f"## {title}", "")
        for name, value in members.items():
            yield from (f"### {name}", "")
            yield from _described(name, value)
            if module.__name__ == "captune" and name in options_of:
                yield from (f"All options: [`captune {name}`](../commands/{name}.md)", "")
            if inspect.isclass(value):
                yield from _members(value)
    others = [name for name in names if name not in functions and name not in classes]
    if others:
        yield from ("## Other names", "")
        yield from _table(("name", "value"), [f"| `{n}` | {_code(values[n])} |" for n in others])


def _members(owner: type) -> Iterator[str]:
    """The public methods and properties that the class itself defines, as a list of sections."""
    for name, raw in vars(owner).items():
        if name.startswith("_"):
            continue
        if isinstance(raw, property | cached_property):
            yield from (f"#### {owner.__name__}.{name}", "")
            yield from prose(inspect.getdoc(raw) or "")
        elif isinstance(raw, FunctionType | classmethod | staticmethod):
            yield from (f"#### {owner.__name__}.{name}()", "")
            yield from _described(name, getattr(owner, name))


def _described(name: str, value: Callable[..., Any]) -> Iterator[str]:
    signature = _signature(value)
    if signature is not None:
        yield from ("```python", f"{name}{signature}", "```", "")
    yield from prose(inspect.getdoc(value) or "")


def _signature(value: Callable[..., Any]) -> str | None:
    """Its arguments, one a line where they do not fit into one; None where it has none."""
    try:
        signature = inspect.signature(value)
    except ValueError:  # a class that C code initialises, such as an exception
        return None
    text = _readable(str(signature))
    if len(text) <= 80:
        return text
    kinds = inspect.Parameter
    lines, marked = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is kinds.VAR_POSITIONAL:
            marked = True
        if parameter.kind is kinds.KEYWORD_ONLY and not marked:
            lines.append("    *,")
            marked = True
        lines.append(f"    {_readable(str(parameter))},")
    returns = signature.return_annotation
    end = "" if returns is inspect.Signature.empty else f" -> {_readable(str(returns))}"
    return "\n".join(["(", *lines, f"){end}"])


def _readable(text: str) -> str:
    """A signature without the quotes of its annotations and the addresses of its defaults."""
    text = re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", text)
    text = re.sub(r"ForwardRef\('([^']*)'\)", r"\1", text)
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


def _code(text: object) -> str:
    """A code span that may stand in a table."""
    return f"`{text}`".replace("|", r"\|")


def prose(docstring: str) -> list[str]:
    """A docstring as Markdown: paragraphs, indented code, and a list item for each `name: ...`."""
    lines: list[str] = []
    for place, block in enumerate(re.split(r"\n\s*\n", docstring.strip("\n"))):
        rows = block.splitlines()
        if rows and all(row.startswith("    ") for row in rows):
            lines += ["```python", *(row[4:] for row in rows), "```", ""]
            continue
        for row in rows:
            about = _ABOUT.match(row) if place else None  # the first line says what it is
            if about:
                names = ", ".join(f"`{name}`" for name in about["names"].split(", "))
                lines.append(f"- {names}: {escaped(about['text'])}")
            else:
                # a line that goes on belongs to the item above it
                lines.append(escaped(row.strip()))
        lines.append("")
    return lines


def escaped(text: str) -> str:
    """Text that means in Markdown what it says, also in a table; code spans stay code."""
    parts = re.split(r"(`[^`]+`)", text)
    for place, part in enumerate(parts):
        if place % 2:
            parts[place] = part.replace("|", r"\|")
        else:
            parts[place] = re.sub(r"([\\`*_{}\[\]<>|~#$^])", r"\\\1", part)
    return "".join(parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _table(headings: tuple[str, ...], rows: list[str]) -> list[str]:
    return [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings), *rows, ""]


def _toctree(names: Any) -> list[str]:
    return ["```{toctree}", ":hidden:", "", *names, "```", ""]
