"""How likely people agree with a caption: python packages/captune-lite/agreement.py [CAPTIONER]

Captions images that people described (--images DIR --captions FILE) with beam 5, as `captune
caption` does, and writes agreement.json beside the captioner, by default the one that ships.
Prints the figures as one JSON object. A thousand images take about half an hour of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from captune.captioning.agreement import features_of, fit_agreement
from captune.captioning.caption import Caption
from captune.captioning.captioner import Captioner
from captune.captioning.checkpoint import write_beside
from captune.captioning.dataset import read_dataset
from captune.captioning.generate import GenerationSettings
from captune.captioning.settings import AGREEMENT
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.pipeline import Encoding
from captune.images import find_images
from captune.runs.records import json_value

SHIPPED = Path(__file__).parent / "captune_lite" / "captioner"
BEAM = 5


def main(words: list[str] | None = None) -> int:
    """Caption, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captioner", type=Path, nargs="?", default=SHIPPED, metavar="CAPTIONER")
    parser.add_argument("--images", required=True, metavar="DIR")
    parser.add_argument("--captions", type=Path, required=True, metavar="FILE")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="a sample (0: all)")
    arguments = parser.parse_args(words)
    try:
        found = find_images([arguments.images])
        data = read_dataset(arguments.captions, found, limit=arguments.limit)
        captioner = Captioner.from_pretrained(arguments.captioner)
        with FeatureCache() as cache:
            how = GenerationSettings(BEAM, encoding=Encoding(cache))
            batches = captioner.stream(data.images, how)
            written = [one for batch in batches for one in batch]
    except UserError as error:
        print(f"agreement.py: {error}", file=sys.stderr)
        return 2
    own = {id: one for id, one in zip(data.ids, written, strict=True) if isinstance(one, Caption)}
    fitted = fit_agreement(
        {
            id: features_of(
                one.words, one.mean_log_probability, next(iter(one.candidates or []), None)
            )
            for id, one in own.items()
        },
        {id: one.caption for id, one in own.items()},
        data.references,
        beam=BEAM,
    )
    if fitted is None:
        print("agreement.py: too few images with several captions", file=sys.stderr)
        return 2
    write_beside(arguments.captioner / AGREEMENT, fitted)
    print(json.dumps(json_value(fitted), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
