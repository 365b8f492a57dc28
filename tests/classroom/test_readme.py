"""Numbers reach the README from the recorded files alone, between their markers."""

import json

import pytest

from slmops_utils.classroom.readme import ABLATION, ablation_block, between, write_ablation_figure


def record(folder, method, seed, scores):
    part = {"metric": "accuracy", "score": sum(scores) / len(scores), "unfinished": 0, "ids": "x", "scores": scores}
    run = {"task": "nli", "method": method, "seed": seed, "steps": 10, "seconds": 120.0, "tokens_per_s": 9, "parameters": 10**6,
           "teacher": "t", "start": "s", "validation": part, "test": part, "date": "2026-11-26", "device": "cuda",
           "hardware": {"cores": 2, "dtype": "bfloat16", "gpu": "A100"}, "losses": []}  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / f"nli-{method}-s{seed}.json").write_text(json.dumps(run))


def test_the_comparison_of_methods_is_written_once_it_is_recorded(tmp_path):
    assert ablation_block(tmp_path).startswith("Not recorded yet")
    for seed in (0, 1):
        record(tmp_path / "ablate", "text", seed, [0, 1, 0, 1])
        record(tmp_path / "ablate", "jsd", seed, [1, 1, 0, 1])
    block = ablation_block(tmp_path)
    assert "| jsd | 75.0 % (" in block and "recorded 2026-11-26 on A100, bfloat16" in block
    write_ablation_figure(tmp_path, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_only_what_is_between_the_markers_changes():
    start, end = ABLATION
    text = f"before\n{start}\nold\n{end}\nafter"
    assert between(text, start, end, "new") == f"before\n{start}\n\nnew\n{end}\nafter"
    with pytest.raises(ValueError):
        between("no markers", start, end, "new")
