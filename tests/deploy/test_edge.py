"""The edge goal is arithmetic on a results JSON, and says what was not reached or not measured."""

import pytest

from slmops_utils.deploy.edge import AIMS, edge_goal, edge_table


def row(role, p50, memory, size):
    return {
        "role": role,
        "latency_ms": {"p50": p50} if p50 else None,
        "peak_memory_bytes": memory,
        "bytes_on_disk": size,
    }


RESULTS = {
    "rows": [row("teacher", 1000.0, 1000, 1000), row("q4_0", 100.0, 300, 40), row("onnx", None, None, 60)],
    "retentions": {"q4_0": {"value": 0.96, "ci95": [0.9, 1.0]}, "onnx": None},
}


def test_each_export_is_held_against_each_aim():
    goal = edge_goal(RESULTS)
    assert list(goal) == ["q4_0", "onnx"]
    found = {measure: (value["value"], value["reached"]) for measure, value in goal["q4_0"].items()}
    assert found == {
        "latency": (0.9, True),
        "memory": (pytest.approx(0.7), False),
        "bytes_on_disk": (0.96, True),
        "retention": (0.96, False),
    }
    assert goal["q4_0"]["retention"]["ci95"] == [0.9, 1.0]
    assert {measure: value["aim"] for measure, value in goal["q4_0"].items()} == AIMS


def test_what_nobody_measured_is_not_reached():
    found = edge_goal(RESULTS)["onnx"]
    assert [found[m]["value"] for m in ("latency", "memory", "retention")] == [None, None, None]
    assert not any(found[m]["reached"] for m in ("latency", "memory", "retention", "bytes_on_disk"))
    grown = {"rows": [row("teacher", 10.0, 10, 10), row("worse", 20.0, 5, 10)]}
    assert edge_goal(grown)["worse"]["latency"]["value"] == -1.0


def test_the_table_marks_what_was_reached():
    lines = edge_table(edge_goal(RESULTS)).splitlines()
    assert "| q4_0 | −90.0 % ★ | −70.0 % | −96.0 % ★ | 96.0 % |" in lines
    assert "| onnx | not measured | not measured | −94.0 % | not measured |" in lines
    assert "| worse | +100.0 % |" in edge_table(
        edge_goal({"rows": [row("teacher", 10.0, 10, 10), row("worse", 20.0, 5, 10)]})
    )


def test_without_a_teacher_there_is_no_goal():
    with pytest.raises(ValueError, match="have none"):
        edge_goal({"rows": RESULTS["rows"][1:]})
