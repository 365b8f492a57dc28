"""A table of hashes answers as a dict does, in a fraction of its memory; what is mapped is never kept."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops_utils.compact import Mapped, Places

HASHES = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.tuples(st.one_of(HASHES, st.integers(0, 5).map(lambda i: i << 40)), st.integers(0, 2**50))))
def test_it_answers_as_a_dict_does(entries):
    table, wanted = Places(), {}
    for found, number in entries:
        assert table.add(found, number) == (found not in wanted)
        wanted.setdefault(found, number)
    assert len(table) == len(wanted)
    assert all(table.get(found) == number for found, number in wanted.items())
    assert all(table.get(found + 1) is None for found in wanted if found + 1 not in wanted and found < 2**63 - 1)


def test_it_grows_and_stays_a_fraction_of_a_set():
    table, keys = Places(), [f"conversation-train-{i:05d}" for i in range(50_000)]
    assert all(table.add(hash(key), i) for i, key in enumerate(keys))
    assert not any(table.add(hash(key)) for key in keys)
    assert [table.get(hash(key)) for key in keys] == list(range(50_000))
    held = sys.getsizeof(table.hashes) + sys.getsizeof(table.numbers)
    assert held < 50_000 * 45 < (sys.getsizeof(set(keys)) + sum(map(sys.getsizeof, keys))) / 2


def test_what_is_mapped_is_made_when_asked_for():
    made = []
    mapped = Mapped(lambda i: made.append(i) or i * i, range(10))
    assert len(mapped) == 10 and not made
    assert mapped[3] == 9 and mapped[-1] == 81 and made == [3, 9]
    assert list(mapped[2:4]) == [4, 9]
    with pytest.raises(IndexError):
        mapped[10]
