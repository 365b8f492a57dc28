"""A bad day: as many rows of each fault as asked, each told with the gate that should notice it, the same for one seed."""

from collections import Counter

from slmops_utils.evaluate.faults import FAULTS, bad_day
from slmops_utils.records import Example, Response
from slmops_utils.synthesize.gates import Rules, run_gates

LABELS = ("contradiction", "entailment", "neutral")


def rows(kind: str, count: int, label: bool) -> list[Example]:
    return [
        Example(
            f"{kind}-{i}",
            "nli",
            [
                {
                    "role": "user",
                    "content": f"Premise: The {kind} {i} is for the {i}{i} of you with fee {i}7.\nHypothesis: {kind} {i} is free.",
                }
            ],
            "neutral" if label else None,
            None if label else Response("It does not say. neutral", "teacher"),
        )
        for i in range(count)
    ]


def test_a_bad_day_plants_every_fault_and_says_where():
    answered, test = rows("pool", 100, False), rows("test", 30, True)
    day, planted = bad_day(answered, test, 0.05, seed=3)
    counts = Counter(planted.values())
    assert all(counts[gate] == 5 for gate in (*FAULTS, "not_held_out"))
    assert 0 < counts["not_repeated"] <= 5
    assert len(day) == 100 + counts["not_held_out"] + counts["not_repeated"]
    assert {e.id for e in day} >= set(planted)
    same = {e.id: e for e in day if e.id not in planted}
    assert all(same[e.id] == e for e in answered if e.id in same)  # the rest is as it came
    leaked = [e for e in day if e.id.startswith("leaked-")]
    assert all(e.reference is None and e.response.text == "neutral" for e in leaked)
    assert bad_day(answered, test, 0.05, seed=3) == (day, planted)
    assert [e.id for e in bad_day(answered, test, 0.05, seed=4)[0]] != [e.id for e in day]


def test_the_gates_find_what_was_planted_but_for_the_wrong_labels():
    answered, test = rows("pool", 60, False), rows("test", 30, True)
    day, planted = bad_day(answered, test, 0.05)
    _, dropped, _ = run_gates(day, Rules(test, LABELS), [g for g in FAULTS] + ["not_held_out"])
    gone = {e.id for e in dropped}
    assert {id for id, gate in planted.items() if gate not in ("agrees", "not_repeated")} <= gone
    assert not any(id in gone for id, gate in planted.items() if gate == "agrees")  # nobody has labelled them
