"""`captune app`: the jobs in a browser, on this machine."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from captune.cli.arguments import add_options, read_options
from captune.cli.terminal import note, print_json
from captune.options import AppOptions

HELP = "the same jobs in a local web page: drop photos, type labels, hover over words"
EXAMPLES = """  captune app
  captune app runs/ --open
  captune app --port 8000
  captune app --host 0.0.0.0

It needs an extra: pip install 'captune[app]'. Nothing leaves this machine, and no other machine
reaches it unless --host says so. Ctrl-C ends it; dropped photos are removed then."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, AppOptions)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from captune.webapp.serving import Running, serve

    options = read_options(AppOptions, arguments)

    def started(app: Running) -> None:
        if arguments.json:
            said: dict[str, Any] = {"command": "app", "run": None, "images": 0, "skipped": []}
            print_json({**said, "url": app.url, "host": options.host})
            sys.stdout.flush()
        note(f"captune is at {app.url}  (Ctrl-C ends it)", quiet=arguments.json)
        if not options.is_private:
            note(
                f"--host {options.host}: other machines may reach it; whoever does can use it, and"
                " folders that they type are not opened",
                quiet=arguments.json,
            )
        if options.open:
            import webbrowser

            webbrowser.open(app.url)

    serve(options, started)
    return 0
