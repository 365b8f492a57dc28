"""The case study: the source's claims recomputed, and the same table from measurements."""

import json
from pathlib import Path

import pytest

from slmops_utils.evaluate.case_study import achieved, case_study, check_claims, columns, per_hour, reduction

ROOT = Path(__file__).parents[2]


def row(role, parameters, memory, milliseconds, score, speed, **more):
    return {"model": role, "role": role, "parameters": parameters, "bytes_on_disk": parameters * 2,
            "peak_memory_bytes": memory, "latency_ms": {"p50": milliseconds, "p95": milliseconds},
            "metrics": {"accuracy": {"value": score, "ci95": [score, score]}}, "throughput_per_s": speed} | more  # fmt: skip


def measured(*more, **changes):
    """The source's own numbers, as if they had been measured."""
    rows = [
        row("teacher", 671 * 10**9, 12 * 10**11, 3200.0, 0.945, 50 / 3600, cost_per_1k_usd=10.0,
            concurrent_users={"users": 4, "within_s": 2.0, "at_least": False}),
        row("student", 14 * 10**9, 6 * 10**10, 480.0, 0.87, 500 / 3600, cost_per_1k_usd=4.0,
            concurrent_users={"users": 40, "within_s": 2.0, "at_least": True}),
        *more,
    ]  # fmt: skip
    return {"task": "conversation", "rows": rows, "retention": {"value": 0.92, "ci95": [0.88, 0.97]}} | changes


def test_what_adds_up_and_what_does_not():
    found = {check.claim: check for check in check_claims()}
    adds_up = {claim: check.adds_up for claim, check in found.items()}
    assert [claim[:3] for claim, good in adds_up.items() if good] == ["85%", "95%", "92%"]
    assert [claim[:3] for claim, good in adds_up.items() if good is None] == ["60%", "10x"]
    hours = next(check for claim, check in found.items() if "50 queries an hour" in claim and "3.2s" in claim)
    assert hours.adds_up is False and "1,125 an hour" in hours.found
    assert "7,500" in next(check.found for claim, check in found.items() if "0.48s a query" in claim)
    assert "3.8B" in next(check.found for claim, check in found.items() if claim.startswith("Phi-4-mini: 14B parameters") and "in" not in claim[20:])  # fmt: skip


def test_the_sources_numbers_give_the_sources_sentences():
    """Fed with its own table, the code words the claims that add up as the source does."""
    (sentences,) = case_study(measured())["achieved"].values()
    assert sentences[0] == "85% reduction in inference time (from 3.2s to 0.48s per answer)"
    assert sentences[1] == "95% reduction in memory (from 1.2TB to 60GB)"
    assert "92% of the teacher's accuracy kept (from 94.5% to 87.0%, 95 % interval 88 to 97%)" in sentences
    assert "60% reduction in operating cost (from $10 per 1,000 queries to $4 per 1,000 queries)" in sentences
    assert "at least 10x the concurrent users (from 4 within 2s to 40+ within 2s)" in sentences


def test_users_are_no_ratio_where_the_teacher_served_all_that_were_tried():
    found = measured()
    for one in found["rows"]:
        one["concurrent_users"] = {"users": 64, "within_s": 2.0, "at_least": True}
    (sentences,) = case_study(found)["achieved"].values()
    assert sentences[-1] == "no ratio of concurrent users was measured (from 64+ within 2s to 64+ within 2s)"


def test_an_exports_share_has_its_own_interval():
    made = measured(
        row("int4", 14 * 10**9, 10**10, 200.0, 0.86, 1.0), retentions={"int4": {"value": 0.91, "ci95": [0.5, 0.6]}}
    )
    assert any("95 % interval 50 to 60%" in sentence for sentence in case_study(made)["achieved"]["int4"])
    assert any("95 % interval 88 to 97%" in sentence for sentence in case_study(made)["achieved"]["student"])


def test_the_table_has_the_sources_rows_and_its_own_words():
    head, rows = columns(measured(row("int4", 14 * 10**9, 10**10, 200.0, 0.86, 1.0)))
    assert head == ["", "claimed teacher", "claimed student", "measured teacher", "measured student", "measured int4"]
    table = {line[0]: line[1:] for line in rows}
    assert table["memory usage"] == ["1.2TB", "60GB", "1.2TB", "60GB", "10GB"]
    assert table["throughput"][:3] == ["50 queries/hour", "500 queries/hour", "50 queries/hour"]
    assert table["inference time"][4] == "0.2s"


def test_what_grew_is_not_called_a_reduction():
    teacher = row("teacher", 10**8, 10**9, 100.0, 0.5, 10.0)
    slow = row("student", 10**7, 2 * 10**9, 150.0, 0.6, 5.0)
    said = achieved(teacher, slow, "accuracy")
    assert said[0].startswith("50% increase in inference time") and said[1].startswith("100% increase in memory")
    assert "120% of the teacher's accuracy kept" in said[3] and said[4].startswith("100% increase in operating cost")


def test_what_was_not_measured_is_left_out():
    bare = {
        "role": "teacher",
        "model": "m",
        "metrics": {"accuracy": {"value": 0.0, "ci95": [0, 0]}},
        "parameters": None,
    }
    assert achieved(bare, bare | {"role": "student"}, "accuracy") == []
    with pytest.raises(ValueError, match="no student"):
        case_study({"rows": [bare]})


@pytest.mark.parametrize(
    "path",
    sorted(p for kind in ("road", "edge") for p in (ROOT / "data/results").glob(f"{kind}_*.json")),
    ids=lambda path: path.stem,
)
def test_the_recorded_runs_give_a_table(path):
    head, rows = columns(json.loads(path.read_text(encoding="utf-8")))
    throughput = next(row for row in rows if row[0] == "throughput")
    assert throughput[1] == "50 queries/hour" and throughput[head.index("measured student")].endswith("queries/hour")


def test_the_sums_themselves():
    assert reduction(3.2, 0.48) == pytest.approx(0.85) and reduction(1, 2) == -1
    assert per_hour(3.2) == pytest.approx(1125)
    with pytest.raises(ValueError, match="above 0"):
        reduction(0, 1)


def test_a_share_of_a_teacher_that_knows_nothing_is_marked():
    easy = {"TF-IDF classifier": {"accuracy": {"value": 0.95, "ci95": [0.9, 1.0]}}}
    warning = case_study(measured(reference_rows=easy))["warning"]
    assert "TF-IDF classifier: 95.0%" in warning and "says little" in warning
    hard = {"TF-IDF classifier": {"accuracy": {"value": 0.4, "ci95": [0.3, 0.5]}}}
    assert case_study(measured(reference_rows=hard))["warning"] is None and case_study(measured())["warning"] is None
