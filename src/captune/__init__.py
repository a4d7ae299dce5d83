"""captune: teach frozen vision and language models your images, and see the evidence.

The public names are loaded when first used, so `import captune` is instant. Where things are:

cli, webapp        the command line and the local app call the jobs
jobs               classify, prompts, embed, tune, caption, score, ...: one module per verb
zeroshot, captioning, scoring, attribution    what the jobs compute
features, models, images, captions            what they read; features are cached
runs, pages, plots, tables.py                 what they leave; text.py: numbers and p values as text
captune_metrics    CIDEr, BLEU, ROUGE-L, intervals: a package of its own
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from captune.threads import settle_threads

__version__ = "0.1.0"

if TYPE_CHECKING:
    from captune.attribution.explanation import Explanation
    from captune.captioning.caption import Caption
    from captune.captioning.captioner import Captioner
    from captune.errors import UserError
    from captune.images import ImageFile, Skipped, find_images, open_image
    from captune.jobs import Result
    from captune.jobs.caption import caption
    from captune.jobs.cite import cite
    from captune.jobs.classify import classify
    from captune.jobs.compare import compare
    from captune.jobs.embed import embed
    from captune.jobs.explain import explain
    from captune.jobs.faithful import faithful
    from captune.jobs.prompts import prompts
    from captune.jobs.push import push
    from captune.jobs.rank import rank
    from captune.jobs.report import report
    from captune.jobs.score import score
    from captune.jobs.tune import tune
    from captune.jobs.verify import verify
    from captune.models.load import keep_models, load_model
    from captune.pages.notebook import as_html
    from captune.runs import Run, read_run
    from captune.zeroshot.classifier import Prediction, ZeroShotClassifier

_JOBS = (
    *("caption", "cite", "classify", "compare", "embed", "explain", "faithful"),
    *("prompts", "push", "rank", "report", "score", "tune", "verify"),
)
_HOMES = {name: f"captune.jobs.{name}" for name in _JOBS} | {
    "Caption": "captune.captioning.caption",
    "Captioner": "captune.captioning.captioner",
    "Explanation": "captune.attribution.explanation",
    "ImageFile": "captune.images",
    "Prediction": "captune.zeroshot.classifier",
    "Result": "captune.jobs",
    "Run": "captune.runs",
    "Skipped": "captune.images",
    "UserError": "captune.errors",
    "ZeroShotClassifier": "captune.zeroshot.classifier",
    "as_html": "captune.pages.notebook",
    "find_images": "captune.images",
    "keep_models": "captune.models.load",
    "load_model": "captune.models.load",
    "open_image": "captune.images",
    "read_run": "captune.runs",
}

__all__ = [
    "Caption",
    "Captioner",
    "Explanation",
    "ImageFile",
    "Prediction",
    "Result",
    "Run",
    "Skipped",
    "UserError",
    "ZeroShotClassifier",
    "__version__",
    "as_html",
    "caption",
    "cite",
    "classify",
    "compare",
    "embed",
    "explain",
    "faithful",
    "find_images",
    "keep_models",
    "load_model",
    "open_image",
    "prompts",
    "push",
    "rank",
    "read_run",
    "report",
    "score",
    "tune",
    "verify",
]


settle_threads()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'captune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
