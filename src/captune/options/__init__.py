"""One dataclass a job: the Python API, the command line and recipes read the same definition.

Each is loaded when first used: a command waits for its own options alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captune.options.attribution import ExplainOptions, FaithfulOptions
    from captune.options.base import check_pass
    from captune.options.captioning import CaptionerOptions, CaptionOptions
    from captune.options.pages import (
        AppOptions,
        CiteOptions,
        DemoOptions,
        PushOptions,
        ReportOptions,
        ReproduceOptions,
        VerifyOptions,
    )
    from captune.options.recognition import ClassifyOptions, EmbedOptions, PromptsOptions
    from captune.options.scoring import CompareOptions, MetricOptions, RankOptions, ScoreOptions
    from captune.options.shards import ShardsOptions
    from captune.options.tuning import TuneOptions

_HOMES = {
    **dict.fromkeys(("ExplainOptions", "FaithfulOptions"), "attribution"),
    **dict.fromkeys(("check_pass",), "base"),
    **dict.fromkeys(("CaptionerOptions", "CaptionOptions"), "captioning"),
    **dict.fromkeys(
        (
            "AppOptions",
            "CiteOptions",
            "DemoOptions",
            "PushOptions",
            "ReportOptions",
            "ReproduceOptions",
            "VerifyOptions",
        ),
        "pages",
    ),
    **dict.fromkeys(("ClassifyOptions", "EmbedOptions", "PromptsOptions"), "recognition"),
    **dict.fromkeys(("CompareOptions", "MetricOptions", "RankOptions", "ScoreOptions"), "scoring"),
    "ShardsOptions": "shards",
    "TuneOptions": "tuning",
}

__all__ = [
    "AppOptions",
    "CaptionOptions",
    "CaptionerOptions",
    "CiteOptions",
    "ClassifyOptions",
    "CompareOptions",
    "DemoOptions",
    "EmbedOptions",
    "ExplainOptions",
    "FaithfulOptions",
    "MetricOptions",
    "PromptsOptions",
    "PushOptions",
    "RankOptions",
    "ReportOptions",
    "ReproduceOptions",
    "ScoreOptions",
    "ShardsOptions",
    "TuneOptions",
    "VerifyOptions",
    "check_pass",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
