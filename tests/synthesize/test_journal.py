"""The journal: whatever a crash leaves of the last line, every line before it is kept, and damage is never hidden."""

import json
import os
import subprocess
import sys

import pytest

from slmops_utils.synthesize.journal import Journal

ENTRIES = [
    {"key": f"k{i}", "text": text} for i, text in enumerate(("plain", "naïve £6 👍\nsecond", "with \u2028 in it"))
]


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path):
    with Journal(tmp_path / "new folder" / "answers.jsonl") as journal:
        journal.append(ENTRIES)
    return journal.path


def test_what_is_appended_is_there_when_opened_again(path):
    with Journal(path) as journal:
        assert list(journal.values()) == ENTRIES
    with Journal(path):
        pass
    assert lines(path) == ENTRIES


def test_a_last_line_torn_at_any_byte_is_dropped_and_can_be_appended_again(path):
    whole = path.read_bytes()
    kept = whole[: whole.rindex(b"\n", 0, -1) + 1]
    for cut in range(len(kept), len(whole)):  # the last of them lacks only its newline
        path.write_bytes(whole[:cut])
        with Journal(path) as journal:
            assert list(journal.values()) == ENTRIES[:2], cut
            assert path.read_bytes() == kept, cut
            journal.append(ENTRIES[2:])
        assert path.read_bytes() == whole, cut


def test_zero_bytes_at_the_end_after_a_power_cut_are_dropped(path):
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 100)
    with Journal(path) as journal:
        assert list(journal.values()) == ENTRIES
    assert path.read_bytes() == whole


def test_a_first_line_torn_leaves_an_empty_journal(tmp_path):
    (tmp_path / "j").write_bytes(b'{"key": "k0", "te')
    with Journal(tmp_path / "j") as journal:
        assert journal == {}
        journal.append(ENTRIES)
    assert lines(tmp_path / "j") == ENTRIES


def test_a_key_already_there_is_left_alone(path):
    before = path.read_bytes()
    with Journal(path) as journal:
        journal.append([{"key": "k1", "text": "another answer"}])
        assert journal["k1"] == ENTRIES[1]
        journal.append([{"key": "k9", "text": "one"}, {"key": "k9", "text": "two"}])
    assert path.read_bytes() == before + b'{"key": "k9", "text": "one"}\n'


@pytest.mark.parametrize(
    "damage",
    [b'{"key": "k1", "te\n', b"\n", b"\0\0\0\0\n", b"\xff\xfe\n", b'["key"]\n', b'{"id": "k1"}\n'],
    ids=["torn", "empty", "zeros", "not UTF-8", "no object", "no key"],
)
def test_damage_in_the_middle_is_refused_and_the_file_left_as_it_was(path, damage):
    first, _, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + damage + last)
    with pytest.raises(ValueError, match=f"line at byte {len(first)} is damaged"):
        Journal(path)
    assert path.read_bytes() == first + damage + last


def test_an_entry_that_cannot_be_written_does_not_count_as_done(path):
    with Journal(path) as journal:
        with pytest.raises(UnicodeEncodeError):
            journal.append([{"key": "k9", "text": "\ud83d"}])
        assert "k9" not in journal
    assert lines(path) == ENTRIES


def test_a_killed_process_loses_nothing_it_had_appended(tmp_path):
    code = """
import os, signal, sys
from slmops_utils.synthesize.journal import Journal
journal = Journal(sys.argv[1])
for i in range(50):
    journal.append([{"key": str(i)}])
os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
"""
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "j")])
    assert ended.returncode != 0
    with Journal(tmp_path / "j") as journal:
        assert list(journal) == [str(i) for i in range(50)]


def test_answers_are_on_the_disk_before_append_returns(path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    with Journal(path) as journal:
        journal.append([{"key": "k9"}])
        assert synced == [path.stat().st_size]


def test_only_places_are_held_in_memory_and_any_entry_can_be_read_back(path):
    with Journal(path) as journal:
        journal.append([{"key": "long", "text": "é" * 1_000_000}], sync=False)
        assert journal["long"]["text"] == "é" * 1_000_000 and journal["k1"] == ENTRIES[1]
        assert list(journal) == ["k0", "k1", "k2", "long"]
        held = sum(sys.getsizeof(numbers) for numbers in vars(journal.places).values())
        assert held < 100_000, "an answer of a million letters would be held"


def test_a_second_run_on_the_same_journal_is_refused_until_the_first_ends(path):
    code = "import sys; from slmops_utils.synthesize.journal import Journal; Journal(sys.argv[1])"
    with Journal(path) as journal:
        with pytest.raises(BlockingIOError, match="another run is writing this journal"):
            Journal(path)
        other = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
        assert other.returncode != 0 and "another run" in other.stderr
        journal.append([{"key": "k9"}])
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 0
    with Journal(path) as journal:
        assert "k9" in journal


def test_a_damaged_journal_does_not_stay_locked(path):
    whole = path.read_bytes()
    path.write_bytes(b"damage\n" + whole)
    with pytest.raises(ValueError, match="damaged"):
        Journal(path)
    path.write_bytes(whole)
    with Journal(path) as journal:
        assert list(journal.values()) == ENTRIES
