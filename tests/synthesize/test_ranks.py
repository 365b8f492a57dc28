"""A run shared by torchrun's ranks leaves the file that one process would have left, whatever is killed on the way."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_generate import examples

from slmops_utils.records import write_records
from slmops_utils.synthesize.generate import generate, generate_file
from slmops_utils.synthesize.journal import Journal
from slmops_utils.synthesize.ranks import Ranks, answered, merge, rank_journals

ROWS, BATCH = 24, 2


@pytest.fixture
def pool(tmp_path):
    write_records(tmp_path / "pool.jsonl", examples(ROWS))
    return tmp_path / "pool.jsonl"


def launch(folder, pool, out, ranks, tokens=8, *options):
    """The command line under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks),
               "-m", "slmops_utils", "generate", "--teacher", folder, "--pool", str(pool), "--out", str(out),
               "--batch-size", str(BATCH), "--max-new-tokens", str(tokens), *options]  # fmt: skip
    env = os.environ | {"SLMOPS_DTYPE": "float32", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def alone(folder, pool, out, monkeypatch, tokens=8):
    from slmops_utils.synthesize.answer import Sampling

    monkeypatch.setenv("SLMOPS_DTYPE", "float32")
    return generate_file(folder, pool, out, sampling=Sampling(tokens), batch_size=BATCH)


def lines(path: Path) -> list[dict]:
    whole = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in whole.splitlines(keepends=True) if line.endswith(b"\n")]


def test_ranks_killed_half_way_go_on_and_write_what_one_process_would(tiny_folder, pool, tmp_path, monkeypatch):
    out = tmp_path / "shared.jsonl"
    journal = Path(f"{out}.journal.jsonl")
    others = [journal.with_name(f"{journal.name}.rank{rank}") for rank in (1, 2)]
    tokens = 128  # long enough to be killed in the middle
    run = launch(tiny_folder, pool, out, 3, tokens)
    started = time.monotonic()
    while not (lines(journal) and all(map(lines, others))) and run.poll() is None:
        assert time.monotonic() - started < 300, "the ranks hang"
        time.sleep(0.002)
    for process in [*psutil.Process(run.pid).children(recursive=True), run]:
        process.kill()
    _, said = run.communicate()
    kept = [entry["id"] for file in [journal, *others] for entry in lines(file)]
    assert rank_journals(journal) == others and not out.exists(), said
    assert 3 <= len(kept) == len(set(kept)) < ROWS, "each row is one rank's"

    # one rank fewer goes on: what the third left is not asked again
    run = launch(tiny_folder, pool, out, 2, tokens)
    printed, said = run.communicate(timeout=600)
    assert run.returncode == 0, said
    report = json.loads(printed)
    assert report["asked"] + report["from_journal"] == report["rows"] == ROWS
    assert report["from_journal"] == len(kept) and report["tokens_per_s"] > 0
    assert sorted(entry["id"] for entry in lines(journal)) == sorted(e.id for e in examples(ROWS))
    assert rank_journals(journal) == [], "merged, and gone"

    alone(tiny_folder, pool, tmp_path / "alone.jsonl", monkeypatch, tokens)
    assert out.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_two_shared_runs_on_one_journal_are_refused(tiny_folder, pool, tmp_path):
    out = tmp_path / "out.jsonl"
    with Journal(f"{out}.journal.jsonl"):
        run = launch(tiny_folder, pool, out, 2)
        _, said = run.communicate(timeout=600)
    assert run.returncode != 0 and "another run is writing this journal" in said
    assert not out.exists()


def test_one_process_takes_over_what_ranks_left(tiny_folder, pool, tmp_path, monkeypatch):
    alone(tiny_folder, pool, tmp_path / "alone.jsonl", monkeypatch)
    whole = Path(f"{tmp_path / 'alone.jsonl'}.journal.jsonl").read_bytes().splitlines(keepends=True)
    journal = tmp_path / "out.jsonl.journal.jsonl"
    journal.write_bytes(b"".join(whole[:5]))
    journal.with_name(journal.name + ".rank1").write_bytes(b"".join(whole[4:9]))  # one line is in both
    journal.with_name(journal.name + ".rank12").write_bytes(b"".join(whole[9:11]) + whole[11][:-9])  # and one is torn
    report = alone(tiny_folder, pool, tmp_path / "out.jsonl", monkeypatch)
    assert (report["from_journal"], report["asked"]) == (11, ROWS - 11)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert rank_journals(journal) == []
    assert len(journal.read_bytes().splitlines()) == ROWS


def test_a_rank_sees_what_all_have_answered_and_writes_to_its_own_file(tmp_path):
    path = tmp_path / "run.jsonl"
    for rank in range(3):
        with Journal(Ranks(rank, 3).journal(path)) as book:
            book.append([{"key": f"from {rank}"}, {"key": "from all"}])
    assert len({Ranks(rank, 3).journal(path) for rank in range(3)}) == 3 and Ranks().journal(path) == path
    assert set(answered(path)) == {"from 0", "from 1", "from 2", "from all"}
    with Journal(path) as book:
        merge(book, path)
        assert list(book) == ["from 0", "from all", "from 1", "from 2"]


def test_damage_in_a_rank_s_journal_is_said(tmp_path):
    path = tmp_path / "run.jsonl"
    path.with_name("run.jsonl.rank1").write_bytes(b'{"key": "a"}\ndamage\n')
    with Journal(path) as book, pytest.raises(ValueError, match=r"run\.jsonl\.rank1 is damaged: b'damage"):
        merge(book, path)


def test_an_endpoint_is_not_shared_by_ranks(tmp_path, monkeypatch):
    from slmops_utils.synthesize import generate as module

    monkeypatch.setattr(module, "join", lambda: Ranks(0, 2))
    with pytest.raises(ValueError, match="asked by one process"):
        generate("endpoint:m@http://127.0.0.1:1/v1", examples(1), tmp_path / "out.jsonl")
