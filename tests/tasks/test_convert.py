"""Somebody else's table: split as asked, or refused with the line to mend."""

import csv
import json

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from slmops_utils.__main__ import main
from slmops_utils.records import RecordErrors, read_records, write_records
from slmops_utils.tasks import MODULES, get_task, validate
from slmops_utils.tasks.convert import COLUMNS, MAPPINGS, MOST_LISTED, PREMISES, convert_csv
from slmops_utils.tasks.convert import convert as convert_any


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
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == expected


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


# ---- every task, from every kind of table

TURNS = [
    {"role": "user", "content": "My lamp is out."},
    {"role": "assistant", "content": "Which lamp?"},
    {"role": "user", "content": "The red one."},
]
REPLY = {"role": "assistant", "content": "Press the pin for 5 seconds."}
# task, columns, two rows, the reference and the messages (role and end of the content) of the first
TABLES = [
    ("nli", {"text": "body", "label": "desk"}, [("Where is my card?", "lost_card"), ("Why a fee?", "late fee")],
     "lost card", [("system", "late fee, lost card."), ("user", "Where is my card?")]),
    ("nli", {"premise": "P", "hypothesis": "H", "label": "L"},
     [("The fee is £5.", "There is a fee.", "Entailment"), ("The fee is £5.", "It is £6.", "contradiction")],
     "entailment", [("user", "Premise: The fee is £5.\nHypothesis: There is a fee.")]),
    ("qa", {"question": "Q", "context": "C", "answer": "A"},
     [("How long?", "It takes 5 days.", "5 days | five days"), ("How much?", "It costs £4.", "£4")],
     {"answers": ["5 days", "five days"]}, [("system", "It takes 5 days."), ("user", "How long?")]),
    ("qa", {"question": "Q", "options": "O", "answer": "A"},
     [("Which lamp?", "red | green | blue", "green"), ("Which key?", "left | right", "b")],
     {"choice": "B", "answers": ["green"]}, [("user", "Which lamp?\nA) red\nB) green\nC) blue")]),
    ("math", {"question": "Q", "answer": "A", "steps": "S", "context": "C"},
     [("What do 3 lines cost?", "£13.50", "3 x £4.50 = £13.50", "A line costs £4.50."), ("And 2?", "£9", "", "")],
     {"answer": "£13.50", "steps": "3 x £4.50 = £13.50"},
     [("system", "A line costs £4.50."), ("user", "What do 3 lines cost?")]),
    ("conversation", {"messages": "M", "context": "C"},
     [(json.dumps([*TURNS, REPLY]), "Pins reset lamps."), (json.dumps([TURNS[0], {**REPLY, "content": "Yes."}]), "")],
     REPLY["content"], [("system", "Pins reset lamps."), *((t["role"], t["content"]) for t in TURNS)]),
    ("conversation", {"messages": "M", "reply": "R", "required": "yes", "forbidden": "no"},
     [(json.dumps(TURNS), "Hold it 5 s.", '[["5 s", "5 seconds"], "hold"]', "6 s"),
      (json.dumps(TURNS[:1]), "Yes.", "", "")],
     {"reply": "Hold it 5 s.", "required": [["5 s", "5 seconds"], ["hold"]], "forbidden": ["6 s"]},
     [(t["role"], t["content"]) for t in TURNS]),
    ("summarization", {"text": "T", "summary": "S"}, [("Ann: it broke.", "Ann's broke."), ("Bob: same.", "Bob's too.")],
     "Ann's broke.", [("user", "Ann: it broke.")]),
    ("summarization", {"text": "T", "summary": "S", "required": "F"},
     [("Ann: my lamp broke.", "Ann's lamp broke.", "Ann | lamp"), ("Bob: same.", "Bob's too.", "Bob")],
     {"note": "Ann's lamp broke.", "required": [["Ann"], ["lamp"]], "forbidden": []},
     [("user", "Ann: my lamp broke.")]),
]  # fmt: skip


