"""One dataclass a job: the Python API, the command line and recipes read the same definition."""

from captune.options.attribution import ExplainOptions, FaithfulOptions
from captune.options.base import check_pass
from captune.options.captioning import CaptionerOptions, CaptionOptions, TuneOptions
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
    "TuneOptions",
    "VerifyOptions",
    "check_pass",
]
