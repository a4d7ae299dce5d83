"""`captune app`: the jobs in a browser, on this machine."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from typing import Any

from captune.cli.terminal import note, print_json
from captune.errors import MissingExtra
from captune.options import AppOptions
from captune.options.codec import add_options, read_options

HELP = "the same jobs in a local web page: drop images, type labels, hover over words"
EXAMPLES = """  captune app
  captune app runs/ --open
  captune app --port 8000
  captune app --host 0.0.0.0 --shared --name images.example.org

It needs an extra: pip install 'captune[app]'. Nothing leaves this machine. Only who has the address
that it prints gets in: the token in it is new with every start. Other machines reach it with
--shared alone. Ctrl-C ends it, a second one at once; dropped images are removed then."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, AppOptions)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    options = read_options(AppOptions, arguments)
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtra("captune app", "app")
    from captune.webapp.server import Running, serve

    def started(app: Running) -> None:
        if arguments.json:
            said: dict[str, Any] = {"command": "app", "run": None, "images": 0, "skipped": []}
            print_json({**said, "url": app.address, "host": options.host})
            sys.stdout.flush()
        note(f"captune is at {app.address}  (Ctrl-C ends it)", quiet=arguments.json)
        if options.shared:
            note(
                "--shared: whoever has that address can use the app, and what they type is not"
                f" opened; behind a proxy it is https://{options.name[0]}/?token={app.entry.token}",
                quiet=arguments.json,
            )
        if options.open:
            import webbrowser

            webbrowser.open(app.opening())

    serve(options, started)
    return 0
