"""What our own data sets promise: sizes, checksums, no leak between splits, no template that shows, sound labels."""

import hashlib
import json
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from itertools import chain, combinations
from pathlib import Path

import pytest
import yaml
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from slmops_utils.records import parse_record
from slmops_utils.tasks import validate

DATA = Path(__file__).resolve().parents[2] / "data"
sys.path.insert(0, str(DATA))
import generate  # noqa: E402
from generator.world import NAMES, draw_edition, further  # noqa: E402

LEAST = {"train": 400, "pool": 2000, "validation": 150, "test": 300, "challenge": 80}
TASKS = ("nli", "qa", "math", "conversation", "summarization")
LABELS = ("entailment", "neutral", "contradiction")
FACTS = yaml.safe_load((DATA / "knowledge_base.yaml").read_text(encoding="utf-8"))["facts"]
# where a fact is at home: the files that may be about it, by its split in the knowledge base
HOMES = {"train": ("train", "pool"), "validation": ("validation",), "test": ("test", "challenge")}
MASKED = [
    t for f in FACTS + further() for t in [f["title"], *f["kinds"], *(v for p in f["points"] for v in p["values"])]
] + NAMES
# The longest term first, so that "Larkspan shop" goes whole; a number keeps its unit's word, as templates would.
TERMS = "|".join(map(re.escape, sorted(MASKED, key=len, reverse=True)))
MASK = re.compile(rf"(?<!\w)(?:{TERMS})(?!\w)|\d[\d.,:]*", re.I)


def sentences(text: str) -> list[str]:
    text = re.sub(r"(?m)^(Premise|Hypothesis): |^[A-D]\) .*$", "", text)  # the form of the task, not its wording
    return [s for s in re.split(r"(?<=[.!?])(?:\s+|$)|\n+", text) if s.strip()]


@cache
def skeleton(sentence: str) -> str:
    """The sentence with all that a generator could slot in masked: two sentences of one template share it."""
    return " ".join(re.findall(r"[^\W_]+|_", re.sub(r"['’]", "", MASK.sub(" _ ", sentence)).lower()))


def shingles(text: str, size: int = 5) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + size]) for i in range(max(bool(words), len(words) - size + 1))}


def near_duplicates(new: dict[str, str], old: dict[str, str], limit: float = 0.5) -> list[tuple[str, str, float]]:
    old_sets, holders = {key: shingles(text) for key, text in old.items()}, defaultdict(list)
    for key, grams in old_sets.items():
        for gram in grams:  # an inverted index: only pairs that share a shingle are ever compared
            holders[gram].append(key)
    found = []
    for key, grams in ((key, shingles(text)) for key, text in new.items()):
        for other, shared in Counter(chain.from_iterable(holders[g] for g in grams if g in holders)).items():
            if (score := shared / (len(grams) + len(old_sets[other]) - shared)) >= limit:
                found.append((key, other, score))
    return found


def text(row: dict, system: bool = False) -> str:
    """All that customer and assistant say or, with `system`, the help article."""
    return "\n".join(m["content"] for m in row["messages"] if (m["role"] == "system") == system)


def skeletons(row: dict, system: bool = False) -> list[str]:
    """Of what people wrote, the gold reply or note included, or, with `system`, of the help article."""
    gold = row["reference"] if isinstance(row.get("reference"), dict) and not system else {}
    reply = gold.get("reply") or gold.get("note") or ""
    return [skeleton(s) for s in sentences(text(row, system) + "\n" + reply)]


def templates(rows: list[dict]) -> set[str]:
    """The skeletons of at least three words, of what people wrote and of the help articles."""
    found = (s for row in rows for s in skeletons(row) + skeletons(row, system=True))
    return {s for s in found if sum(word != "_" for word in s.split()) >= 3}


def overused(counts: Counter, whole: int, share: float = 0.02) -> list[tuple[str, int]]:
    """Skeletons with too large a share (and more than 4); a bare mask, such as a fact's title, may recur."""
    return [(s, n) for s, n in counts.items() if n > max(4, share * whole) and set(s.split()) - {"_"}]


def contains(whole: str, term: str) -> bool:
    whole, term = (" ".join(t.lower().split()) for t in (whole, term))
    return re.search(rf"(?<!\w){re.escape(term)}(?!\w)", whole) is not None


