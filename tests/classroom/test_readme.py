"""Numbers reach the README from the recorded files alone, between their markers."""

import json

import pytest

from slmops_utils.classroom.readme import (
    ABLATION,
    ablation_block,
    ablation_summary,
    between,
    edge_block,
    edge_summary,
    intents_table,
    intents_verdicts,
    main,
    record,
    sizes_summary,
    write_ablation_figure,
    write_figure,
)


def write_run(folder, method, seed, scores):
    part = {"metric": "accuracy", "score": sum(scores) / len(scores), "unfinished": 0, "ids": "x", "scores": scores}
    run = {"task": "nli", "method": method, "seed": seed, "steps": 10, "seconds": 120.0, "tokens_per_s": 9, "parameters": 10**6,
           "teacher": "t", "start": "s", "validation": part, "test": part, "date": "2026-11-26", "device": "cuda",
           "hardware": {"cores": 2, "dtype": "bfloat16", "gpu": "A100"}, "losses": []}  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / f"nli-{method}-s{seed}.json").write_text(json.dumps(run))


def test_the_comparison_of_methods_is_written_once_it_is_recorded(tmp_path):
    assert ablation_block(tmp_path) == "" and ablation_summary(tmp_path).startswith("Not recorded yet")
    for seed in (0, 1):
        write_run(tmp_path / "ablate", "text", seed, [0, 1, 0, 1])
        write_run(tmp_path / "ablate", "jsd", seed, [1, 1, 0, 1])
    block = ablation_block(tmp_path)
    assert "| jsd | 75.0 % (" in block and "recorded 2026-11-26 on A100, bfloat16" in block
    assert "| method | nli, 2 seeds |" in (short := ablation_summary(tmp_path)) and "| jsd | 75.0 % (" in short
    write_ablation_figure(tmp_path, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_what_is_above_or_below_text_is_marked(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path / "ablate", "text", seed, [0, 1] * 100)
        write_run(tmp_path / "ablate", "jsd", seed, [1, 1] * 100)
        write_run(tmp_path / "ablate", "hidden", seed, [0, 0] * 100)
        write_run(tmp_path / "ablate", "on_policy", seed, [0, 1] * 99 + [1, 1])
    marks = {line.split(" | ")[0][2:]: line[-3] for line in ablation_summary(tmp_path).splitlines()[2:]}
    assert marks == {"text": ")", "jsd": "▲", "hidden": "▼", "on_policy": ")"}


def test_the_sizes_stand_side_by_side_with_the_teacher_last(tmp_path):
    assert sizes_summary(tmp_path).startswith("Not recorded yet")
    (tmp_path / "sizes").mkdir()
    for task, layers, rule, right in (("nli", 0, "early", 8), ("nli", 4, "even", 2), ("nli", 6, "even", 4), ("nli", 6, "early", 9),
                                      ("qa", 0, "early", 5), ("qa", 6, "even", 5)):  # fmt: skip
        scores = [1] * right + [0] * (10 - right)
        run = {"task": task, "layers": layers, "rule": rule, "healed": False, "kind": "student", "seed": 0, "metric": "accuracy",
               "name": f"{task}{layers}{rule}", "parameters": 10**6 * (layers or 30), "scores": {"test": scores}}  # fmt: skip
        (tmp_path / "sizes" / f"{task}{layers}{rule}.json").write_text(json.dumps(run))
    lines = sizes_summary(tmp_path).splitlines()
    assert lines[0] == "| layers (even) | parameters | nli | qa |"
    assert lines[2].startswith("| 4 | 4 M | 20.0 % (") and lines[2].endswith(" / 25 % |  |")
    assert "90.0 %" not in "".join(lines) and lines[3].endswith(" / 100 % |")
    assert lines[-1].startswith("| teacher | 30 M | 80.0 % (")


def intents(folder, seed, teacher, student):
    def score(value):
        return {"accuracy": {"value": value, "ci95": [value - 0.04, value + 0.04]}}

    def row(role, value):
        return {"role": role, "parameters": 24e6, "bytes_on_disk": 47e6, "latency_ms": {"p50": 40.0},
                "throughput_per_s": 90.0, "metrics": score(value)}  # fmt: skip

    gap = {
        "metric": "accuracy",
        "difference": student - teacher,
        "ci95": [-0.03, 0.03],
        "p_value": 0.6,
        "could_see": 0.05,
    }
    results = {"task": "nli", "n_test": 400, "date": "2026-11-26", "hardware": {"cores": 2, "dtype": "bfloat16"},
               "rows": [row("teacher", teacher), row("untuned", 0.0), row("student", student)],
               "reference_rows": {"majority class": score(0.02)},
               "comparisons": [gap | {"a": "student", "b": "teacher"}, gap | {"a": "student", "b": "untuned"}]}  # fmt: skip
    (folder / f"banking77_seed{seed}.json").write_text(json.dumps(results))


def test_the_road_on_banking77_has_a_column_for_each_seed_and_their_mean(tmp_path):
    assert intents_table(tmp_path) == "" and intents_verdicts(tmp_path) == ""
    intents(tmp_path, 0, 0.8, 0.79)
    intents(tmp_path, 2, 0.82, 0.85)
    block, told = intents_table(tmp_path), intents_verdicts(tmp_path)
    assert "| | seed 0 | seed 2 | mean |" in block
    assert "| student | 79.0 % (75.0 to 83.0) | 85.0 % (81.0 to 89.0) | 82.0 % | 24.0 M |" in block
    assert "| majority class | 2.0 %" in block and "untuned" not in told
    assert "- seed 2: no difference seen between student and teacher: +3.0 points" in told
    write_figure(tmp_path, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    path = tmp_path / "banking77_seed2.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps(results | {"rows": [row for row in results["rows"] if row["role"] != "untuned"]}))
    assert "| untuned | 0.0 % (-4.0 to 4.0) |  |  | 24.0 M |" in intents_table(tmp_path), (
        "each score under its own seed"
    )


def test_the_edge_is_told_with_what_was_not_measured(tmp_path):
    assert edge_block(tmp_path) == "" and edge_summary(tmp_path).startswith("Not recorded yet")

    def row(role, value, memory):
        return {"role": role, "model": role, "parameters": 24e6, "bytes_on_disk": 25e6, "latency_ms": {"p50": 40.0},
                "peak_memory_bytes": memory, "throughput_per_s": 90.0, "metrics": {"accuracy": {"value": value, "ci95": [value] * 2}}}  # fmt: skip

    goal = {
        m: {"value": None, "aim": 0.9, "reached": False} for m in ("latency", "memory", "bytes_on_disk", "retention")
    }
    results = {"task": "nli", "n_test": 9, "date": "2026-11-26", "hardware": {"cores": 2, "dtype": "bfloat16"},
               "rows": [row("teacher", 0.8, 2**30), row("student", 0.7, 2**29), row("gguf q8_0", 0.6, None)],
               "retention": None, "edge": {"gguf q8_0": goal}, "requests_vs_teacher": {},
               "checks": {"gguf q8_0": {"same_verdict": 0.991, "same_argmax": 0.98}}}  # fmt: skip
    path = tmp_path / "edge_tickets.json"
    path.write_text(json.dumps(results))
    block = edge_block(tmp_path)
    assert "**tickets** (9 test rows" in block and "| 512 MiB |" in block and "at once" not in block
    assert "| gguf q8_0 | 60.0 % (60.0 to 60.0) |  | 40 ms | not measured | 25.0 MB | 99.1% | 98.0% |  |" in block
    asked = {
        "value": 48.805,
        "unit": "requests/s at 8",
        "peer": "teacher",
        "peer_value": 13.746,
        "ratio": 3.55,
        "aim": 8.0,
    }
    path.write_text(json.dumps(results | {"requests_vs_teacher": {"gguf q8_0": asked}}))
    assert "| 48.8 (3.6 ×) |" in edge_block(tmp_path) and "the aim of 8 × is missed" in edge_block(tmp_path)
    assert edge_summary(tmp_path).startswith("Not recorded yet"), "it tells of the four-bit file, and there is none"
    goal["latency"], goal["retention"] = [{"value": v, "aim": 0.9, "reached": v > 0.9} for v in (0.937, 0.5)]
    path.write_text(json.dumps(results | {"edge": {"gguf q4_0": goal}, "requests_vs_teacher": {"gguf q4_0": asked}}))
    (line,) = [line for line in edge_summary(tmp_path).splitlines() if line.startswith("| tickets")]
    assert line == "| tickets | −93.7 % ★ | not measured | not measured | 50.0 % | 3.6 × |"


def test_only_what_is_between_the_markers_changes():
    start, end = ABLATION
    text = f"before\n{start}\nold\n{end}\nafter"
    assert between(text, start, end, "new") == f"before\n{start}\n\nnew\n{end}\nafter"
    with pytest.raises(ValueError):
        between("no markers", start, end, "new")


def test_the_record_holds_everything_and_a_stale_one_is_noticed(tmp_path, monkeypatch, capsys):
    results = tmp_path / "data" / "results"
    results.mkdir(parents=True)
    intents(results, 0, 0.8, 0.79)
    markers = "".join(
        f"<!-- {name}: written by slmops_utils.classroom.readme -->\n<!-- /{name} -->\n"
        for name in ("results", "ablation", "sizes", "edge")
    )
    (tmp_path / "README.md").write_text(markers)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["readme", "--check"])
    assert main() == 1 and "README.md and data/results/README.md differ" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["readme"])
    assert main() == 0
    text = (results / "README.md").read_text(encoding="utf-8")
    assert text == record(results) and "- seed 0: no difference seen" in text and "Nothing is recorded yet." in text
    assert "| teacher | 80.0 % (" in (tmp_path / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["readme", "--check"])
    assert main() == 0
    intents(results, 1, 0.8, 0.79)
    assert main() == 1
