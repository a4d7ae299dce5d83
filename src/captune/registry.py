"""Things by name: one file each in a package of ours, or an entry point of a third party's."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from captune.errors import UserError
from captune_metrics.display import did_you_mean
from captune_metrics.plugins import plugins_of, source_of

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Registry(Generic[Thing]):
    """A package whose files each end in `ATTRIBUTE = ...`, and a group of entry points.

    package, folders: its `__name__` and `__path__`. A file `cross_attention.py` is the name
    `cross-attention`; one that begins with _ is what several files share. noun: for sentences.
    """

    package: str
    folders: Iterable[str]
    attribute: str
    group: str
    noun: str

    def names(self) -> list[str]:
        """All that there are, without importing any."""
        files = (module.name for module in pkgutil.iter_modules(self.folders))
        own = (name.replace("_", "-") for name in files if not name.startswith("_"))
        return sorted({*own, *plugins_of(self.group)})

    def sources(self) -> dict[str, str]:
        """Name -> the package that brings it, without importing any."""
        plugins = plugins_of(self.group)
        return {
            name: source_of(plugins[name]) if name in plugins else "captune"
            for name in self.names()
        }

    def require(self, name: str) -> None:
        """Raise UserError for an unknown name, without importing any."""
        names = self.names()
        if name not in names:
            known = ", ".join(names) + did_you_mean(name, names)
            raise UserError(f'{self.noun} "{name}" is not known; choose among {known}')

    def get(self, name: str) -> Thing:
        """The one called `name`. Raises UserError for an unknown one."""
        plugin = plugins_of(self.group).get(name)
        if plugin is not None:
            loaded: Thing = plugin.load()
            return loaded
        self.require(name)
        module: Any = import_module(f"{self.package}.{name.replace('-', '_')}")
        found: Thing = getattr(module, self.attribute)
        return found


def _own(package: str, attribute: str, group: str, noun: str) -> Registry[Any]:
    """The registry of a package of captune, which is not imported for its names."""
    folder = Path(__file__).parent.joinpath(*package.split(".")[1:])
    return Registry(package, [str(folder)], attribute, group, noun)


TUNING_METHODS = _own("captune.captioning.tuning", "METHOD", "captune.tuning", "method")
BRIDGES = _own("captune.captioning.bridge", "BRIDGE", "captune.bridges", "bridge")
MAP_METHODS = _own("captune.attribution.methods", "METHOD", "captune.explain", "method")
# a group of entry points; captune's own are in models.backends
MODEL_PLUGINS = "captune.models"
