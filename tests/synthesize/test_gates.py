"""Each gate drops what it is for and nothing else, says why, and deletes nothing."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from slmops_utils.__main__ import GATE_NAMES, main
from slmops_utils.records import Example, Response, read_records, write_records
from slmops_utils.synthesize.gates import GATES, Rules, filter_file, question, run_gates, table
from slmops_utils.synthesize.similar import Neighbours, bands_needed, jaccard, shingles

ROOT = Path(__file__).parents[2]
LABELS = ("contradiction", "entailment", "neutral")


def row(id="a", text="neutral", asked="The fee is £5.", task="nli", finish="stop", **more) -> Example:
    response = None if text is None else Response(text, "teacher", finish_reason=finish)
    return Example(id, task, [{"role": "user", "content": asked}], response=response, **more)


def reason(gate, *examples, **rules):
    return GATES[gate](list(examples), Rules(**rules))[-1]


def test_the_command_line_knows_every_gate_in_its_order():
    assert tuple(GATES) == GATE_NAMES


DROPPED = {
    "answered": [row(text=None), row(text=" \n")],
    "finished": [row(finish="length"), row(finish="content_filter"), row(text=None)],
    "not_refused": [row(text=text) for text in (
        "I'm sorry, but I can't help with that.", "I cannot assist with this request.", "As an AI language model, I",
        "I’m sorry, I am not able to say.", "Sorry, but I can't help.", "I must decline to answer.", "Error: 500")],
    "parsed": [row(text="maybe"), row(text="neutral or entailment")],
    "length": [row(text="word " * 401), row(text="x" * 9000), row(text="it is not so " * 5)],
    "same_language": [
        row(text="Стоимость пять фунтов", task="conversation"),
        row(asked="What is the fee for the visit, and is it the same for all of you?",
            text="Le prix est le même pour tous, et les frais sont dans la lettre que vous avez.", task="conversation"),
    ],
    "agrees": [row(reference="entailment"), row(text="It says five. entailment", reference="neutral")],
}  # fmt: skip
KEPT = {
    "answered": [row()],
    "finished": [row()],
    "not_refused": [row(text=text) for text in (
        "I'm sorry to hear that. Unplug it.", "You cannot change it online.", "Sorry about the wait: it is £5.",
        "I can't see a fee of £6 in the article; it is £5.", "It says sorry, I can't help.")],
    "parsed": [row(), row(text="It does not say. neutral"), row(text="anything", task="conversation")],
    "length": [row(text="word " + " ".join(map(str, range(300)))), row(text="no, no, no")],
    "same_language": [row(text="£5"), row(text="neutral"), row(text="La Poste", asked="Who brings the letter to you?"),
                      row(asked="Сколько это стоит?", text="Пять фунтов", task="conversation")],
    "agrees": [
        row(), row(reference="neutral"), row(text="It does not say. neutral", reference="neutral"),
        *(row(text="Call back.", task=task, reference=reference) for task, reference in (
            ("summarization", "It is £5."), ("summarization", {"note": "It is £5."}), ("conversation", "It is £5."),
            ("conversation", {"reply": "It is £5."}))),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("gate", "example"), [(gate, e) for gate, es in DROPPED.items() for e in es])
def test_a_gate_drops_what_it_is_for_with_a_reason(gate, example):
    assert reason(gate, example, labels=LABELS)


@pytest.mark.parametrize(("gate", "example"), [(gate, e) for gate, es in KEPT.items() for e in es])
def test_a_gate_lets_everything_else_pass(gate, example):
    assert reason(gate, example, labels=LABELS) is None


def test_without_labels_the_inference_question_has_its_own():
    rows = [row("m", "maybe"), row("e", "So it is. entailment")]
    rows += [row(f"n{i}", f"It says {i}. neutral") for i in range(9)]
    _, dropped, _ = run_gates(rows, Rules(balance=1.0), ["parsed", "balanced"])
    assert [e.id for e in dropped] == ["m", "n5", "n6", "n7", "n8"], "9 and 1 rows: the median is 5"
    own = replace(rows[0], messages=[{"role": "system", "content": "Which device?"}, *rows[0].messages])
    assert reason("parsed", own) is None, "nobody knows the labels of another set"


def test_a_reply_is_held_against_the_facts_its_label_asks_for():
    wanted = {"reply": "It is £5.", "required": [["£5"]], "forbidden": ["£6"]}
    assert reason("agrees", row(text="It is £5.", task="conversation", reference=wanted)) is None
    assert "not its label (resolved 0)" in reason(
        "agrees", row(text="£5 or £6.", task="conversation", reference=wanted)
    )


LONG = "To change the evening slot a customer has to tell the depot six hours before the engineer leaves for the day."


def test_a_question_nearly_repeated_is_dropped_and_the_first_one_stays():
    first, near, far = row("a", asked=LONG), row("b", asked=LONG.replace(".", " !").upper()), row("c", asked=LONG[:40])
    kept, dropped, _ = run_gates([first, near, far], gates=["not_repeated"])
    assert [e.id for e in kept] == ["a", "c"]
    assert dropped[0].extra["gates"]["not_repeated"] == "like a (similarity 1.00)"


def test_one_number_makes_another_question_of_a_short_one():
    assert reason("not_repeated", row("a"), row("b", asked="The fee is £6.")) is None


def test_a_shared_article_makes_no_two_questions_alike():
    article = {"role": "system", "content": LONG * 3}
    rows = [Example(str(i), "conversation", [article, {"role": "user", "content": asked}], response=Response("Yes.", "t"))
            for i, asked in enumerate(("May I move it?", "What does it cost?"))]  # fmt: skip
    assert reason("not_repeated", *rows) is None
    assert reason("not_held_out", rows[0], held_out=[rows[1]]) is None


def test_a_question_of_the_test_set_is_dropped():
    held = [row("test-7", asked=LONG)]
    assert reason("not_held_out", row("a", asked=LONG + " Thanks"), held_out=held).startswith("like held-out test-7")
    assert reason("not_held_out", row("a", asked="What is the fee?"), held_out=held) is None


def test_a_check_against_nothing_says_so():
    _, _, report = run_gates([row()])
    assert [r["gate"] for r in report if r["most_often"]] == ["not_held_out"]
    assert "nothing to compare with" in table(report)
    _, _, report = run_gates([row()], Rules(held_out=[row("test-7", asked=LONG)]))
    assert "nothing to compare with" not in table(report)


def test_a_class_and_a_topic_out_of_balance_are_cut_back_from_the_end():
    rows = [row(f"n{i}", "neutral") for i in range(20)] + [row(f"e{i}", "entailment") for i in range(5)]
    rows += [row(f"c{i}", "contradiction") for i in range(4)]
    kept, dropped, _ = run_gates(rows, Rules(labels=LABELS, balance=2.0), ["balanced"])
    assert [e.id for e in dropped] == [f"n{i}" for i in range(10, 20)]
    assert "class 'neutral' has 20 rows, 10 are kept" in dropped[0].extra["gates"]["balanced"]
    rows = [row(str(i), extra={"topic": topic}) for i, topic in enumerate("aaaaaaaaaabbc")]
    kept, dropped, _ = run_gates(rows, Rules(balance=2.0), ["balanced"])
    assert len(dropped) == 6 and all(e.extra["topic"] == "a" for e in dropped)
    assert len(kept) == 7


def test_nothing_is_deleted_and_every_record_keeps_its_verdicts():
    rows = [
        row("a"),
        row("b", None, "Where?"),
        row("c", "maybe", "Who?"),
        row("d", "neutral", "Who else?", finish="length"),
    ]
    kept, dropped, report = run_gates(rows, Rules(labels=LABELS))
    assert [e.id for e in kept] == ["a"] and [e.id for e in dropped] == ["b", "c", "d"]
    assert kept[0].extra["gates"] == dict.fromkeys(GATES)
    assert dropped[0].extra["gates"] == {"answered": "no answer"}
    assert dropped[2].extra["gates"] == {"answered": None, "finished": "finish reason 'length'"}
    assert rows[0].extra == {}, "the records given are left as they were"
    assert [(r["gate"], r["kept"], r["dropped"]) for r in report[:4]] == [
        ("answered", 3, 1), ("finished", 2, 1), ("not_refused", 2, 0), ("parsed", 1, 1)]  # fmt: skip
    assert "finished" in table(report)


def test_no_rows_and_unknown_gates():
    kept, dropped, report = run_gates([])
    assert (kept, dropped) == ([], []) and len(report) == len(GATES)
    with pytest.raises(ValueError, match="no gate nonsense; there are answered"):
        run_gates([], gates=["nonsense"])


def test_a_hostile_reason_reaches_no_terminal():
    _, _, report = run_gates([row(text="neutral", finish="\x1b[31m")])
    assert "\x1b" not in table(report)


WORDS = st.lists(st.sampled_from("fee visit slot hub router line day week phone bill".split()), max_size=40)


@given(texts=st.lists(WORDS, min_size=1, max_size=12), wanted=WORDS, threshold=st.sampled_from([0.5, 0.8, 1.0]))
def test_what_is_found_is_what_comparing_with_each_would_find_where_it_is_clear(texts, wanted, threshold):
    """No false alarm ever; what is alike far above the threshold is always found."""
    index = Neighbours(threshold)
    for i, text in enumerate(texts):
        index.add(str(i), " ".join(text))
    exact = [jaccard(shingles(" ".join(wanted)), shingles(" ".join(text))) for text in texts]
    found = index.find(" ".join(wanted))
    if found:
        assert found[1] == exact[int(found[0])] >= threshold
    else:
        assert max(exact) < max(threshold, 0.85)


def test_alike_pairs_are_found_as_often_as_the_mathematics_says():
    noise, found = random.Random(0), 0
    for _ in range(300):
        words = [str(noise.randrange(10**6)) for _ in range(60)]
        other = [*words[:52], *(str(noise.randrange(10**6)) for _ in range(2))]  # 50 triples of 60 shared
        index = Neighbours(0.8)
        index.add("x", " ".join(words))
        found += index.find(" ".join(other)) is not None
    assert found == 300


def test_only_alike_texts_are_compared(monkeypatch):
    noise, index, compared = random.Random(0), Neighbours(), []
    monkeypatch.setattr("slmops_utils.synthesize.similar.jaccard", lambda a, b: compared.append(1) or jaccard(a, b))
    texts = [" ".join(str(noise.randrange(10**6)) for _ in range(60)) for _ in range(300)]
    for i, text in enumerate(texts):
        assert index.find(text) is None
        index.add(str(i), text)
    assert not compared
    assert index.find(texts[7]) == ("7", 1.0) and len(compared) == 1


def test_the_table_of_bands_grows_and_forgets_nothing():
    noise = random.Random(0)
    texts = [" ".join(str(noise.randrange(10**6)) for _ in range(8)) for _ in range(2000)]
    index = Neighbours()
    slots = index.slots
    for i, text in enumerate(texts):
        index.add(f"t{i}", text)
    assert index.slots >= 2 * slots
    assert [index.find(text) for text in texts] == [(f"t{i}", 1.0) for i in range(2000)]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95])
def test_bands_are_asked_for_only_as_far_as_alike_pairs_have_them(threshold):
    needed, share = bands_needed(threshold), threshold**4
    fewer = binom.cdf(needed - 1, 32, share)
    assert needed == 1 or fewer <= 2e-6 < binom.cdf(needed, 32, share)


def test_a_file_is_filtered_as_a_list_is(tmp_path):
    rows = [row(f"r{i}", asked=f"Question {i} of {i * i}: how many are {i + 7}?") for i in range(30)]
    rows += [row("cut", finish="length"), row("again", asked=rows[3].messages[0]["content"]), row("none", None)]
    write_records(tmp_path / "in.jsonl", rows)
    kept, dropped, report = run_gates(rows)
    assert filter_file(tmp_path / "in.jsonl", tmp_path / "kept.jsonl", tmp_path / "dropped.jsonl", Rules()) == report
    assert list(read_records(tmp_path / "kept.jsonl")) == kept
    assert list(read_records(tmp_path / "dropped.jsonl")) == dropped and len(dropped) == 3


def test_filter_on_the_command_line(tmp_path, capsys):
    rows = [row("a"), row("b", None, "Where?"), row("c", "neutral", LONG)]
    write_records(tmp_path / "answered.jsonl", rows)
    write_records(tmp_path / "test.jsonl", [row("t", asked=LONG, reference="neutral")])
    options = [
        "--in",
        tmp_path / "answered.jsonl",
        "--against",
        tmp_path / "test.jsonl",
        "--out",
        tmp_path / "kept.jsonl",
    ]
    assert main(["filter", *map(str, options)]) == 0
    told = capsys.readouterr().out
    assert "not_held_out" in told and "1 kept" in told and "2 dropped" in told
    assert [e.id for e in read_records(tmp_path / "kept.jsonl")] == ["a"]
    dropped = {e.id: e.extra["gates"] for e in read_records(tmp_path / "kept.dropped.jsonl")}
    assert dropped["b"] == {"answered": "no answer"}
    assert dropped["c"]["not_held_out"] == "like held-out t (similarity 1.00)"
    assert main(["filter", *map(str, options), "--skip", "not_held_out", "answered"]) == 0
    assert "answered" not in capsys.readouterr().out.splitlines()[1]


def test_our_own_held_out_questions_are_caught_when_they_are_slipped_in():
    held = list(read_records(ROOT / "data/nli/test.jsonl"))[:100]
    pool = [json.loads(line) for line in (ROOT / "data/nli/pool.jsonl").read_text().splitlines()[:200]]
    rows = [row(p["id"], asked=p["messages"][-1]["content"]) for p in pool]
    slipped = [row(f"s{i}", asked=question(e) + " ") for i, e in enumerate(held[:20])]
    found = GATES["not_held_out"]([*rows, *slipped], Rules(held_out=held))
    assert all(found[len(rows) :]) and sum(reason is not None for reason in found[: len(rows)]) <= 2
