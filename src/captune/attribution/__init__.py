"""Maps for the words of a caption and for a class: where on the image a model found them.

The room has the name of its function, and is called as it: `captune.explain(images)` is
`api.explain`, whether or not something was imported from here before.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captune.attribution.explanation import Explanation


class _Room(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> list[Explanation]:
        from captune.attribution.api import explain

        return explain(*args, **options)


sys.modules[__name__].__class__ = _Room
