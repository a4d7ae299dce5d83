from __future__ import annotations

import re

import pytest

from captune.pages.charts import curves_chart


@pytest.mark.parametrize("highest", [0.005, 0.011, 1.0, 123456.0, -0.00125])
def test_the_name_of_an_axis_lies_beside_its_longest_number(highest: float) -> None:
    points = [(1.0, 0.0), (2.0, highest)]
    chart = curves_chart([("a", points)], [], [], label="CIDEr-D", says="", from_zero=True)
    numbers = re.findall(r'class="tick end" x="([\d.]+)" [^>]*>([^<]+)<', chart)
    assert len(numbers) > 2
    assert 'translate(12 110.0) rotate(-90)">CIDEr-D<' in chart  # its letters end 4 px right of 12
    for end, number in numbers:
        assert float(end) - 6.5 * len(number) > 16, number