def load(name: str, split: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module", params=TASKS)
def task(request) -> dict[str, list[dict]]:
    return {split: load(request.param, split) for split in LEAST}


def test_sizes_references_ids_and_disjoint_facts(task):
    for split, rows in task.items():
        assert len(rows) >= LEAST[split], split
        assert all(("reference" in row) == (split != "pool") for row in rows), split
    ids = [row["id"] for rows in task.values() for row in rows]
    assert len(ids) == len(set(ids))
    facts = [{row["fact"] for split in group for row in task[split]} for group in HOMES.values()]
    assert not any(a & b for a, b in combinations(facts, 2))


def test_the_knowledge_base_is_wide_enough_for_all_tasks():
    assert len(FACTS) >= 60 and len({fact["topic"] for fact in FACTS}) >= 10
    assert len({fact["id"] for fact in FACTS}) == len(FACTS)


def test_a_fact_that_one_task_holds_out_is_held_out_by_every_other(task):
    home = {fact["id"]: fact["split"] for fact in FACTS}  # one home for all tasks
    strays = [
        row["id"] for of, group in HOMES.items() for split in group for row in task[split] if home[row["fact"]] != of
    ]
    assert strays == []


def test_every_data_file_has_its_checksum():
    listed = dict(reversed(line.split(maxsplit=1)) for line in (DATA / "SHA256SUMS").read_text().splitlines())
    files = [p for name in TASKS for p in (DATA / name).rglob("*") if p.suffix in {".jsonl", ".yaml", ".md"}]
    assert {p.relative_to(DATA).as_posix() for p in files} <= listed.keys()
    assert {f for f in listed if hashlib.sha256((DATA / f).read_bytes()).hexdigest() != listed[f]} == set()


def test_no_near_duplicates(task):
    learnt = HOMES["train"]
    for system, before, held_out in (
        (False, (*learnt, "validation"), HOMES["test"]),
        (True, learnt, HOMES["test"]),
        (False, learnt, HOMES["validation"]),
        (True, learnt, HOMES["validation"]),
    ):
        groups = (before, held_out)
        old, new = ({row["id"]: text(row, system) for s in group for row in task[s]} for group in groups)
        assert near_duplicates(new, old) == []


@pytest.mark.parametrize("split", [split for split in LEAST if split != "challenge"])
def test_no_sentence_template_dominates(task, split):
    by_people = [skeletons(row) for row in task[split]]
    everything = Counter(chain(*by_people, *(skeletons(row, system=True) for row in task[split])))
    assert overused(everything, everything.total()) == []
    # a premise and a ticket are put together from several sentences, so one of them returns in more records
    share = {"nli": 0.07, "summarization": 0.05}.get(task["train"][0]["task"], 0.02)
    assert overused(Counter(chain.from_iterable(map(set, by_people))), len(by_people), share) == []


def test_a_planted_near_duplicate_and_a_planted_template_are_caught():  # a check that cannot fail is worth nothing
    old = {row["id"]: text(row) for row in load("nli", "challenge")}
    planted = "Hello again. " + old["nli-challenge-07"].replace("Cedar", "Teal")
    assert [found[1] for found in near_duplicates({"planted": planted}, old)] == ["nli-challenge-07"]
    rows = [skeletons(row) for row in load("conversation", "challenge")]
    assert overused(Counter(chain.from_iterable(map(set, rows))), len(rows)) == []
    filled = [("Priya", "Teal box", "20 seconds"), ("Tom", "Wren 3", "£2.50"), ("Mei", "Kite Pro", "9 minutes")]
    rows += [[skeleton(f"{name}, leave your {kind} off for {value}!")] for name, kind, value in filled * 2]
    assert overused(Counter(chain.from_iterable(rows)), len(rows)) == [("_ leave your _ off for _", 6)]


def test_held_out_sentences_share_no_template_with_train(task):
    found = {of: templates([row for split in group for row in task[split]]) for of, group in HOMES.items()}
    for held_out in ("validation", "test"):
        assert sorted(found["train"] & found[held_out]) == [], held_out


@pytest.mark.parametrize("split", [split for split in LEAST if split != "pool"])
def test_every_gold_answer_scores_in_full(task, split):
    for example in map(parse_record, task[split]):
        assert validate(example) is None, example.id


def test_every_record_says_its_topic_and_difficulty_and_keeps_within_a_small_models_reach(task):
    topics = {f["topic"] for f in FACTS}
    for row in chain(*task.values()):
        assert row["topic"] in topics and row["difficulty"] in ("easy", "medium", "hard"), row["id"]
        assert len(" ".join(m["content"] for m in row["messages"]).split()) <= 200, row["id"]
        assert len(text(row, system=True).split()) <= 120, row["id"]  # the help article, where there is one
    assert all(len({row["difficulty"] for row in task[split]}) == 3 for split in ("train", "test"))


def test_all_data_together_stays_small():
    assert sum(p.stat().st_size for p in DATA.rglob("*") if p.is_file() and "checkpoints" not in p.parts) < 25e6


@pytest.mark.parametrize("split", LEAST)
def test_conversations_are_sound(split):
    for row in load("conversation", split):
        shown, roles = text(row, system=True), [m["role"] for m in row["messages"]]
        assert roles == ["system"] + ["user", "assistant"] * (len(roles) // 2 - 1) + ["user"], row["id"]
        if gold := row.get("reference"):
            for where in (gold["reply"], shown):
                assert all(any(contains(where, a) for a in thing) for thing in gold["required"]), (row["id"], where)
            assert not any(contains(gold["reply"], f) for f in gold["forbidden"]), row["id"]


def test_nli_labels_are_balanced_and_need_both_sentences():
    rows = {split: load("nli", split) for split in ("train", "validation", "test")}
    labels = {split: [row["reference"] for row in rows[split]] for split in rows}
    assert all(0.25 <= found.count(name) / len(found) <= 0.42 for found in labels.values() for name in LABELS)
    # A bag of words may know the style of a label, but not whether the premise supports the claim.
    for first, limit in ((0, 0.5), (1, 0.45)):
        words = {split: [" ".join(text(r).split("Hypothesis: ")[first:]) for r in rows[split]] for split in rows}
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
        assert model.fit(words["train"], labels["train"]).score(words["test"], labels["test"]) < limit


def test_generate_check_rebuilds_the_same_bytes():
    run = subprocess.run([sys.executable, DATA / "generate.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_kinds_with_a_natural_order_keep_it():
    ordered = [(fact, p) for fact in FACTS for p in fact["points"] if p.get("order")]
    assert {fact["id"] for fact, _ in ordered} >= {"parental-filter", "extra-work", "roaming-pass", "tv-recording"}
    for fact, p in ordered:
        for seed in range(20):
            point = next(x for x in draw_edition(fact, random.Random(seed)).points if x.key == p["key"])
            told = {point.kind: point.value, point.other_kind: point.other}
            first, second = (p["values"].index(told[kind]) for kind in fact["kinds"])
            assert (first < second) == (p["order"] == "ascending"), (fact["id"], told)


def test_a_follow_up_suits_who_asked_and_keeps_its_condition():
    phones = re.compile(r"\b(we ring|our call|callback|phone|to be phoned)\b", re.I)
    for split in ("train", "validation", "test"):
        for row in load("summarization", split):
            last = re.split(r"[.;] ", row["reference"]["note"])[-1]
            if row["fact"] == "signed-call":  # those who cannot use a voice call
                assert not phones.search(last), row["id"]
            conditional = ["if", "unless", "should"] in row["reference"]["required"]
            back = re.search(r"\b(gets back|rings?|back to us|lets us know|writes? back|shout|hear from)\b", last, re.I)
            assert bool(back and re.search(r"\bif\b", last, re.I)) == conditional, row["id"]


@pytest.mark.parametrize("name", TASKS)
def test_a_wider_world_stays_apart_from_what_is_held_out(name):
    known = {fact["id"] for fact in FACTS}
    assert len(further()) >= 40 and not known & {fact["id"] for fact in further()}
    rows = generate.TASKS[name].build(11, {"train": 600}, wide=True)["train"]
    assert {row["fact"] for row in rows} - known, "no further fact was drawn"
    assert all(validate(example) is None for example in map(parse_record, rows))
    held_out = [row for split in ("validation", "test", "challenge") for row in load(name, split)]
    for system in (False, True):
        new, old = ({row["id"]: text(row, system) for row in group} for group in (rows, held_out))
        assert near_duplicates(new, old) == []
    assert sorted(templates(rows) & templates(held_out)) == []
