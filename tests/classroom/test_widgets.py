"""Widgets show model text as text: hostile markup stays dead."""

from slmops_utils.classroom.widgets import browse, browse_gates, record_html
from slmops_utils.records import Example, Response

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'


def hostile_example():
    return Example(
        HOSTILE,
        "conversation",
        [{"role": role, "content": HOSTILE} for role in ("user", "assistant", "user")],
        {"reply": HOSTILE, "required": [], "forbidden": []},
        Response(HOSTILE, HOSTILE, history=[HOSTILE]),
        {"difficulty": "easy", "answers": {HOSTILE: {"text": HOSTILE, "score": 0.0}}},
    )


def test_every_text_of_a_record_is_escaped():
    shown = record_html(hostile_example())
    assert "<script" not in shown and "<img" not in shown
    assert shown.count("&lt;script&gt;") == 10


def test_browse_filters_by_key():
    hard = Example("b", "nli", [{"role": "user", "content": "second"}], "neutral", extra={"difficulty": "hard"})
    box = browse([hostile_example(), hard])
    kind = box.children[0].children[0]
    kind.value = "hard"
    assert "second" in box.children[1].value
    kind.value = "easy"
    assert "second" not in box.children[1].value


def test_browse_filters_by_task_and_other_keys_together():
    asked = [{"role": "user", "content": "second"}]
    box = browse([hostile_example(), Example("b", "nli", asked, extra={"difficulty": "hard"})], ("task", "difficulty"))
    task, difficulty = box.children[0].children[:2]
    task.value = "nli"
    assert "second" in box.children[1].value
    difficulty.value = "easy"  # there is no such record
    assert "none" in box.children[1].value
    task.value = "all"
    assert "onerror" in box.children[1].value


def test_browse_of_nothing_does_not_fail():
    assert "none" in browse([]).children[1].value


def test_a_gold_answer_is_shown_as_its_task_words_it_with_what_it_has_to_say():
    asked = [{"role": "user", "content": "Which lamp?"}]
    reference = {"note": "Red <b>lit</b>.", "required": [["red", "crimson"]], "forbidden": ["green"]}
    shown = record_html(Example("a", "summarization", asked, reference))
    assert "Red &lt;b&gt;lit&lt;/b&gt;." in shown and "has to say: red / crimson" in shown
    assert "must not say: green" in shown and "{" not in shown
    assert "&#x27;odd&#x27;" in record_html(Example("a", "math", asked, {"odd": 1}))


def test_kept_and_dropped_rows_are_browsed_by_gate_with_the_reason():
    def judged(id, gates, text="neutral"):
        return Example(
            id,
            "nli",
            [{"role": "user", "content": f"asked {id}"}],
            response=Response(text, "t"),
            extra={"gates": gates},
        )

    kept = [judged("a", {"answered": None, "parsed": None})]
    dropped = [
        judged("b", {"answered": None, "parsed": f"{HOSTILE} is no label"}),
        judged("c", {"answered": "no answer"}),
    ]
    box = browse_gates(kept, dropped)
    gate, number = box.children[0].children
    assert gate.options == ("all", "kept (1)", "parsed (1)", "answered (1)")
    for value, asked, reason in (
        ("parsed (1)", "asked b", "dropped by parsed"),
        ("answered (1)", "asked c", "no answer"),
    ):
        gate.value = value
        assert number.max == 1 and asked in box.children[1].value and reason in box.children[1].value
        assert "<script" not in box.children[1].value
    gate.value = "kept (1)"
    assert "asked a" in box.children[1].value and "dropped by" not in box.children[1].value
    assert "none" in browse_gates([], []).children[1].value


def test_reasons_beside_an_answer_are_shown():
    given = Example(
        "a", "nli", [{"role": "user", "content": "x"}], response=Response("neutral", "t", rationale="It says £5.")
    )
    assert "its reasons" in record_html(given) and "It says £5." in record_html(given)
