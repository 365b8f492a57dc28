"""Hand-over notes: facts told and not mistold, ROUGE-L as rouge-score counts it, BLEU as sacrebleu does."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops_utils.evaluate.statistics import bootstrap
from slmops_utils.records import Example
from slmops_utils.tasks import get_task, validate
from slmops_utils.tasks.overlap import longest_common_subsequence
from slmops_utils.tasks.summarization import (
    INSTRUCTION,
    bleu_counts,
    corpus_bleu,
    fact_precision,
    fact_recall,
    parse,
    prompt,
    rouge_l,
    signature,
    target,
)

SUMMARY = get_task("summarization")
CALL = [
    {
        "role": "user",
        "content": "Agent: Hello. Customer: My Wren router shows amber. I tried 10 seconds. Agent: Try 15.",
    }
]
NOTE = "Wren router shows amber. Customer to hold reset for 15 seconds. Call back on Friday."
REFERENCE = {
    "note": NOTE,
    "required": [["Wren"], ["amber", "orange"], ["15 seconds", "fifteen seconds"], ["Friday"]],
    "forbidden": ["10 seconds", "Teal"],
}


def example(reference=REFERENCE) -> Example:
    return Example("s1", "summarization", CALL, reference)


@pytest.mark.parametrize(
    ("text", "recall", "precision"),
    [
        (NOTE, 1.0, 1.0),
        ("wren, ORANGE light, fifteen seconds; friday", 1.0, 1.0),
        ("Wren, amber.", 0.5, 1.0),
        ("Wren, amber, 15 seconds, Friday, not 10 seconds, not a Teal.", 1.0, 4 / 6),
        ("Wren shows amber; hold for 10 seconds.", 0.5, 2 / 3),
        # what must fail
        ("", 0.0, 0.0),
        ("The customer called.", 0.0, 0.0),
        ("Teal, 10 seconds", 0.0, 0.0),
        ("Wrens, ambergris, 115 seconds, Fridays", 0.0, 0.0),  # parts of other words and numbers
        ("Wren-2, 3-15 seconds", 0.25, 1.0),
        ("amber orange amber orange", 0.25, 1.0),  # two alternatives are one fact
    ],
)
def test_facts_count_once_and_only_where_they_stand_whole(text, recall, precision):
    assert fact_recall(example(), text) == pytest.approx(recall)
    assert fact_precision(example(), text) == pytest.approx(precision)


def test_a_corpus_is_the_mean_over_its_notes():
    rows = [SUMMARY.metrics[SUMMARY.headline].value(example(), text) for text in (NOTE, "Wren, amber", "", "Friday")]
    assert SUMMARY.headline == "fact_recall"
    assert SUMMARY.metrics["fact_recall"].aggregate(rows) == (1 + 0.5 + 0 + 0.25) / 4


@pytest.mark.parametrize("reference", [NOTE, {"note": NOTE}, {"note": NOTE, "required": []}])
def test_a_note_without_its_facts_has_no_fact_score_and_rouge_l_is_its_headline(reference):
    record = example(reference)
    for score in (fact_recall, fact_precision):
        with pytest.raises(ValueError, match=r"s1.*'required'"):
            score(record, NOTE)
    assert list(SUMMARY.metrics_for([record])) == ["rouge_l", "bleu"]
    assert list(SUMMARY.metrics_for([example(), record])) == ["rouge_l", "bleu"]  # one such note decides for all
    assert list(SUMMARY.metrics_for([example()])) == list(SUMMARY.metrics)
    assert validate(record) is None


def test_a_note_that_lacks_one_of_its_facts_is_found_before_it_is_scored():
    assert validate(example()) is None
    assert "0.80 fact_recall" in validate(example(REFERENCE | {"required": [*REFERENCE["required"], ["Monday"]]}))


@pytest.mark.parametrize(
    "reference",
    [
        {"required": [["Wren"]]},
        {"note": 5, "required": [["Wren"]]},
        {"note": NOTE, "required": ["Wren"]},  # a flat list: each letter would count as an alternative
        {"note": NOTE, "required": [["Wren"], []]},
        {"note": NOTE, "required": [["Wren", ""]]},  # nothing at all is in every text
        {"note": NOTE, "required": [["Wren"]], "forbidden": "Teal"},
        [NOTE],
    ],
)
def test_a_reference_of_another_shape_is_found_before_it_is_scored(reference):
    assert "not a reference of summarization: s1" in validate(example(reference))


@pytest.mark.parametrize(
    ("a", "b", "length"),
    [
        ("", "", 0),
        ("a", "", 0),
        ("a b c", "a b c", 3),
        ("a b c", "c b a", 1),
        ("a b c d", "b x d", 2),
        ("a a b", "a b b", 2),
    ],
)
def test_the_longest_common_subsequence_keeps_the_order(a, b, length):
    assert longest_common_subsequence(a.split(), b.split()) == length


TEXTS = st.lists(
    st.sampled_from(["the", "router", "The", "light", "is", "amber.", "£4.50", "Wi-Fi", "5", "days", "é", "…", "\n"]),
    max_size=12,
).map(" ".join)


@given(TEXTS, TEXTS)
def test_rouge_l_is_that_of_rouge_score(note, text):
    from rouge_score.rouge_scorer import RougeScorer

    expected = RougeScorer(["rougeL"], use_stemmer=False).score(note, text)["rougeL"].fmeasure
    assert rouge_l(example(note), text) == pytest.approx(expected)


def test_rouge_l_of_lin_s_worked_example():
    # Lin 2004, section 3: "police killed the gunman" against two candidates with the same words in another order
    assert rouge_l(example("police killed the gunman"), "police kill the gunman") == pytest.approx(3 / 4)
    assert rouge_l(example("police killed the gunman"), "the gunman kill police") == pytest.approx(2 / 4)


@settings(max_examples=50)
@given(st.lists(st.tuples(TEXTS.filter(str.strip), TEXTS), min_size=1, max_size=6))
def test_bleu_from_the_rows_counts_is_sacrebleu_s_of_the_corpus(pairs):
    from sacrebleu.metrics import BLEU

    notes, texts = map(list, zip(*pairs, strict=True))
    rows = [bleu_counts(example(note), text) for note, text in pairs]
    assert all(len(row) == 10 for row in rows)
    assert corpus_bleu(rows) == pytest.approx(BLEU().corpus_score(texts, [notes]).score / 100)


def test_bleu_is_of_the_corpus_and_can_be_resampled():
    rows = [bleu_counts(example(), text) for text in (NOTE, "Wren router shows a red light.", "")]
    score = bootstrap(rows, SUMMARY.metrics["bleu"].aggregate)
    assert 0 <= score.low < score.value < score.high <= 1
    assert corpus_bleu(rows[:1]) == 1.0 and corpus_bleu(rows[2:]) == 0.0
    assert score.value != pytest.approx(sum(corpus_bleu([row]) for row in rows) / 3)  # no mean over rows


def test_the_signature_is_sacrebleu_s_with_its_version():
    import sacrebleu

    assert signature() == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"


def test_a_wrong_note_scores_low_on_words_too_and_one_fact_changed_scores_high_although_it_is_wrong():
    wrong = NOTE.replace("15 seconds", "10 seconds")
    assert rouge_l(example(), wrong) > 0.9 and fact_recall(example(), wrong) == 0.75  # why facts are the headline
    assert rouge_l(example(), "Nothing much happened, thanks!") == 0.0
    assert corpus_bleu([bleu_counts(example(), "Nothing much happened, thanks!")]) == 0.0


@given(st.text(max_size=100))
def test_any_text_can_be_scored(text):
    for name, metric in SUMMARY.metrics.items():
        row = metric.value(example(), text)
        assert 0 <= (metric.aggregate([row]) if name == "bleu" else row) <= 1


CANARY = "open('ran', 'w')"  # leaves a file behind wherever it is run


@pytest.mark.parametrize("text", [CANARY, "10**10**10", "(" * 100_000, "9" * 10**6, "a " * 50_000])
def test_hostile_text_is_scored_quickly_and_never_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = time.process_time()
    assert [metric.aggregate([metric.value(example(), text)]) for metric in SUMMARY.metrics.values()] == [0, 0, 0, 0]
    assert time.process_time() - started < 15
    assert not (tmp_path / "ran").exists()


def test_the_prompt_asks_for_a_note_and_leaves_the_note_out():
    assert prompt(example()) == [{"role": "system", "content": INSTRUCTION}, *CALL]
    labelled = Example("s1", "summarization", [*CALL, {"role": "assistant", "content": NOTE}], REFERENCE)
    assert prompt(labelled) == prompt(example())


def test_the_target_is_the_note_and_an_empty_answer_is_none():
    assert target(example()) == target(example(NOTE)) == NOTE
    assert parse(" \n") is None and parse(f" {NOTE}\n") == NOTE
