"""Do 50,000 conversations take the memory of 1,000, and fifty times the time? `python tests/benchmarks/bench_scale.py`

Called by `make bench`. Each stage runs in a process of its own, as its command would, on a file that the data generator
writes. Memory is the most that the process has held (VmHWM, libraries included). Time is the CPU's for the stage alone,
after one run on 100 records, and of 1,000 records the best of three. The worst stage of each is held to a limit: memory
may grow by 15 %, the time for one record by 20 %.

    read      every record read and checked
    prompt    every prompt made and counted: `generate --dry-run`
    journal   every answer appended to the journal, as it would come from a teacher
    resume    `generate` once more on the finished journal: every answer looked up, and the records written
    filter    every quality gate, near-duplicates among the records and with the held-out sets among them
    cache     the cache of the teacher's probabilities: as many rows written, then each looked up, in another order. The
              numbers are drawn at random: computing them is the teacher's work
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from slmops_utils.evaluate.measure import peak_memory_bytes
from slmops_utils.records import RecordFile, Response, read_records, write_records

ROOT = Path(__file__).parents[2]
STAGES = ("read", "prompt", "journal", "resume", "filter", "cache")
FEW, MANY, WARM = 1_000, 50_000, 100
LIMITS = {"memory": 0.15, "time_per_record": 0.20}  # the growth that still counts as none
TEACHER = "endpoint:teacher@http://127.0.0.1:9/v1"  # nobody answers there, and nobody is asked


def read(path: Path, work: Path) -> None:
    for _ in read_records(path):
        pass


def prompt(path: Path, work: Path) -> None:
    from slmops_utils.synthesize.generate import dry_run

    dry_run(TEACHER, RecordFile(path), work / "unused.jsonl", price=(1.0, 2.0))


def journal(path: Path, work: Path) -> None:
    from slmops_utils.synthesize.answer import Sampling
    from slmops_utils.synthesize.generate import answer_key
    from slmops_utils.synthesize.journal import Journal
    from slmops_utils.synthesize.presets import find_endpoint
    from slmops_utils.tasks import get_task

    task, name = get_task("conversation"), find_endpoint(TEACHER).name
    sampling = Sampling(max_new_tokens=task.max_new_tokens)
    with Journal(work / "answered.jsonl.journal.jsonl") as book:
        for example in read_records(path):
            key = f"{example.id}:{answer_key(task.prompt(example), name, sampling, 1)}"
            answer = {"key": key, "settles": f"{key}#1", "text": task.target(example), "finish_reason": "stop",
                      "prompt_tokens": 200, "completion_tokens": 20, "dollars": 0.0, "seconds": 1.0}  # fmt: skip
            book.append([answer], sync=False)


def resume(path: Path, work: Path) -> None:
    from slmops_utils.synthesize.generate import generate_file

    report = generate_file(TEACHER, path, work / "answered.jsonl")
    assert report["asked"] == 0, report


def filter(path: Path, work: Path) -> None:
    from slmops_utils.synthesize.gates import Rules, filter_file

    held_out = [e for split in ("validation", "test", "challenge") for e in read_records(ROOT / f"data/conversation/{split}.jsonl")]  # fmt: skip
    # `balanced` keeps to three times the median topic, whatever the number of rows
    report = filter_file(work / "answered.jsonl", work / "kept.jsonl", work / "dropped.jsonl", Rules(held_out))
    assert report[-1]["kept"] > 100 or len(RecordFile(path)) <= WARM, report


def cache(path: Path, work: Path) -> None:
    import torch

    from slmops_utils.distill.dataset import Row
    from slmops_utils.distill.shards import SoftTargets, start_folder, write_shard
    from slmops_utils.distill.soft_targets import ROWS_PER_SHARD

    count, answer, top_k, folder = len(RecordFile(path)), 10, 8, work / "soft_targets"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    def row(i: int) -> Row:
        return Row([(i + j) % 4000 for j in range(200)], 200 - answer, f"conversation-train-{i:05d}")

    start_folder(folder, {"teacher": "none"})
    targets = SoftTargets(folder, {"teacher": "none"})
    for first in range(0, count, ROWS_PER_SHARD):
        rows = [row(i) for i in range(first, min(first + ROWS_PER_SHARD, count))]
        scored = [
            (torch.randint(0, 4000, (answer, top_k), dtype=torch.int32), torch.rand(answer, top_k + 1)) for _ in rows
        ]
        shard = folder / f"shard-{first // ROWS_PER_SHARD:05}.safetensors"
        write_shard(shard, rows, scored, targets.key)
        targets.add(shard)
    for i in random.Random(0).sample(range(count), count):
        assert targets[row(i)][0].shape == (answer, top_k)


def child(stage: str, path: Path, work: Path) -> None:
    """Run one stage, on the first records to warm up, then on all; print seconds and peak memory."""
    run = globals()[stage]
    with tempfile.TemporaryDirectory() as folder:
        warm = Path(folder)
        write_records(warm / "records.jsonl", islice(read_records(path), WARM))
        if stage in ("resume", "filter"):
            journal(warm / "records.jsonl", warm)
        if stage == "filter":
            write_records(warm / "answered.jsonl", map(_answered, read_records(warm / "records.jsonl")))
        run(warm / "records.jsonl", warm)
    started = time.process_time()
    run(path, work)
    print(json.dumps({"seconds": time.process_time() - started, "bytes": peak_memory_bytes()}))


def _answered(example):
    example.response = Response(example.reference["reply"], "teacher")
    return example


def measured(stage: str, path: Path, work: Path) -> dict[str, float]:
    command = [sys.executable, __file__, stage, str(path), str(work)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def growth(entry: dict) -> float:
    """By which share the many take more than the few."""
    return entry["value"] / entry["peer_value"] - 1


def verdict(title: str, entry: dict, limit: float) -> str:
    """One entry in words: "memory, worst stage: 519.00 MiB against 500.00 MiB (+3.8 %), within 15 %"."""
    shown = f"{entry['value']:,.2f} {entry['unit']} against {entry['peer_value']:,.2f} {entry['unit']}"
    held = "within" if growth(entry) <= limit else "OVER"
    return f"{title}: {shown} ({100 * growth(entry):+.1f} %), {held} {100 * limit:.0f} %"


def bench(many: int = MANY, few: int = FEW) -> dict[str, dict]:
    """Lines in the form of build/bench.json: of memory and of time for one record, `many` against `few`."""
    results, worst = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        made, paths = Path(folder) / "made", {}
        started = time.perf_counter()
        subprocess.run([sys.executable, ROOT / "data/generate.py", "--rows", str(many), "--task", "conversation", "--split", "train",
                        "--out", made], stdout=subprocess.DEVNULL, check=True)  # fmt: skip
        print(f"{many:,} conversations written in {time.perf_counter() - started:.0f} s", flush=True)
        paths[many] = made / "conversation/train.jsonl"
        paths[few] = Path(folder) / "few.jsonl"
        step = many // few  # of all topics, as the many are
        write_records(paths[few], islice(read_records(paths[many]), 0, step * few, step))
        for stage in STAGES:
            found = {}
            for count, path in paths.items():
                work = Path(folder) / str(count)
                work.mkdir(exist_ok=True)
                runs = []
                for _ in range(3 if count == few else 1):
                    if stage == "journal":
                        (work / "answered.jsonl.journal.jsonl").unlink(missing_ok=True)
                    runs.append(measured(stage, path, work))
                found[count] = min(r["seconds"] for r in runs) / count * 1e6, runs[0]["bytes"] / 2**20
            for i, (what, unit) in enumerate((("time_per_record", "µs"), ("memory", "MiB"))):
                value, peer = found[many][i], found[few][i]
                results[f"{what}_{many}_vs_{few}_{stage}"] = {
                    "value": round(value, 2), "unit": unit, "peer": f"{few:,} records", "peer_value": round(peer, 2),
                    "ratio": round(peer / value, 2),
                }  # fmt: skip
    for what, limit in LIMITS.items():
        stages = {name: entry for name, entry in results.items() if name.startswith(f"{what}_{many}_vs_{few}_")}
        name, entry = max(stages.items(), key=lambda item: growth(item[1]))
        worst[f"{what.removesuffix('_per_record')}_{many}_vs_{few}_records"] = entry
        print(verdict(f"{what.replace('_', ' ')}, worst stage ({name.split('_')[-1]})", entry, limit), flush=True)
    return worst | results


if __name__ == "__main__":
    if len(sys.argv) > 3:
        child(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        for name, entry in bench(*map(int, sys.argv[1:])).items():
            print(f"{name:<48} {entry['value']:>10,.2f} {entry['unit']:<5} {entry['peer']}: {entry['peer_value']:,.2f}  ({entry['ratio']:.2f} x)")  # fmt: skip
