"""The model card: what it says is what was done and measured, and each licence's duties stand in it."""

import json
import re

import pytest
import yaml

from slmops_utils.__main__ import main
from slmops_utils.deploy.model_card import has_card, remember_scores, remember_training, write_model_card
from slmops_utils.deploy.origin import ancestors, duties
from slmops_utils.models.carve import save
from slmops_utils.records import Example, Response, write_records
from slmops_utils.synthesize.presets import terms_of


def rows(teacher="data/teacher", count=4):
    labels = ("entailment", "neutral", "contradiction")
    for i in range(count):
        response = Response("neutral", teacher) if i % 2 else None
        yield Example(f"e{i}", "nli", [{"role": "user", "content": f"Premise: £{i}."}], labels[i % 3], response)


@pytest.fixture
def student(tiny, tmp_path):
    """A student's folder without a card, and the file it was trained on."""
    save(tiny, str(tmp_path / "student"))
    write_records(tmp_path / "train.jsonl", rows())
    return tmp_path / "student"


def carded(student, teacher="data/teacher", start="embedded"):
    data = student.parent / "train.jsonl"
    return remember_training(student, start, [data], list(rows(teacher))).read_text()


def results(role="student", value=0.75, low=-0.1):
    score = {"value": value, "ci95": [0.7, 0.8]}
    comparison = {
        "a": role,
        "b": "baseline",
        "metric": "accuracy",
        "difference": 0.05,
        "ci95": [low, 0.2],
        "p_value": 0.4,
    }
    return {"task": "nli", "n_test": 330, "date": "2026-11-24", "hardware": {"cores": 2, "dtype": "float32"},
            "rows": [{"model": "x", "role": role, "parameters": 1, "bytes_on_disk": 1, "metrics": {"accuracy": score},
                      "latency_ms": {"p50": 74.0, "p95": 80.0}, "throughput_per_s": 15.7}],
            "comparisons": [comparison], "retention": {"value": 0.97, "ci95": [0.9, 1.02]}}  # fmt: skip


def head(card):
    return yaml.safe_load(re.match(r"---\n(.*?)---\n", card, re.S)[1])


