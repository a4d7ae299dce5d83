"""How results show themselves in a notebook. The lowest room knows no page: it asks by name.

`captune.as_html` is loaded when a notebook asks for it, as every public name is when first used.
"""

from __future__ import annotations


class InNotebooks:
    """A run or a result that a notebook shows as a table with pictures."""

    def _repr_html_(self) -> str:
        import captune

        return captune.as_html(self)
