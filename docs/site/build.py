"""The documentation site, out of the Markdown files of the repository and captune itself.

    python docs/site/build.py build/site

stages the pages in a temporary folder and lets Sphinx (the extra `docs`) make HTML of them. A link
or an anchor that leads nowhere is an error, and so is every other warning.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import reference
from sources import Contents, copy_pages

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def stage(out: Path) -> None:
    """Write every page of the site to the folder `out`, as Markdown."""
    contents = Contents.read(HERE / "pages.toml")
    copy_pages(ROOT, contents, reference.commands(), out)
    reference.write_commands(out, ROOT / "docs")
    reference.write_python(out, contents.modules)


def build(pages: Path, out: Path) -> int:
    """Let Sphinx make HTML of the staged `pages`; returns its exit status, 0 without a warning."""
    from sphinx.cmd.build import build_main

    flags = ["-b", "html", "-q", "-W", "--keep-going", "--fresh-env"]
    return int(build_main([*flags, "-c", str(HERE), str(pages), str(out)]))


def main() -> int:
    """Build the site into the folder that is named on the command line."""
    if len(sys.argv) != 2:
        print("give the folder to write: python docs/site/build.py build/site", file=sys.stderr)
        return 2
    out = Path(sys.argv[1])
    if (out / "index.html").is_file():
        shutil.rmtree(out)  # pages that are gone must not stay
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages"
        stage(pages)
        status = build(pages, out)
    shutil.rmtree(out / ".doctrees", ignore_errors=True)
    if status == 0:
        print(f"open {out / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
