"""The record format: every bad line is named, good ones stream past it, and a file is written whole or not at all."""

import json
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slmops_utils.records import (
    Chosen,
    Example,
    RecordErrors,
    RecordFile,
    Response,
    atomic_writer,
    read_records,
    write_records,
)


def record(id="a", roles=("user",), content="hello", **more) -> dict:
    return {"id": id, "task": "nli", "messages": [{"role": r, "content": content} for r in roles], **more}


def encode(line) -> bytes:
    return line if isinstance(line, bytes) else json.dumps(line).encode()


def save(path, *lines):
    path.write_bytes(b"".join(encode(line) + b"\n" for line in lines))
    return path


BAD = {
    "not JSON": (b'{"id": "torn', "not JSON"),
    "missing key": ({"id": "x", "task": "nli"}, "missing key 'messages'"),
    "system in the middle": (record("x", ("user", "system")), "role order: message 2 is from system"),
    "two users in a row": (record("x", ("user", "user")), "role order: message 2 is from user"),
    "assistant first": (record("x", ("assistant",)), "role order: message 1 is from assistant"),
    "assistant after system": (record("x", ("system", "assistant")), "role order: message 2 is from assistant"),
    "ends with system": (record("x", ("system",)), "role order: the last message is from system"),
    "unknown role": (record("x", ("tool",)), "has role 'tool'"),
    "NaN": (b'{"id": "x", "task": "nli", "messages": [], "reference": NaN}', "NaN is no number"),
    "list line": ([1, 2], "wrong type: a record is a JSON object, this is list"),
    "number id": (record(7), "wrong type: 'id' must be a string, this is int"),
    "number content": (record("x", content=5), "wrong type: message 1"),
    "no messages": (record("x", ()), "empty 'messages'"),
    "empty content": (record("x", content=" \n"), "empty content in message 1"),
    "empty line": (b"", "empty line"),
    "duplicate id": (record("first"), "duplicate id 'first'"),
    "not UTF-8": ('{"id": "café"}'.encode("latin-1"), "not UTF-8: byte 12 is 0xe9"),
    "surrogate in content": (record("x", content="\ud83d"), "half of a surrogate pair"),
    "surrogate in id": (record("x\udc00"), "half of a surrogate pair"),
    "surrogate in reference": (record("x", reference={"reply": "\ud800"}), "half of a surrogate pair"),
    "nested too deeply": (b"[" * 100_000, "nested too deeply"),
    "response of a wrong type": (record("x", response="yes"), "wrong type: 'response'"),
    "response with an unknown key": (record("x", response={"text": "", "model": "m", "odd": 1}), "['odd']"),
}


@pytest.mark.parametrize(("line", "reason"), BAD.values(), ids=BAD)
def test_a_bad_line_is_reported_with_file_line_and_reason_after_the_good_lines_around_it(tmp_path, line, reason):
    path = save(tmp_path / "some.jsonl", record("first"), line, record("last"))
    came, records = [], read_records(path)
    with pytest.raises(RecordErrors) as caught:
        for example in records:
            came.append(example.id)
    assert came == ["first", "last"]
    assert [number for number, _ in caught.value.problems] == [2]
    assert f"{path}:2: " in str(caught.value) and reason in str(caught.value)


def test_all_bad_lines_come_in_one_error(tmp_path):
    path = save(tmp_path / "bad.jsonl", record("first"), *(line for line, _ in BAD.values()))
    with pytest.raises(RecordErrors) as caught:
        list(read_records(path))
    assert [number for number, _ in caught.value.problems] == list(range(2, 2 + len(BAD)))
    assert all(reason in told for (_, reason), (_, told) in zip(BAD.values(), caught.value.problems, strict=True))
    assert f"{len(BAD)} bad line(s)" in str(caught.value) and "and 3 more" in str(caught.value)


def test_an_empty_file_is_an_error(tmp_path):
    with pytest.raises(RecordErrors, match="1: empty file"):
        list(read_records(save(tmp_path / "empty.jsonl")))


def test_byte_order_mark_crlf_and_a_missing_last_newline_are_accepted(tmp_path):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + encode(record("a")) + b"\r\n" + encode(record("b")))
    assert [e.id for e in read_records(path)] == ["a", "b"]
    path.write_bytes(b'\xef\xbb\xbf{"id": \xff}\r\n')
    with pytest.raises(RecordErrors, match="byte 11 is 0xff"):  # counted as an editor counts, the mark included
        list(read_records(path))