def test_the_card_names_data_teacher_and_weights(student):
    card = carded(student)
    assert "4 rows (`nli` 4): 2 with labels only; answered by a teacher: 2 by `data/teacher`" in card
    assert re.search(r"train\.jsonl`, SHA-256 `[0-9a-f]{64}`", card)
    assert "Apache-2.0" in card and "None yet" in card
    found = head(card)
    assert (found["license"], found["base_model"]) == ("apache-2.0", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert found["tags"] == ["distillation", "nli"] and "model-index" not in found
    for part in ("## Data", "## Licence duties", "## Scores", "## Limits", "## How to load it"):
        assert card.count(part) == 1


def test_scores_are_added_with_their_intervals_and_go_when_it_is_trained_again(student):
    carded(student)
    card = remember_scores(student, results(), "student", "test.jsonl").read_text()
    assert "| accuracy | 75.0 % (70.0 to 80.0) |" in card and "330 rows, 2026-11-24" in card
    assert "retention (student over teacher): 97.0 % (90.0 to 102.0)" in card
    assert "no gain over training on labels alone was seen" in card and "no difference seen" in card
    (entry,) = head(card)["model-index"][0]["results"]
    assert entry["metrics"] == [{"type": "accuracy", "value": 0.75}] and entry["dataset"]["name"] == "nli: test.jsonl"
    card = remember_scores(student, results(value=0.5, low=0.01), "student", "challenge.jsonl").read_text()
    assert "75.0 %" in card and "50.0 %" in card, "a second test stands beside the first"
    assert card.count("no gain over") == 1
    assert "75.0 %" not in carded(student)


@pytest.mark.parametrize(
    ("teacher", "allowed", "duty"),
    [
        ("deepseek-chat@api.deepseek.com/v1", "yes", "use limits"),
        ("gpt-4.1@api.openai.com/v1", "restricted", "compete"),
        ("claude-sonnet-4-6@api.anthropic.com/v1", "restricted", "written permission"),
        ("gpt-4o@mine.services.ai.azure.com/openai/v1", "restricted", "compete"),
        ("claude-sonnet-4-6@mine.services.ai.azure.com/openai/v1", "restricted", "written permission"),
        ("mystery@models.example/v1", "check", "read them before"),
        ("mine@127.0.0.1:8080/v1", "check", "Your own server"),
        ("embedded", "yes", "ship the licence"),
        ("hub:microsoft/Phi-4-mini-instruct", "yes", "Apache-2.0 or MIT"),
    ],
)
def test_a_teachers_terms_are_duties(student, teacher, allowed, duty):
    card = carded(student, teacher)
    assert f"allowed: **{allowed}**" in card and duty in card
    assert "Built with Llama" not in card


def test_a_student_of_llama_gets_its_name(student):
    card = carded(student, "meta-llama-3.1-405b@models.example/v1")
    assert (
        "# Llama-student\n" in card
        and "Built with Llama" in card
        and "only under a name such as `Llama-student`" in card
    )
    named = student.rename(student.with_name("llama-desk"))
    assert "# llama-desk\n" in write_model_card(named).read_text(), "a folder that has the name keeps it"
    card = carded(named, "embedded", start="hub:meta-llama/Llama-3.1-8B-Instruct")
    assert head(card)["license"] == "llama3.1" and "ship the licence and notice" in card


@pytest.mark.parametrize(("method", "asked"), [("forward_kl", True), ("text", False), ("step_by_step", False)])
def test_a_teacher_asked_for_its_probabilities_is_on_the_card(method, asked, student, monkeypatch):
    monkeypatch.setattr("slmops_utils.distill.distill.distill", lambda *args, **options: {})
    data, teacher = student.parent / "labels.jsonl", "hub:meta-llama/Llama-3.1-8B-Instruct"
    write_records(data, [Example(e.id, e.task, e.messages, e.reference) for e in rows()])
    command = ["distill", "--student", "embedded", "--data", str(data), "--out", str(student), "--method", method]
    assert main([*command, "--teacher", teacher]) == 0
    card = (student / "README.md").read_text()
    assert (f"comparisons with the teacher `{teacher}`, training on them is allowed: **yes**" in card) is asked
    assert ("# Llama-student\n" in card and "Built with Llama" in card) is asked
    assert ("No teacher's answers were trained on" in card) is not asked


def test_a_served_teacher_that_also_answered_is_on_the_card_once(student):
    name, data = "gpt-4.1@api.openai.com/v1", student.parent / "train.jsonl"
    card = remember_training(student, "embedded", [data], list(rows(name)), ["endpoint:gpt-4.1@openai"]).read_text()
    assert card.count(f"the teacher `{name}`") == card.count("compete with OpenAI's") == 1 and "endpoint:" not in card


def test_the_road_back_to_published_weights(tiny_folder, tmp_path):
    adapter, carved = tmp_path / "adapter", tmp_path / "carved"
    adapter.mkdir()
    carved.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "embedded"}')
    (carved / "shrink.json").write_text(json.dumps({"parent": str(adapter)}))
    assert ancestors(str(carved)) == [str(carved), str(adapter), "embedded"]
    assert ancestors(tiny_folder) == [tiny_folder]
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(carved)}))
    assert ancestors(str(carved)) == [str(carved), str(adapter)], "a circle ends"
    assert duties([str(carved)])[0][1] == terms_of("adapter")


def test_names_from_records_are_text(student):
    hostile = "x`\n# Owned\n<script>alert(1)</script> | [a](http://127.0.0.1)"
    card = carded(student, hostile)
    assert "\n# Owned" not in card and card.count("\n# ") == 1
    assert "`x' # Owned <script>alert(1)</script> | [a](http://127.0.0.1)`" in card, "inside code font it is only shown"
    made = results()
    made["task"] = hostile
    card = remember_scores(student, made, "student", "test.jsonl").read_text()
    body = card.split("---\n", 2)[2]
    assert "<script>" not in re.sub(r"`[^`\n]*`", "", body) and "\n# Owned" not in body


def test_a_folder_without_facts_says_who_writes_them(student):
    assert not has_card(student)
    with pytest.raises(FileNotFoundError, match="`distill` writes it"):
        write_model_card(student)


def test_distill_writes_the_card_and_evaluate_fills_it_in(tiny_folder, tmp_path, capsys):
    data, test, out = tmp_path / "train.jsonl", tmp_path / "test.jsonl", tmp_path / "out"
    write_records(data, rows("embedded"))
    write_records(test, [Example(e.id, e.task, e.messages, e.reference) for e in rows(count=6)])
    shrink = ["shrink", "--model", tiny_folder, "--layers", "2", "--out", str(tmp_path / "carved")]
    assert main(shrink) == 0
    train = [
        "distill",
        "--student",
        str(tmp_path / "carved"),
        "--data",
        str(data),
        "--out",
        str(out),
        "--max-steps",
        "1",
    ]
    assert main(train) == 0
    assert f"model card: {out / 'README.md'}" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert f"`{tmp_path / 'carved'}` ← `{tiny_folder}`" in card and "Trained 1 steps" in card and "None yet" in card
    assert main(["evaluate", "--student", str(out), "--test", str(test), "--no-costs"]) == 0
    assert "6 rows" in (out / "README.md").read_text()
    assert "| accuracy |" in (out / "README.md").read_text()
