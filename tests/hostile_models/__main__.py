"""`python -m tests.hostile_models [WORD] [--all]`."""

from __future__ import annotations

import argparse
import sys

import tests.hostile_models as hostile


def main() -> int:
    """All of them, or those whose name holds a word."""
    parser = argparse.ArgumentParser(description=hostile.__doc__)
    parser.add_argument("word", nargs="?", default="", help="only those whose name holds it")
    parser.add_argument("--all", action="store_true", help="print what came of each")
    options = parser.parse_args()

    def tell(one: hostile.Outcome) -> None:
        if options.all or not one.is_as_it_must_be:
            mark = " " if one.is_as_it_must_be else "!"
            used = f"{one.seconds:5.1f} s {one.mebibytes:6.0f} MiB"
            print(f"{mark} {one.verdict:8} {used}  {one.case.name}: {one.said}", flush=True)

    outcomes = hostile.run_all(
        [case for case in hostile.HOSTILE if options.word in case.name], tell
    )
    print(hostile.table(outcomes))
    return 0 if all(one.is_as_it_must_be for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