def save_as(kind, folder, columns, rows):
    dicts = [dict(zip(columns.values(), row, strict=True)) for row in rows]
    if kind == "folder":
        Dataset.from_list(dicts).save_to_disk(str(folder / "saved"))
        return folder / "saved"
    if kind == "jsonl":
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dicts), encoding="utf-8")
        return folder / "rows.jsonl"
    return save(folder / "rows.csv", rows, header=tuple(columns.values()))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "folder"])
@pytest.mark.parametrize(("task", "columns", "rows", "reference", "messages"), TABLES)
def test_a_row_of_any_table_becomes_a_record_that_scores(tmp_path, kind, task, columns, rows, reference, messages):
    path = save_as(kind, tmp_path, columns, rows)
    records = convert_any(path, task, columns)["train"]
    assert len(records) == 2 and all(r.task == task and validate(r) is None for r in records)
    (first,) = [r for r in records if r.reference == reference]
    assert [m["role"] for m in first.messages] == [role for role, _ in messages]
    assert all(m["content"].endswith(end) for m, (_, end) in zip(first.messages, messages, strict=True))
    flags = [part for what, column in columns.items() for part in (f"--{what}", column)]
    assert main(["data", str(path), "--task", task, *flags, "--out", str(tmp_path)]) == 0
    assert list(read_records(tmp_path / "train.jsonl")) == records


def test_every_task_has_a_mapping_and_every_column_its_words():
    assert set(MAPPINGS) == set(MODULES)
    assert {role for m in (*MAPPINGS.values(), PREMISES) for role in (*m.must, *m.gold, *m.may)} == set(COLUMNS)


def test_lists_and_numbers_of_json_are_taken_as_they_are(tmp_path):
    rows = [("Which?", ["red", "green"], "red"), ("How many?", [1, 2], 2)]
    path = save_as("jsonl", tmp_path, {"q": "question", "o": "options", "a": "answer"}, rows)
    records = convert_any(path, "qa", {"options": "options"})["train"]
    assert {r.reference["choice"] for r in records} == {"A", "B"}
    path = save_as("jsonl", tmp_path, {"q": "question", "a": "answer"}, [("2 x 6?", 12), ("Half of 3?", 1.5)])
    assert {r.reference["answer"] for r in convert_any(path, "math")["train"]} == {"12", "1.5"}


def test_the_turns_of_a_folder_are_taken_as_they_are(tmp_path):
    path = save_as("folder", tmp_path, {"m": "messages"}, [([*TURNS, REPLY],)])
    (record,) = convert_any(path, "conversation")["train"]
    assert record.messages == TURNS and record.reference == REPLY["content"]


def test_the_names_of_labels_are_read_from_a_folder_and_a_missing_one_is_reported(tmp_path):
    kinds = Features(
        P=Value("string"), H=Value("string"), L=ClassLabel(names=["entailment", "neutral", "contradiction"])
    )
    columns = {"premise": "P", "hypothesis": "H", "label": "L"}
    rows = [{"P": "It rains.", "H": "It is wet.", "L": 0}, {"P": "It rains.", "H": "It is cold.", "L": -1}]
    Dataset.from_list(rows[:1], features=kinds).save_to_disk(str(tmp_path / "good"))
    assert convert_any(tmp_path / "good", "nli", columns)["train"][0].reference == "entailment"
    Dataset.from_list(rows, features=kinds).save_to_disk(str(tmp_path / "bad"))
    with pytest.raises(RecordErrors, match=r"bad:2: empty L"):
        convert_any(tmp_path / "bad", "nli", columns)


def test_a_folder_of_several_splits_names_them_and_another_folder_is_refused(tmp_path):
    data = Dataset.from_list([{"text": "a", "label": "x"}])
    DatasetDict(train=data, test=data).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(ValueError, match=r"holds several splits; name one: .*both/train, .*both/test"):
        convert_any(tmp_path / "both", "nli")
    with pytest.raises(ValueError, match="is no folder written by `save_to_disk`"):
        convert_any(tmp_path, "nli")


