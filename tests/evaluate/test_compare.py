"""The benchmark table: every model on the same rows, with intervals, tests and costs."""

import json

import pytest

from slmops_utils.evaluate.compare import evaluate, table
from slmops_utils.records import Example, read_records

LABELS = ("entailment", "neutral", "contradiction")
COSTS = {"latency_ms", "throughput_per_s", "peak_memory_bytes"}


def rows(count: int = 6) -> list[Example]:
    return [
        Example(
            f"e{i}",
            "nli",
            [{"role": "user", "content": f"Premise: £{i}. Hypothesis: £5."}],
            LABELS[i % 3],
            extra={"fact": i},
        )
        for i in range(count)
    ]


@pytest.fixture
def compared(tiny_folder, tmp_path):
    """A teacher and a student that are one model, and the file their comparison was written to."""
    out = tmp_path / "results.json"
    names = {"teacher": tiny_folder, "student": tiny_folder}
    return evaluate(names, rows(), train=rows(12), out=out, costs=False), out


def test_the_results_hold_every_score_with_its_interval(compared, tiny, tiny_folder):
    results, out = compared
    assert json.loads(out.read_text()) == results
    assert (results["task"], results["n_test"], results["shots"]) == ("nli", 6, 0)
    assert [row["role"] for row in results["rows"]] == ["teacher", "student"]
    for row in results["rows"]:
        assert (row["model"], row["parameters"]) == (tiny_folder, tiny.parameters)
        assert row["bytes_on_disk"] > 0
        assert not COSTS & set(row)
        check_scores(row["metrics"])
    for metrics in results["reference_rows"].values():
        check_scores(metrics)
    assert set(results["reference_rows"]) == {"majority class", "TF-IDF classifier"}
    assert {"cores", "dtype", "memory_gib"} <= set(results["hardware"])


def check_scores(metrics):
    assert set(metrics) == {"accuracy", "macro_f1"}
    for score in metrics.values():
        low, high = score["ci95"]
        assert 0 <= low <= high <= 1 and 0 <= score["value"] <= 1


def test_a_model_compared_with_itself_shows_no_difference(compared):
    (comparison,) = compared[0]["comparisons"]
    assert (comparison["a"], comparison["b"], comparison["metric"]) == ("student", "teacher", "accuracy")
    assert (comparison["difference"], comparison["p_value"], comparison["p_corrected"]) == (0.0, 1.0, 1.0)
    low, high = comparison["ci95"]
    assert low == pytest.approx(-high) and high > 0  # rows that never disagree leave room for some that would
    assert "no difference seen between student and teacher" in table(compared[0])


def test_every_answer_is_written_beside_the_results(compared):
    _, out = compared
    written = list(read_records(out.with_suffix(".answers.jsonl")))
    assert [(e.id, e.reference, e.extra["fact"]) for e in written] == [
        (e.id, e.reference, e.extra["fact"]) for e in rows()
    ]
    for example in written:
        given = example.extra["answers"]
        assert set(given) == {"teacher", "student"}
        assert given["teacher"] == given["student"]
        assert set(given["teacher"]) == {"text", "score"}


def test_the_score_is_the_share_of_right_answers(tiny_folder, monkeypatch):
    from slmops_utils.evaluate import compare
    from slmops_utils.synthesize.answer import Answer

    said = ["Entailment.", "neutral", "entailment", "entailment", "I cannot say", "contradiction"]  # four are right
    monkeypatch.setattr(compare, "answer", lambda *_: [Answer(i, text, "stop", 1, 1) for i, text in enumerate(said)])
    results = evaluate({"teacher": tiny_folder, "student": tiny_folder}, rows(), costs=False)
    score = results["rows"][0]["metrics"]["accuracy"]
    assert score["value"] == pytest.approx(4 / 6)
    assert score["ci95"][0] < 4 / 6 < score["ci95"][1]
    assert results["retention"]["value"] == 1.0 and results["retentions"] == {"student": results["retention"]}
    assert "66.7 %" in table(results)


def test_shots_are_shown_to_the_model_as_earlier_turns(tiny_folder, monkeypatch):
    from slmops_utils.evaluate import compare
    from slmops_utils.synthesize.answer import Answer

    asked = []

    def listen(_, prompts, *__):
        asked.extend(prompts)
        return [Answer(i, "neutral", "stop", 1, 1) for i in range(len(prompts))]

    monkeypatch.setattr(compare, "answer", listen)
    results = evaluate({"untuned": tiny_folder}, rows(2), shots=rows(3), costs=False)
    assert results["shots"] == 3 and results["retention"] is None and results["comparisons"] == []
    roles = [message["role"] for message in asked[0]]
    assert roles == ["system", *["user", "assistant"] * 3, "user"]


