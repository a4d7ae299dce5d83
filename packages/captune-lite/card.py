"""Put measured scores into the model card: python packages/captune-lite/card.py RESULT.json

RESULT.json is what `python benchmarks/captioner.py ... --json` printed, or the result.json of its
--out, for one captioner. What stands between the marks `scores` in README.md is replaced, and
between the marks `agreement` what agreement.json beside the captioner says (--captioner).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CARD = Path(__file__).with_name("README.md")
SHIPPED = Path(__file__).parent / "captune_lite" / "captioner"
METRICS = ("cider", "bleu_4", "rouge_l")
NAMES = {
    "nearest": "nearest train image's caption",
    "consensus": "consensus of the ten nearest images' captions",
    "human": "one human caption against the other four",
    "shuffled": "this captioner, shown other images",
}


def main(words: list[str] | None = None) -> int:
    """Read, fill in, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path, metavar="RESULT.json")
    parser.add_argument("--card", type=Path, default=CARD, metavar="FILE")
    parser.add_argument("--captioner", type=Path, default=SHIPPED, metavar="FOLDER")
    arguments = parser.parse_args(words)
    result = json.loads(arguments.result.read_text(encoding="utf-8"))
    if len(result["captioners"]) != 1:
        print(f"card.py: {arguments.result}: must be of one captioner", file=sys.stderr)
        return 2
    parts = {"scores": tables(result)}
    agreement = arguments.captioner / "agreement.json"
    if agreement.is_file():
        parts["agreement"] = chances(json.loads(agreement.read_text(encoding="utf-8")))
    text = arguments.card.read_text(encoding="utf-8")
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
        if text.count(begin) != 1 or text.count(end) != 1:
            needed = f"{begin.strip()} and {end.strip()}, once each"
            print(f"card.py: {arguments.card}: needs {needed}", file=sys.stderr)
            return 2
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{part}{end}{rest.partition(end)[2]}"
    arguments.card.write_text(text, encoding="utf-8")
    return 0


def chances(agreement: Mapping[str, Any]) -> str:
    """How often people agree with captions of each chance, as Markdown."""
    found = agreement["reliability"]
    low, high = agreement["ece_interval"]
    lines = [
        f"{found['images']:,} validation images, each part by what was fitted on the other four"
        f" fifths. People agree with {found['accuracy']:.1%} of the captions. The chance is off by"
        f" {found['ece']:.1%} on average (ECE over 15 bins, 95% {low:.1%} to {high:.1%}; luck alone"
        f" would give {found['ece_floor']:.1%}). Its squared error (Brier) is"
        f" {agreement['brier']:.3f}, that of one chance for all {agreement['brier_of_rate']:.3f}.",
        "",
        "| chance | people agree | captions |",
        "|---|---|---|",
        *(
            f"| {one['confidence']:.0%} | {one['accuracy']:.0%} | {one['count']} |"
            for one in found["bins"]
            if one["count"]
        ),
        "",
    ]
    return "\n".join(lines).replace("%", " %")


def tables(result: Mapping[str, Any]) -> str:
    """Scores and differences, as Markdown."""
    (name,) = result["captioners"]
    rows = {row["name"].removeprefix(f"{name}, "): row for row in result["rows"]}
    how = "greedy" if result["beams"] == 1 else f"beam search of width {result['beams']}"
    lines = [
        f"{result['images']:,} validation images, {how}; 95 % bootstrap intervals over images."
        f" The captions of other images are those of {result['train_images']:,} train images.",
        "",
        "| captions | CIDEr-D | BLEU-4 | ROUGE-L | copied word for word | distinct | words |"
        " vocabulary |",
        "|---|---|---|---|---|---|---|---|",
        _row("**this captioner**", rows[name]),
        *(_row(said, rows[what]) for what, said in NAMES.items() if what in rows),
        "",
        "| this captioner is better than, by (paired) | CIDEr-D | BLEU-4 | ROUGE-L |",
        "|---|---|---|---|",
    ]
    for one in result["differences"]:
        cells = " | ".join(_number(one[id], "difference", "+.3f") for id in METRICS)
        lines.append(f"| {NAMES[one['against']]} | {cells} |")
    return "\n".join([*lines, ""])


def _row(said: str, row: Mapping[str, Any]) -> str:
    wording = row["wording"]
    cells = " | ".join(_number(row["scores"][id], "corpus", ".3f") for id in METRICS)
    return (
        f"| {said} | {cells} | {100 * wording['copied']:.1f} % | {100 * wording['distinct']:.1f} %"
        f" | {wording['mean_words']:.1f} | {wording['vocabulary']:,} |"
    )


def _number(found: Mapping[str, Any], what: str, form: str) -> str:
    if found["interval"] is None:
        return f"{found[what]:{form}}"
    low, high = found["interval"]
    return f"{found[what]:{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    sys.exit(main())
