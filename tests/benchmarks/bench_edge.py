"""The exported student against its teacher.

`edge_requests_vs_teacher`, called by `make bench`: requests a second of the student, exported to GGUF and served over
HTTP, against the bf16 teacher in batched `transformers.generate`, at the same concurrency. The edge goal of a trained
student is recorded by

    python tests/benchmarks/bench_edge.py --teacher data/teacher --student build/road/nli/student --test data/nli/test.jsonl

which exports it in every form, checks each against the student, measures all beside the teacher, and writes
data/results/edge_TASK.json. Nothing else should run meanwhile.
"""

import argparse
import json
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

from bench_generate import transformers_generate

from slmops_utils.deploy.check import check_export, verdict
from slmops_utils.deploy.edge import edge_goal, edge_table
from slmops_utils.deploy.export import export
from slmops_utils.deploy.serve import serving
from slmops_utils.evaluate.compare import evaluate, table
from slmops_utils.evaluate.served import served_answers
from slmops_utils.models.carve import save, shrink
from slmops_utils.models.hardware import core_count
from slmops_utils.models.load import load_model
from slmops_utils.records import atomic_writer, read_records
from slmops_utils.synthesize.answer import Sampling
from slmops_utils.tasks import get_task

CONCURRENCY = 8
THREADS = core_count()  # of the server: nothing else runs meanwhile
AIM = 8.0  # times the teacher's requests a second
EXPORTS = (("gguf", "f16"), ("gguf", "q8_0"), ("gguf", "q4_0"), ("onnx", "int8"), ("onnx", "int4"))


def requests_vs_teacher(
    teacher: str,
    student: str,
    test: list,
    sampling: Sampling,
    requests: int = 128,
    theirs: int = 32,
    threads: int = THREADS,
) -> dict:
    """Requests a second of both, in the form of build/bench.json; `requests` of the student, `theirs` of the teacher.

    The teacher answers with `transformers.generate`, in batches as its documentation shows them. Every request of the student
    is another text (a number before it), so that no prompt is found in the server's cache.
    """
    task = get_task(test[0].task)
    way = transformers_generate(load_model(teacher, "bfloat16"), sampling, CONCURRENCY)
    asked = list(islice(cycle(test), theirs))
    way(asked[:CONCURRENCY])  # warm
    started = time.perf_counter()
    way(asked)
    peer = theirs / (time.perf_counter() - started)
    del way
    examples = [replace(test[i % len(test)], id=f"request-{i}") for i in range(requests)]
    prompts = [task.prompt(example) for example in examples]
    numbered = [[*p[:-1], {**p[-1], "content": f"{i}. {p[-1]['content']}"}] for i, p in enumerate(prompts)]
    with serving(student, slots=CONCURRENCY, threads=threads) as served:
        served_answers(served.endpoint, examples[:CONCURRENCY], numbered[:CONCURRENCY], replace(sampling, seed=1))
        started = time.perf_counter()
        served_answers(served.endpoint, examples, numbered, sampling)
        value = requests / (time.perf_counter() - started)
    return {
        "value": round(value, 3),
        "unit": f"requests/s at {CONCURRENCY}",
        "peer": "bf16 teacher, transformers.generate",
        "peer_value": round(peer, 3),
        "ratio": round(value / peer, 2),
        "aim": AIM,
    }


def bench(folder: str | Path = "build/edge") -> dict[str, dict]:
    """`edge_requests_vs_teacher` without any training: the embedded model and six of its layers, 16 tokens an answer.

    The student is the one of `make results` where it is there.
    """
    test = list(read_records("data/nli/test.jsonl"))
    trained, teacher = Path("build/road/nli/student"), "data/teacher"
    if (trained / "config.json").exists():
        return {"edge_requests_vs_teacher": requests_vs_teacher(teacher, str(trained), test, Sampling(48))}
    carved = Path(folder) / "carved"
    texts = [m["content"] for e in read_records("data/nli/train.jsonl") for m in get_task("nli").prompt(e)]
    save(shrink(load_model("embedded"), 6, "early", [*texts, "system\nuser\nassistant\n0123456789."]), str(carved))
    return {"edge_requests_vs_teacher": requests_vs_teacher("embedded", str(carved), test, Sampling(16))}


def record(
    teacher: str, student: str, test: list, train: list, out: Path, work: Path, check_rows: int, threads: int
) -> dict:
    """Export, check, measure and write the results JSON with "checks", "edge" and "requests_vs_teacher" beside the rows."""
    most = get_task(test[0].task).max_new_tokens
    models, files, checks = {"teacher": teacher, "student": student}, {}, {}
    with ExitStack() as stack:
        for form, precision in EXPORTS:
            label = f"{form} {precision}"
            path = export(
                student, form, precision, work / (f"{precision}.gguf" if form == "gguf" else f"onnx-{precision}")
            )
            checks[label] = check_export(student, path, test[:check_rows], precision)
            print(f"{form} {verdict(checks[label], precision)}", flush=True)
            files[label] = path
            models[label] = (
                stack.enter_context(serving(str(path), threads=threads)).endpoint if form == "gguf" else str(path)
            )
        results = evaluate(models, test, train, out, files=files, keep_answers=False)
    for row in results["rows"]:  # a port says nothing tomorrow
        row["model"] = str(files.get(row["role"], row["model"]))
    results |= {
        "checks": checks,
        "edge": edge_goal(results),
        "requests_vs_teacher": {
            label: requests_vs_teacher(teacher, str(files[label]), test, Sampling(most), threads=threads)
            for label in ("gguf q8_0", "gguf q4_0")
        },
    }
    with atomic_writer(out) as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    for journal in out.parent.glob(f"{out.stem}.*.journal.jsonl*"):
        journal.unlink()  # their keys hold the port of a server that is gone
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="data/teacher")
    parser.add_argument("--student", required=True, help="a folder")
    parser.add_argument("--test", type=Path, required=True, help="labelled records of one task")
    parser.add_argument("--train", type=Path, help="labelled records, for the reference rows")
    parser.add_argument("--limit", type=int, help="only the first so many test rows")
    parser.add_argument(
        "--check-rows", type=int, default=100, help="rows on which exports are compared with the student"
    )
    parser.add_argument("--work", type=Path, default=Path("build/edge"), help="where the exports are kept")
    parser.add_argument("--out", type=Path, help="default: data/results/edge_TASK.json")
    parser.add_argument("--threads", type=int, default=THREADS, help="of the server (default: one for each core)")
    args = parser.parse_args()
    os.environ["SLMOPS_DTYPE"] = "bfloat16"  # the teacher as it is published, here and in the processes that measure
    test = list(read_records(args.test))[: args.limit]
    out = args.out or Path(f"data/results/edge_{test[0].task}.json")
    train = list(read_records(args.train)) if args.train else []
    results = record(
        args.teacher, args.student, test, train, out, args.work / test[0].task, args.check_rows, args.threads
    )
    print(table(results), edge_table(results["edge"]), json.dumps(results["requests_vs_teacher"]), f"{out}", sep="\n\n")


if __name__ == "__main__":
    main()