TEXT = st.text(min_size=1, max_size=12).filter(str.strip)
LEAF = st.none() | st.booleans() | st.integers() | TEXT
VALUE = LEAF | st.lists(LEAF, max_size=3) | st.dictionaries(TEXT, LEAF, max_size=3)
KEY = TEXT.filter(lambda key: key not in ("id", "task", "messages", "reference", "response"))
EXAMPLE = st.builds(
    lambda system, turns, **more: Example(
        messages=[{"role": "system", "content": c} for c in system]
        + [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(turns)],
        **more,
    ),
    system=st.lists(TEXT, max_size=1),
    turns=st.lists(TEXT, min_size=1, max_size=4),
    id=TEXT,
    task=TEXT,
    reference=VALUE,
    response=st.none() | st.builds(Response, st.text(max_size=12), TEXT),
    extra=st.dictionaries(KEY, VALUE, max_size=3),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(examples=st.lists(EXAMPLE, min_size=1, max_size=3, unique_by=lambda e: e.id))
def test_what_is_written_is_read_again_unknown_keys_and_response_included(tmp_path, examples):
    assert write_records(tmp_path / "round.jsonl", examples) == len(examples)
    assert list(read_records(tmp_path / "round.jsonl")) == examples


def test_an_error_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path):
    path = save(tmp_path / "kept.jsonl", record("old"))
    before = path.read_bytes()

    def examples():
        yield Example("new", "nli", [{"role": "user", "content": "hello"}])
        raise RuntimeError("the teacher fell over")

    with pytest.raises(RuntimeError):
        write_records(path, examples())
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("also", [None, RuntimeError("the teacher fell over too")], ids=["full", "full and an error"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, also):
    resource = pytest.importorskip("resource")
    path = save(tmp_path / "kept.jsonl", record("old"))
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError):
            with atomic_writer(path) as file:
                file.write("x" * 5000)  # stays in the buffer until it is flushed or closed
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
                if also:
                    raise also
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_writing_leaves_the_old_file_whole(tmp_path):
    path = save(tmp_path / "kept.jsonl", record("old"))
    before = path.read_bytes()
    code = """
import sys
from slmops_utils.records import Example, write_records
def examples():
    for i in range(10**9):
        yield Example(str(i), "nli", [{"role": "user", "content": "x" * 1000}])
        if i == 1000:
            print("in the middle", flush=True)
            sys.stdin.read()
write_records(sys.argv[1], examples())
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=pipe, stdout=pipe) as writer:
        try:
            assert writer.stdout.readline().startswith(b"in the middle")
            assert sum(f.stat().st_size for f in tmp_path.iterdir()) > 500_000  # it was writing, elsewhere
        finally:
            writer.kill()  # SIGKILL: nothing can clean up
    assert path.read_bytes() == before


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak(rows: int) -> int:
        line = encode(record("row-%06d", content="x" * 300))
        path = save(tmp_path / f"{rows}.jsonl", *(line % i for i in range(rows)))
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_records(path)) == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(50_000) - peak(1_000) < 15e6


def test_a_record_file_is_the_list_of_its_records(tmp_path):
    path = tmp_path / "r.jsonl"
    examples = [
        Example(f"r{i}", "nli", [{"role": "user", "content": f"naïve £{i} 👍" * (i + 1)}], extra={"topic": i})
        for i in range(20)
    ]
    write_records(path, examples)
    found = RecordFile(path)
    assert len(found) == 20 and list(found) == examples
    assert found[-1] == examples[-1] and list(found[3:9:2]) == examples[3:9:2] and list(found[:5][1:]) == examples[1:5]
    assert list(Chosen(found, [7, 7, 0])) == [examples[7], examples[7], examples[0]]
    with pytest.raises(IndexError):
        found[20]


def test_a_record_file_is_checked_whole_when_it_is_opened(tmp_path):
    path = tmp_path / "r.jsonl"
    write_records(path, [Example("a", "nli", [{"role": "user", "content": "x"}])] * 2)
    with pytest.raises(RecordErrors, match=":2: duplicate id 'a'"):
        RecordFile(path)
