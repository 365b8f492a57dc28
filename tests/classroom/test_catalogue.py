"""Teachers and students to choose from: the sums are right, and the widget follows its controls."""

import pytest

from slmops_utils.classroom.catalogue import CATALOGUE, Published, bill, break_even, explore, overview, pair_html
from slmops_utils.synthesize.presets import OPEN, Price

TEACHER = Published("T", "teacher", 10e9, "x", OPEN, Price(2.0, 8.0, "a page"))


def test_a_bill_is_tokens_times_price():
    assert bill(TEACHER, 1000, 500, 250) == pytest.approx(1.0 + 2.0)
    assert bill(CATALOGUE[1], 1000, 500, 250) is None


def test_break_even_is_where_the_lines_cross():
    n = break_even(0.002, 0.0005, 30.0)
    assert n == pytest.approx(20_000) and 0.002 * n == pytest.approx(30 + 0.0005 * n)
    assert break_even(0.001, 0.001, 30.0) is None


def test_the_table_has_a_line_for_each_and_says_what_is_not_published():
    lines = overview().splitlines()
    assert len(lines) == len(CATALOGUE) + 2
    assert "| DeepSeek V3 | teacher | 671 B | 1.34 TB |" in overview() and "not published" in overview()


def test_a_pair_is_shown_as_text():
    said = pair_html(Published("<b>", "teacher", None, "<script>", OPEN, None, "<img src=x>"), TEACHER, 16, 10, (1, 1))
    assert "<img" not in said and "&lt;img" in said and "no list price" in said and "20 GB" in said


def test_the_widget_follows_its_controls():
    widget = explore(rows=2000, tokens=(1000, 0))
    controls, view = widget.children
    teacher, student, bits, rows = controls.children
    assert "$1.12" in view.value and "1.34 TB" in view.value
    rows.value = 4000
    assert "$2.24" in view.value
    bits.value = "4-bit"
    student.value = "Phi-4-mini-instruct"
    assert "336 GB against 1.9 GB" in view.value
    teacher.value = "GPT-4.1"
    assert "not published" in view.value and "$8.00" in view.value
