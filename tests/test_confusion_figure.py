from __future__ import annotations

from pathlib import Path

import pytest

from captune.plots import confusion_figure, save_figure


def test_counts_stand_in_the_cells_of_a_small_table(tmp_path: Path) -> None:
    labels = ["<b>one</b> $x$", "two", "three"]
    figure = confusion_figure([[4, 0, 1], [0, 5, 0], [2, 2, 12]], labels, "Who is who")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["4", "1", "5", "2", "2", "12"]
    svg = save_figure(figure, tmp_path / "figure.svg").read_text()
    assert "&lt;b&gt;one&lt;/b&gt; $x$" in svg
    assert "Who is who" in svg


def test_a_large_table_has_colours_alone() -> None:
    many = 20
    counts = [[int(row == column) for column in range(many)] for row in range(many)]
    assert not confusion_figure(counts, [f"label {n}" for n in range(many)]).axes[0].texts


@pytest.mark.parametrize("counts", [[[1]], [[1, 2], [3, 4], [5, 6]], [1, 2]])
def test_counts_that_do_not_fit_are_refused(counts: list[object]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        confusion_figure(counts, ["one", "two"])