@pytest.mark.parametrize(
    ("task", "columns", "row", "reason"),
    [
        ("nli", {"premise": "p", "hypothesis": "h", "label": "l"}, ("a", "b", "maybe"), "label 'maybe' is none of"),
        ("qa", {"question": "q", "answer": "a"}, ("Which?", ""), "empty a"),
        ("qa", {"question": "q", "answer": "a"}, ("Which?", ["red", ""]), "not a reference of qa"),
        ("qa", {"question": "q", "answer": "a"}, ({"x": 1}, "red"), "wrong type: question must be text, this is dict"),
        ("qa", {"question": "q", "options": "o", "answer": "a"}, ("Which?", "red|green", "C"), "answer 'C' is not the"),
        ("qa", {"question": "q", "options": "o", "answer": "a"}, ("Which?", "red|red", "red"), "answer 'red' is not"),
        ("qa", {"question": "q", "options": "o", "answer": "a"}, ("Which?", "red", "A"), "1 options; there must be"),
        ("math", {"question": "q", "answer": "a"}, ("How much?", "12 or 13"), "cannot be read as one number"),
        ("math", {"question": "q", "answer": "a"}, ("How much?", "1,20"), "cannot be read as one number"),
        ("conversation", {"messages": "m"}, (TURNS,), "no reply"),
        ("conversation", {"messages": "m"}, ("hello",), "messages is no list of objects"),
        ("conversation", {"messages": "m"}, ('[{"role": ',), "messages is no JSON list"),
        ("conversation", {"messages": "m"}, ([TURNS[0], TURNS[2], REPLY],), "wrong role order: message 2"),
        ("conversation", {"messages": "m"}, ([REPLY],), "empty 'messages'"),
        ("conversation", {"messages": "m", "required": "r"}, ([TURNS[0], REPLY], "9 days"), "scores 0.00"),
        ("summarization", {"text": "t", "summary": "s"}, ("Ann: hello.", " "), "empty s"),
        ("summarization", {"text": "t", "summary": "s", "required": "r"}, ("Ann.", "Ann.", "Bob"), "scores 0.00"),
    ],
)  # fmt: skip
def test_what_a_task_cannot_use_is_reported_with_its_line(tmp_path, capsys, task, columns, row, reason):
    path = save_as("jsonl", tmp_path, columns, [row])
    with pytest.raises(RecordErrors) as caught:
        convert_any(path, task, columns)
    ((line, told),) = caught.value.problems
    assert line == 1 and reason in told and f"{path}:1: " in str(caught.value)
    flags = [part for what, column in columns.items() for part in (f"--{what}", column)]
    assert main(["data", str(path), "--task", task, *flags, "--out", str(tmp_path / "records")]) == 1
    assert f"{path}:1: " in capsys.readouterr().err and not (tmp_path / "records").exists()


