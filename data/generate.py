"""Write every generated data file again, byte for byte, and the hashes of all of them.

    python data/generate.py           writes data/TASK/{train,pool,validation,test}.jsonl and SHA256SUMS
    python data/generate.py --check   writes nothing; exits 1 if a file on disk differs from what would be written

The challenge files were written one by one and are only hashed.
"""

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


def build() -> dict[str, bytes]:
    """Relative path -> the bytes of each generated file."""
    files = {}
    for task, module in TASKS.items():
        for split, records in module.build(SEED).items():
            lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            files[f"{task}/{split}.jsonl"] = lines.encode()
    return files


def hashes() -> str:
    """The lines of SHA256SUMS for what lies in data/ now (results excepted: each run adds one)."""
    paths = sorted(
        p for pattern in HASHED for p in HERE.rglob(pattern) if "results" not in p.parts and ".journal." not in p.name
    )
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(HERE).as_posix()}\n" for p in paths)


def main() -> int:
    files = build()
    if "--check" in sys.argv:
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
