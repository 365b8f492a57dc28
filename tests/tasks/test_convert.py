"""Somebody else's CSV: split as asked, or refused with the line to mend."""

import csv

import pytest

from slmops_utils.records import read_records, write_records
from slmops_utils.tasks.convert import MOST_LISTED, convert_csv


def save(path, rows, header=("text", "category"), encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def table(tmp_path):
    return save(tmp_path / "rows.csv", [(f"question {i}", ("lost_card", "late fee")[i % 2]) for i in range(20)])


def contents(examples) -> list[str]:
    return [e.messages[-1]["content"] for e in examples]


def convert(path, **counts):
    return convert_csv(path, "text", "category", counts or {"train": -1})


def test_splits_have_their_sizes_and_share_no_row(table):
    splits = convert(table, train=12, pool=5, test=-1)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 12, "pool": 5, "test": 3}
    everything = [text for rows in splits.values() for text in contents(rows)]
    assert sorted(everything) == sorted(f"question {i}" for i in range(20))
    ids = [e.id for rows in splits.values() for e in rows]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("order", [("pool", "test", "train"), ("test", "pool", "train"), ("test", "train", "pool")])
def test_what_is_left_is_what_the_other_splits_leave_wherever_it_stands(table, order):
    wanted = {"pool": -1, "test": 4, "train": 6}
    splits = convert(table, **{name: wanted[name] for name in order})
    assert {name: len(rows) for name, rows in splits.items()} == {"pool": 10, "test": 4, "train": 6}


def test_the_seed_decides_the_rows(table):
    first, again, other = (convert_csv(table, "text", "category", {"train": 10}, seed)["train"] for seed in (1, 1, 2))
    assert first == again
    assert contents(first) != contents(other)


def test_the_pool_has_no_reference_and_the_rest_keep_the_label_of_their_row(table):
    splits = convert(table, pool=6, train=14)
    assert all(e.reference is None for e in splits["pool"])
    for e in splits["train"]:
        assert e.reference == ("lost card", "late fee")[int(e.messages[-1]["content"].split()[1]) % 2]


def test_what_is_converted_can_be_written_and_read(table, tmp_path):
    train = convert(table)["train"]
    write_records(tmp_path / "train.jsonl", train)
    assert list(read_records(tmp_path / "train.jsonl")) == train


def test_a_missing_column_is_named_beside_those_there_are(table):
    with pytest.raises(ValueError, match="no column label; there are text, category"):
        convert_csv(table, "text", "label", {"train": 1})


def test_every_empty_cell_is_reported_with_its_line(tmp_path):
    path = save(tmp_path / "holes.csv", [("a", "x"), (" ", "x"), ("b\nb", "x"), ("c", ""), ("d",)])
    with pytest.raises(ValueError) as caught:
        convert(path)
    # the third row spans two lines, so the fourth ends on line 6
    expected = [f"{path}:3: empty text", f"{path}:6: empty category", f"{path}:7: empty category"]
    assert str(caught.value).splitlines() == expected


def test_more_rows_than_there_are_cannot_be_asked_for(table):
    with pytest.raises(ValueError, match="21 rows asked for, the file has 20"):
        convert(table, train=11, test=10)
    assert len(convert(table, train=10, test=10)["test"]) == 10


@pytest.mark.parametrize(("kinds", "listed"), [(MOST_LISTED, True), (MOST_LISTED + 1, False)])
def test_labels_are_listed_in_the_prompt_only_when_they_are_few(tmp_path, kinds, listed):
    path = save(tmp_path / "many.csv", [(f"text {i}", f"label_{i:02d}") for i in range(kinds)])
    instruction = convert(path)["train"][0].messages[0]
    assert instruction["role"] == "system"
    assert ("label 00, label 01" in instruction["content"]) == listed


def test_a_byte_order_mark_from_a_spreadsheet_is_no_part_of_the_first_column(tmp_path):
    path = save(tmp_path / "excel.csv", [("déjà vu", "x")], encoding="utf-8-sig")
    assert contents(convert(path)["train"]) == ["déjà vu"]


def test_a_text_that_stands_there_twice_is_taken_once_so_that_no_split_copies_another(tmp_path):
    path = save(
        tmp_path / "twice.csv", [("Where is my card?", "lost"), (" Where is my card? ", " lost "), ("Fee?", "fee")]
    )
    splits = convert_csv(path, "text", "category", {"train": 1, "test": -1})
    assert sorted(contents(splits["train"] + splits["test"])) == ["Fee?", "Where is my card?"]
    assert {e.reference for rows in splits.values() for e in rows} == {"lost", "fee"}


def test_a_file_that_is_not_utf_8_is_refused_with_its_line(tmp_path):
    path = save(tmp_path / "latin.csv", [("plain", "a"), ("caf\xe9", "b")], encoding="latin-1")
    with pytest.raises(ValueError, match=r"latin.csv:3: not UTF-8"):
        convert(path)
