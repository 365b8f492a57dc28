"""Write every generated data file again, byte for byte, and the hashes of all of them.

    python data/generate.py           writes data/TASK/{train,pool,validation,test}.jsonl and SHA256SUMS
    python data/generate.py --check   writes nothing; exits 1 if a file on disk differs from what would be written
    python data/generate.py --rows 4000 --out build/more
                                      writes other rows on the same train facts: build/more/TASK/train.jsonl;
                                      with --wide on the forty facts of generator/further as well

The challenge files were written one by one and are only hashed.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from generator import conversation, math_problems, nli, qa, summarization

HERE = Path(__file__).parent
SEED = 7
TASKS = {
    "nli": nli,
    "qa": qa,
    "math": math_problems,
    "conversation": conversation,
    "summarization": summarization,
}
HASHED = ("*.jsonl", "*.yaml", "*.md", "*.safetensors")


def as_lines(records: list[dict]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def build() -> dict[str, bytes]:
    """Relative path -> the bytes of each generated file."""
    return {
        f"{task}/{split}.jsonl": as_lines(records)
        for task, module in TASKS.items()
        for split, records in module.build(SEED).items()
    }


def write_more(tasks: list[str], splits: list[str], rows: int, seed: int, out: Path, wide: bool = False) -> None:
    """Write `rows` other rows of each split, drawn with another seed; their ids say which, so files can be joined.

    `wide` draws from the further facts as well. Only train and pool: whatever else is drawn from the test facts would
    weaken the test.
    """
    for task in tasks:
        for split in splits:
            records = TASKS[task].build(seed, {split: rows}, wide)[split]
            for record in records:
                record["id"] = record["id"].replace(f"-{split}-", f"-{split}-seed{seed}-", 1)
            path = out / task / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(as_lines(records))
            print(f"{path}: {len(records):,} records", flush=True)


def hashes() -> str:
    """The lines of SHA256SUMS for what lies in data/ now (results excepted: each run adds one)."""
    paths = sorted(
        p for pattern in HASHED for p in HERE.rglob(pattern) if "results" not in p.parts and ".journal." not in p.name
    )
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(HERE).as_posix()}\n" for p in paths)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--rows", type=int, help="write so many other rows instead, into --out")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--split", nargs="+", choices=("train", "pool"), default=["train"])
    parser.add_argument("--seed", type=int, default=SEED + 1)
    parser.add_argument(
        "--wide", action="store_true", help="with --rows: draw from the facts of generator/further, too"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.rows:
        if args.out is None or args.seed == SEED:
            parser.error(f"--rows needs --out FOLDER, and a --seed other than {SEED}, which drew the files in data/")
        write_more(args.task, args.split, args.rows, args.seed, args.out, args.wide)
        return 0
    files = build()
    if args.check:
        differing = [name for name, content in files.items() if (HERE / name).read_bytes() != content]
        if hashes() != (HERE / "SHA256SUMS").read_text(encoding="utf-8"):
            differing.append("SHA256SUMS")
        print("\n".join(f"differs: {name}" for name in differing) or "every generated file is as it should be")
        return int(bool(differing))
    for name, content in files.items():
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_bytes(content)
    (HERE / "SHA256SUMS").write_text(hashes(), encoding="utf-8", newline="\n")
    print(f"wrote {len(files)} files and SHA256SUMS")
    return 0


if __name__ == "__main__":
    sys.exit(main())
