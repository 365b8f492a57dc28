"""What every task type has to be for the stages, whichever it is."""

import ast
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from slmops_utils.records import Example
from slmops_utils.tasks import MODULES, Metric, Task, choose_shots, get_task, instructed, validate

ASKED = {"role": "user", "content": "Which lamp is lit?"}
REFERENCES = {
    "nli": "neutral",
    "qa": {"answers": ["the red lamp"]},
    "math": {"answer": "£9", "steps": "2 x £4.50 = £9.00"},
    "conversation": {"reply": "The red lamp.", "required": [["red"]], "forbidden": ["green"]},
    "summarization": {"note": "The red lamp is lit.", "required": [["red"]], "forbidden": ["green"]},
}


@pytest.mark.parametrize("name", MODULES)
def test_a_gold_answer_scores_in_full_and_an_empty_or_hostile_one_nothing(name):
    task, record = get_task(name), Example("x", name, [ASKED], REFERENCES[name])
    assert task.name == name
    headline = task.metrics[task.headline]
    assert validate(record) is None
    assert headline.aggregate([headline.value(record, task.target(record))]) == 1
    for text in ("", " ", "\x00", "eval('1')"):
        assert headline.value(record, text) == 0
    assert task.parse(task.target(record), (task.target(record),)) and not task.parse("", ())


@pytest.mark.parametrize("name", MODULES)
def test_the_prompt_ends_with_the_user_and_starts_with_an_instruction(name):
    messages = get_task(name).prompt(Example("x", name, [ASKED], REFERENCES[name]))
    assert [m["role"] for m in messages] == ["system", "user"] and messages[1] == ASKED


@pytest.mark.parametrize("name", MODULES)
def test_a_reference_of_the_wrong_kind_is_found(name):
    if name != "nli":  # any label is a label
        assert validate(Example("x", name, [ASKED], ["red"])) is not None


def runs_text(code: str) -> list[int]:
    """The lines that call what runs a text as code. `model.eval()` and `re.compile()` are methods of that name."""
    calls = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
    return [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id in ("eval", "exec", "compile")]


def test_nothing_in_the_package_runs_what_a_model_or_a_file_says():
    assert runs_text("model.eval()\nre.compile(text)\neval(text)\nx = [exec(t) for t in compile(a, b, c)]") == [3, 4, 4]
    files = sorted((Path(__file__).parents[2] / "slmops_utils").rglob("*.py"))
    assert len(files) > 50
    assert {p.name: lines for p in files if (lines := runs_text(p.read_text(encoding="utf-8")))} == {}


def test_an_unknown_task_is_an_error_that_names_those_there_are():
    with pytest.raises(ValueError, match="nli, qa, math, conversation, summarization"):
        get_task("translation")


def test_an_instruction_goes_before_the_article_and_leaves_the_record_alone():
    article = {"role": "system", "content": "The red lamp is lit."}
    record = Example("x", "qa", [article, ASKED])
    assert instructed(record, "Look.") == [{"role": "system", "content": "Look.\n\nThe red lamp is lit."}, ASKED]
    assert instructed(Example("x", "qa", [ASKED]), "Look.") == [{"role": "system", "content": "Look."}, ASKED]
    assert record.messages == [article, ASKED]


def test_only_metrics_that_apply_to_every_example_are_taken():
    red = Metric(lambda e, t: 1.0, max, lambda e: e.reference == "red")
    task = Task(
        "lamp", lambda e: e.messages, str, lambda t, _: t, {"red": red, "any": Metric(lambda e, t: 0.0, max)}, 1
    )
    lamps = [Example("1", "lamp", [ASKED], "red"), Example("2", "lamp", [ASKED], "green")]
    assert list(task.metrics_for(lamps[:1])) == ["red", "any"] and list(task.metrics_for(lamps)) == ["any"]
    only = Task("lamp", task.prompt, str, task.parse, {"red": red}, 1)
    with pytest.raises(ValueError, match="no score of lamp"):
        only.metrics_for(lamps)


def test_finding_a_task_does_not_import_sacrebleu():
    code = "import sys; from slmops_utils.tasks import MODULES, get_task; [get_task(n) for n in MODULES]; print('sacrebleu' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_sixth_task_of_the_readme_works_from_one_file(tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = textwrap.dedent(readme.split("<!-- sixth task -->")[1].split("<!-- /sixth task -->")[0])
    assert len(code.strip().splitlines()) < 40
    (tmp_path / "extraction.py").write_text(code, encoding="utf-8")
    use = """
from slmops_utils.records import Example
from slmops_utils.tasks import get_task, validate
asked = [{"role": "user", "content": "Ring me on 0800 622 or 0800 410."}]
task, row = get_task("extraction"), Example("a", "extraction", asked, ["0800 622", "0800 410"])
assert validate(row) is None and task.prompt(row)[0]["role"] == "system"
score = task.metrics["f1"].value
assert score(row, "0800 622") == 2 / 3 and score(row, "none") == 0 and score(row, "0800 410, 0800 622") == 1
try:
    get_task("translation")
except ValueError as error:
    assert "summarization, extraction" in str(error)
"""
    environment = {**os.environ, "SLMOPS_TASKS": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", use], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", ["os", "../nli", "nli.TASK", "__init__", "quantity", ""])
def test_a_name_from_a_data_file_reaches_no_other_module(name):
    with pytest.raises(ValueError, match="no task type"):
        get_task(name)


def test_shots_are_of_each_label_in_turn_and_the_first_rows_where_answers_are_free():
    labels = [
        ("a", "neutral"),
        ("b", "neutral"),
        ("c", "entailment"),
        ("d", "neutral"),
        ("e", "entailment"),
        ("f", "neutral"),
    ]
    closed = [Example(i, "nli", [{"role": "user", "content": "?"}], label) for i, label in labels]
    assert [e.id for e in choose_shots(closed, 3)] == ["a", "c", "b"]
    free = [replace(e, reference={"answers": [e.id]}) for e in closed]
    assert [e.id for e in choose_shots(free, 2)] == ["a", "b"]
    assert choose_shots([], 2) == [] == choose_shots(closed, 0)
