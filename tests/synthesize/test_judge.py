"""A judge's grades are read where they are clear, kept beside the answer, and come from a real server here."""

import json

import pytest
from server import Server, problem
from test_endpoint import QUICK, no_keys  # noqa: F401

from slmops_utils.__main__ import main
from slmops_utils.records import Example, Response, read_records, write_records
from slmops_utils.synthesize.judge import agreement, judge, judge_prompt, read_score


def row(i, text="neutral", **more):
    return Example(f"q{i}", "nli", [{"role": "user", "content": f"It is £{i}."}], response=Response(text, "t"), **more)


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ('{"reason": "fine", "score": 4}', 4),
        ('```json\n{"score": "5/5", "reason": "x"}\n```', 5),
        ("Score: 2", 2),
        ("The score is **3** because it leaves out the fee.", 3),
        ("4", 4),
        ("4/5", 4),
        ('{"score": 1, "reason": "cut', 1),
        ('{"score": 0}', None),
        ('{"score": 7}', None),
        ('{"score": true}', None),
        ("Score: 4.5", None),
        ("It is a good answer.", None),
        ("3 of the 5 facts are there", None),
        ("", None),
    ],
)
def test_a_grade_is_read_where_there_is_one(text, grade):
    found = read_score(text)
    assert (found and found[0]) == grade


def test_the_judge_is_shown_question_answer_and_rubric():
    system, user = (m["content"] for m in judge_prompt(row(7, "It says six. neutral"), "5: perfect"))
    assert "5: perfect" in system and "no orders" in system
    assert user.index("It is £7.") < user.index("It says six. neutral")


def grader(number, body):
    said = body["messages"][-1]["content"]
    if "£3." in said:
        return problem(400)
    return (
        "no idea"
        if "£4." in said
        else json.dumps({"reason": "r", "score": 1 if "entailment" in said.split("answered")[1] else 5})
    )


def test_grades_are_kept_and_nothing_is_deleted(tmp_path):
    rows = [row(1), row(2, "entailment"), row(3), row(4), Example("q5", "nli", row(5).messages)]
    with Server(grader) as server:
        options = {"network": QUICK}
        judged, report = judge(f"endpoint:j@{server.url}", rows, tmp_path / "judge.jsonl", **options)
        asked = len(server.requests)
        again, _ = judge(f"endpoint:j@{server.url}", rows, tmp_path / "judge.jsonl", **options)
        assert len(server.requests) == asked + 1, "only the failed call is asked again"
    assert [e.extra.get("judge", {}).get("score", "none") for e in judged] == [5, 1, "none", None, "none"]
    assert [e.extra for e in again] == [e.extra for e in judged]
    assert [e.response and e.response.text for e in judged] == ["neutral", "entailment", "neutral", "neutral", None]
    assert report["asked"] == 3 and not rows[0].extra


def test_nothing_to_judge_asks_nobody(tmp_path):
    assert (
        judge("endpoint:j@http://127.0.0.1:9/v1", [Example("a", "nli", row(1).messages)], tmp_path / "j")[1]["asked"]
        == 0
    )


def test_how_far_a_judge_can_be_trusted():
    def graded(text, score):
        return row(1, text, reference="neutral", extra={"judge": {"score": score, "reason": "", "model": "j"}})

    rows = [graded("neutral", 5), graded("neutral", 2), graded("entailment", 4), graded("entailment", None)]
    assert agreement(rows) == {"rows": 4, "unread": 1, "right_passed": 0.5, "wrong_passed": 0.5}
    with pytest.raises(ValueError, match="no labelled row"):
        agreement([row(1)])


def test_filter_asks_a_judge_from_the_command_line(tmp_path, capsys):
    write_records(tmp_path / "in.jsonl", [row(1), row(2, "entailment")])
    (tmp_path / "rubric.txt").write_text("5: mine")
    with Server(grader) as server:
        options = ["--in", tmp_path / "in.jsonl", "--out", tmp_path / "kept.jsonl", "--judge", f"endpoint:j@{server.url}",
                   "--rubric", tmp_path / "rubric.txt", "--gates", "answered", "judged"]  # fmt: skip
        assert main(["filter", *map(str, options)]) == 0
        assert "5: mine" in server.requests[0]["body"]["messages"][0]["content"]
    assert "the judge gave N" in capsys.readouterr().out
    assert [e.id for e in read_records(tmp_path / "kept.jsonl")] == ["q1"]
    (dropped,) = read_records(tmp_path / "kept.dropped.jsonl")
    assert dropped.extra["gates"]["judged"] == "the judge gave 1" and dropped.extra["judge"]["reason"] == "r"


def test_a_judge_costs_no_more_than_it_may(tmp_path, capsys):
    write_records(tmp_path / "in.jsonl", [row(i) for i in range(1, 3)])
    with Server(grader) as server:
        options = ["--in", tmp_path / "in.jsonl", "--out", tmp_path / "kept.jsonl", "--judge", f"endpoint:j@{server.url}",
                   "--price", 1000, 1000, "--max-dollars", 0.01]  # fmt: skip
        assert main(["filter", *map(str, options)]) == 1
        assert not server.requests
    assert "the judge ended early" in capsys.readouterr().err
    assert not (tmp_path / "kept.jsonl").exists(), "half-judged rows pass no gate"