def test_every_bad_line_of_a_jsonl_file_is_reported(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [b'{"text": "a", "summary": "b"}', b"", b"{", b"[1]", b'{"text": "\xff"}', b'{"text": "a", "summary": NaN}',
             b'{"text": "a"}', b'{"text": "\\ud800", "summary": "b"}', b"[" * 100_000]  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(RecordErrors) as caught:
        convert_any(path, "summarization")
    told = dict(caught.value.problems)
    assert sorted(told) == [2, 3, 4, 5, 6, 7, 8, 9]
    for line, reason in {2: "empty line", 3: "not JSON", 4: "this is list", 5: "byte 11 is 0xff", 6: "NaN is no number",
                         7: "empty summary", 8: "surrogate", 9: "not"}.items():  # fmt: skip
        assert reason in told[line]


def test_a_pool_needs_no_answers_and_its_records_have_none(tmp_path):
    path = save(tmp_path / "asked.csv", [("How long?",), ("How much?",)], header=("question",))
    pool = convert_any(path, "qa", counts={"pool": -1})["pool"]
    assert len(pool) == 2 and all(r.reference is None for r in pool)
    with pytest.raises(ValueError, match="no column answer; there are question"):
        convert_any(path, "qa", counts={"pool": 1, "train": 1})
    path = save_as("jsonl", tmp_path, {"m": "messages"}, [(TURNS,), ([*TURNS[:1], REPLY],)])
    pool = convert_any(path, "conversation", counts={"pool": -1})["pool"]
    assert all(r.reference is None and r.messages[-1]["role"] == "user" for r in pool)


def test_what_a_task_does_not_take_is_refused(tmp_path):
    path = save(tmp_path / "rows.csv", [("a", "b")])
    with pytest.raises(ValueError, match="math takes no column for label; it takes question, answer, context, steps"):
        convert_any(path, "math", {"label": "category"})
    with pytest.raises(ValueError, match="no column mapping for task 'translation'; there are nli, qa"):
        convert_any(path, "translation")


def test_a_csv_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,b,c\n\nd,e\n", encoding="utf-8")
    with pytest.raises(RecordErrors, match=r"rows.csv:2: 3 cells under a header of 2; quote what holds a comma"):
        convert_any(path, "nli")
    path.write_text("text,text\na,b\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"rows.csv:1: two columns have the same name"):
        convert_any(path, "nli")
    # a quote that nobody closes, and one that the next row's quote closes: either would swallow rows
    for rows in ('"Where\nis it?",lost\nWhy?,"lost\nWhat?,fee\nWho?,x\n', 'Ho\n\nWhy?,"lost\nWhat?,"fee"\nWho?,x\n'):
        path.write_text(f"text,label\n{rows}", encoding="utf-8")
        with pytest.raises(
            ValueError, match=r"rows.csv:4: not CSV: .*row that begins on line 4: close the one left open"
        ):
            convert_any(path, "nli")
    for nothing in ("", "text,label\n"):
        path.write_text(nothing, encoding="utf-8")
        with pytest.raises(RecordErrors, match=r"rows.csv:1: empty file"):
            convert_any(path, "nli")


def test_a_cell_may_hold_a_long_transcript(tmp_path):
    path = save(tmp_path / "long.csv", [("Ann: so. " * 30_000, "Ann said so.")], header=("text", "summary"))
    (record,) = convert_any(path, "summarization")["train"]
    assert len(record.messages[0]["content"]) > 200_000


def test_tabs_separate_the_cells_of_a_tsv(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("text\tlabel\nhello, you\tgreeting\n", encoding="utf-8")
    assert contents(convert_any(path, "nli")["train"]) == ["hello, you"]


def test_the_command_still_checks_a_file_of_records_and_says_how_to_split(tmp_path, table, capsys):
    assert (
        main(["data", str(table), "--label", "category", "--split", "train=15", "test=-1", "--out", str(tmp_path)]) == 0
    )
    assert main(["data", str(tmp_path / "train.jsonl")]) == 0
    assert "15 good records" in capsys.readouterr().out
    assert main(["data", str(table), "--label", "category", "--split", "train"]) == 1
    assert "--split takes name=rows, such as train=400 or pool=-1, not 'train'" in capsys.readouterr().err
    assert get_task("nli").prompt(next(read_records(tmp_path / "test.jsonl")))[0]["role"] == "system"


def test_a_table_is_not_written_over(tmp_path, capsys):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a", "summary": "b"}\n', encoding="utf-8")
    assert main(["data", str(path), "--task", "summarization", "--out", str(tmp_path)]) == 1
    assert "would be written over" in capsys.readouterr().err and path.read_text().startswith('{"text"')
    assert main(["data", str(path), "--task", "summarization", "--out", str(tmp_path / "records")]) == 0
