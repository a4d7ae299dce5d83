"""One dataclass a job: the Python API, the command line and recipes read the same definition."""

from captune.options.app import AppOptions
from captune.options.caption import CaptionerOptions, CaptionOptions
from captune.options.classify import ClassifyOptions
from captune.options.compare import CompareOptions
from captune.options.embed import EmbedOptions
from captune.options.explain import ExplainOptions
from captune.options.faithful import FaithfulOptions
from captune.options.fields import option, require_at_least
from captune.options.prompts import PromptsOptions
from captune.options.rank import RankOptions
from captune.options.report import ReportOptions
from captune.options.reproduce import ReproduceOptions
from captune.options.score import MOST_RESAMPLES, MetricOptions, ScoreOptions
from captune.options.shared import ImageOptions, ModelOptions, check_pass
from captune.options.tune import TuneOptions

__all__ = [
    "MOST_RESAMPLES",
    "AppOptions",
    "CaptionOptions",
    "CaptionerOptions",
    "ClassifyOptions",
    "CompareOptions",
    "EmbedOptions",
    "ExplainOptions",
    "FaithfulOptions",
    "ImageOptions",
    "MetricOptions",
    "ModelOptions",
    "PromptsOptions",
    "RankOptions",
    "ReportOptions",
    "ReproduceOptions",
    "ScoreOptions",
    "TuneOptions",
    "check_pass",
    "option",
    "require_at_least",
]