def test_costs_are_measured_in_a_process_of_their_own(tiny_folder):
    results = evaluate({"student": tiny_folder}, rows(3), price_per_hour=0.5)
    (row,) = results["rows"]
    assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p95"]
    assert row["throughput_per_s"] > 0
    assert 50 * 2**20 < row["peak_memory_bytes"] < 8 * 2**30
    assert row["cost_per_1k_usd"] == pytest.approx(1000 * 0.5 / 3600 / row["throughput_per_s"], abs=1e-4)
    assert "MiB" in table(results)


def test_a_failed_measurement_says_why(tmp_path):
    from slmops_utils.evaluate.measure import measure

    with pytest.raises(RuntimeError, match="no model"):
        measure(str(tmp_path / "gone"), [], 4)


def test_rows_without_a_label_are_an_error(tiny_folder):
    unlabelled = Example("bare", "nli", rows(1)[0].messages)
    with pytest.raises(ValueError, match=r"1 rows have no reference.*'bare'"):
        evaluate({"student": tiny_folder}, [*rows(), unlabelled], costs=False)


def test_rows_of_two_tasks_or_none_are_an_error(tiny_folder):
    other = Example("c", "conversation", rows(1)[0].messages, {"reply": "x", "required": [], "forbidden": []})
    with pytest.raises(ValueError, match=r"one task at a time.*conversation.*nli"):
        evaluate({"student": tiny_folder}, [*rows(), other], costs=False)
    with pytest.raises(ValueError, match="none"):
        evaluate({"student": tiny_folder}, [], costs=False)


GOLD = {
    "qa": {"answers": ["5 days"]},
    "math": {"answer": "£9", "steps": "2 x £4.50 = £9.00"},
    "conversation": {"reply": "The red one.", "required": [["red"]], "forbidden": ["green"]},
    "summarization": {"note": "The red lamp is lit today.", "required": [["red"]], "forbidden": ["green"]},
    "summarization without facts": "The red lamp is lit today.",
}


@pytest.mark.parametrize("kind", GOLD)
def test_every_task_is_compared_on_its_own_scores(kind, tmp_path, monkeypatch):
    """A teacher that knows everything and a student that knows nothing stand in: no model is loaded."""
    from types import SimpleNamespace

    from slmops_utils.evaluate import compare
    from slmops_utils.synthesize.answer import Answer
    from slmops_utils.tasks import get_task
    from slmops_utils.tasks.summarization import signature

    name = kind.split()[0]
    task, messages = (
        get_task(name),
        [{"role": "system", "content": "It is red."}, {"role": "user", "content": "What is it?"}],
    )
    test = [Example(f"e{i}", name, messages, GOLD[kind]) for i in range(4)]
    said = {"knows": [task.target(e) for e in test], "knows nothing": ["", "no", "?", "none"]}
    monkeypatch.setattr(
        compare, "load_model", lambda model: SimpleNamespace(parameters=1, answer_batch=32, model=model)
    )
    monkeypatch.setattr(compare, "bytes_on_disk", lambda _: 1)
    monkeypatch.setattr(
        compare, "answer", lambda m, *_: [Answer(i, t, "stop", 1, 1) for i, t in enumerate(said[m.model])]
    )
    out = tmp_path / "results.json"
    results = evaluate({"teacher": "knows", "student": "knows nothing"}, test, train=test, out=out, costs=False)
    assert json.loads(out.read_text()) == results
    teacher, student = (row["metrics"] for row in results["rows"])
    assert list(teacher) == list(task.metrics_for(test)) == list(next(iter(results["reference_rows"].values())))
    assert {metric: score["value"] for metric, score in teacher.items()} == dict.fromkeys(teacher, 1.0)
    assert {metric: score["value"] for metric, score in student.items()} == dict.fromkeys(student, 0.0)
    assert results.get("bleu_signature") == (signature() if "bleu" in teacher else None)
    (comparison,) = results["comparisons"]
    assert (comparison["metric"], comparison["difference"]) == (next(iter(teacher)), -1.0)
    assert "100.0 %" in table(results)
