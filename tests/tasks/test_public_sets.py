"""Public sets: rows in each set's own columns, laid out as its repository is, read by `datasets` itself."""

import re

import pytest
from datasets import ClassLabel, Dataset, Features, Value, config

from slmops_utils.__main__ import main
from slmops_utils.records import read_records
from slmops_utils.tasks import MODULES, get_task, validate
from slmops_utils.tasks.public_sets import NO_STEPS, SETS, get_public, gsm8k, load_public, svamp, table

LABELS = Features(
    premise=Value("string"), hypothesis=Value("string"), label=ClassLabel(names=["entailment", "neutral", "contradiction"])
)  # fmt: skip
SNLI = [
    {"premise": "A child rides past a statue.", "hypothesis": "A child is outdoors.", "label": 0},
    {"premise": "A child rides past a statue.", "hypothesis": "The statue is of a king.", "label": 1},
    {"premise": "A child rides past a statue.", "hypothesis": "Nobody is moving.", "label": 2},
    {"premise": "A child rides past a statue.", "hypothesis": "The child is late.", "label": -1},
    {"premise": "A child rides past a statue.", "hypothesis": "A child is outdoors.", "label": 0},
]
MULTI_NLI = [
    {"promptID": 1, "pairID": f"{i}n", "premise_binary_parse": "( x )", "premise_parse": "(ROOT x)",
     "hypothesis_binary_parse": "( x )", "hypothesis_parse": "(ROOT x)", "genre": "travel", **row}
    for i, row in enumerate(SNLI)
]  # fmt: skip
COMMONSENSE_QA = [
    {"id": "a1", "question": "Where does a clerk put a letter that is to go out?", "question_concept": "letter",
     "choices": {"label": list("ABCDE"), "text": ["bank", "post tray", "oven", "garden", "ceiling"]}, "answerKey": "B"},
    {"id": "a2", "question": "What has no answer here?", "question_concept": "answer",
     "choices": {"label": list("ABCDE"), "text": ["one", "two", "three", "four", "five"]}, "answerKey": ""},
]  # fmt: skip
OPENBOOKQA = [
    {"id": "7-980", "question_stem": "A lamp is warm because",
     "choices": {"label": list("ABCD"), "text": ["it is old", "current flows in it", "it is round", "it is off"]},
     "answerKey": "B"},
]  # fmt: skip
SQUAD = [
    {"id": "56be", "title": "Exchange", "context": "The exchange opened in 1912 with 400 lines.",
     "question": "When did the exchange open?", "answers": {"text": ["1912", "in 1912", "1912"],
     "answer_start": [23, 20, 23]}},
]  # fmt: skip
GSM8K = [
    {"question": "Ann sells 48 cards in May, half as many in June. How many in all?",
     "answer": "In June she sells 48/2 = <<48/2=24>>24 cards.\nIn all 48+24 = <<48+24=72>>72 cards.\n#### 72"},
    {"question": "What are 20% of 1,500 at .5 each?",
     "answer": "<<1500*20/100=300>>300, so <<.5*300=150.00>>150\n#### 1,150"},
    {"question": "A slip of the pen: what are 3 boxes of 4?", "answer": "3*4 = <<3*4=13>>13\n#### 12"},
    {"question": "How many are left of five?", "answer": "There are <<5=5>>5.\n#### 5"},
    {"question": "Which has no number?", "answer": "None.\n#### none"},
]  # fmt: skip
MULTIARITH = [{"question": " Paige had 11 songs, deleted 9 and added 8. How many has she? ", "final_ans": "10"}]
SVAMP = [
    {"ID": "chal-1", "Body": "Each pack of discs costs 76 dollars. There is a discount of 25 dollars on each.",
     "Question": "What does a pack cost?", "Equation": "( 76.0 - 25.0 )", "Answer": "51.0", "Type": "Subtraction",
     "question_concat": "x"},
    {"ID": "chal-2", "Body": "Dan has 3 red and 4 blue pens in each of 2 boxes.", "Question": "How many pens?",
     "Equation": "( ( 3.0 + 4.0 ) * 2.0 )", "Answer": "14.0", "Type": "Multiplication", "question_concat": "x"},
]  # fmt: skip
CHAT = [
    {"prompt": "Hi", "prompt_id": "f0e", "messages": [
        {"role": "user", "content": "Hi, my lamp is out."}, {"role": "assistant", "content": "Which lamp is it?"},
        {"role": "user", "content": "The red one."}, {"role": "assistant", "content": "Press the pin for 5 seconds."}]},
    {"prompt": "Once", "prompt_id": "f1e", "messages": [
        {"role": "user", "content": "Only once."}, {"role": "assistant", "content": "So be it."}]},
    {"prompt": "Cut", "prompt_id": "f2e", "messages": [
        {"role": "user", "content": "One."}, {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three."}]},
]  # fmt: skip
EVERYDAY = [{"full_topic": "Home/Lamps", "messages": row["messages"]} for row in CHAT]
DIALOGSUM = [
    {"id": "train_0", "dialogue": "#Person1#: Is it fixed?\n#Person2#: It will be, on Friday.",
     "summary": "#Person2# will fix it on Friday.", "topic": "repair"},
    {"id": "train_1", "dialogue": "", "summary": "Nothing was said.", "topic": "none"},
]  # fmt: skip
SAMSUM = [{key: row[key] for key in ("id", "dialogue", "summary")} for row in DIALOGSUM]

# set -> its rows, how its repository stores them, the records they give and what is said of the rest
COPIES = {
    "snli": (SNLI, "plain_text/train-00000-of-00001.parquet", 3,
             {"dropped: no label": 1, "dropped: stands there twice": 1}),
    "multi_nli": (MULTI_NLI, "data/validation_matched-00000-of-00001.parquet", 3,
                  {"dropped: no label": 1, "dropped: stands there twice": 1}),
    "conjnli": (SNLI, "data/dev-00000-of-00001.parquet", 3,
                {"dropped: no label": 1, "dropped: stands there twice": 1}),
    "commonsense_qa": (COMMONSENSE_QA, "data/train-00000-of-00001.parquet", 1, {"dropped: no answer": 1}),
    "openbookqa": (OPENBOOKQA, "main/train-00000-of-00001.parquet", 1, {}),
    "squad": (SQUAD, "plain_text/train-00000-of-00001.parquet", 1, {}),
    "gsm8k": (GSM8K, "main/train-00000-of-00001.parquet", 4,
              {NO_STEPS: 2, "dropped: its own answer does not score in full": 1}),
    "multiarith": (MULTIARITH, "train.json", 1, {}),
    "svamp": (SVAMP, "data/train-00000-of-00001.parquet", 2, {}),
    "ultrachat": (CHAT, "data/train_sft-00000-of-00001.parquet", 1,
                  {"dropped: a single turn": 1, "dropped: no reply at the end": 1}),
    "everyday": (EVERYDAY, "data/train_sft-00000-of-00001.parquet", 1,
                 {"dropped: a single turn": 1, "dropped: no reply at the end": 1}),
    "dialogsum": (DIALOGSUM, "train.csv", 1, {"dropped: empty dialogue": 1}),
    "samsum": (SAMSUM, "train.csv", 1, {"dropped: empty dialogue": 1}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def copy(tmp_path):
    """A folder laid out as a set's repository on the Hub."""

    def make(name, rows=None):
        rows, place = rows or COPIES[name][0], COPIES[name][1]
        file, split = tmp_path / name / place, place.split("/")[-1].split("-")[0].split(".")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        data = Dataset.from_list(rows)
        if "label" in rows[0]:
            data = data.cast(Features({**data.features, "label": LABELS["label"]}))
        getattr(data, {"parquet": "to_parquet", "csv": "to_csv", "json": "to_json"}[file.suffix[1:]])(str(file))
        if file.suffix == ".parquet":
            card = f"configs:\n- config_name: {SETS[name].config or 'default'}\n  data_files:\n"
            card += f"  - split: {split}\n    path: {place.rsplit('/', 1)[0]}/{split}-*\n"
            (tmp_path / name / "README.md").write_text(f"---\n{card}---\n# A card\n")
        return tmp_path / name

    return make


def split_of(name):
    stored = COPIES[name][1].split("/")[-1]
    return next(ours for ours, theirs in SETS[name].splits.items() if re.match(rf"{theirs}[-.]", stored))


def load(copy, name, **options):
    return load_public(name, split_of(name), folder=copy(name), **options)


def test_each_task_has_two_sets_or_more_and_each_a_commit_and_a_licence():
    for task in MODULES:
        assert sum(public.task == task for public in SETS.values()) >= 2
    for public in SETS.values():
        assert re.fullmatch("[0-9a-f]{40}", public.revision) and public.licence and public.splits
    assert COPIES.keys() == SETS.keys()
    assert all(name in table() and public.hub_id in table() for name, public in SETS.items())


@pytest.mark.parametrize("name", SETS)
def test_rows_in_the_sets_own_schema_become_records_that_score_and_can_be_read_again(name, copy, tmp_path):
    _, _, wanted, reasons = COPIES[name]
    assert (
        main(["public", name, "--split", split_of(name), "--from", str(copy(name)), "--out", str(tmp_path / "o")]) == 0
    )
    records = list(read_records(tmp_path / "o"))
    assert load(copy, name) == (records, reasons)
    assert len(records) == wanted
    for record in records:
        assert record.task == SETS[name].task and record.extra == {"source": name} and validate(record) is None
        assert get_task(record.task).prompt(record)[-1]["role"] == "user"


def test_a_copy_that_was_mended_is_read_anew(copy):
    assert len(load_public("snli", folder=copy("snli", SNLI[:1]))[0]) == 1
    assert len(load_public("snli", folder=copy("snli", SNLI[:2]))[0]) == 2


def test_inference_labels_are_words_after_a_premise_and_a_hypothesis(copy):
    records, _ = load(copy, "snli")
    assert [r.reference for r in records] == ["entailment", "neutral", "contradiction"]
    assert records[0].messages == [
        {"role": "user", "content": "Premise: A child rides past a statue.\nHypothesis: A child is outdoors."}
    ]


def test_options_are_lettered_lines_and_a_passage_is_the_system_message(copy):
    (record,), _ = load(copy, "openbookqa")
    assert record.reference == {"choice": "B", "answers": ["current flows in it"]}
    assert record.messages[0]["content"].splitlines()[:3] == [
        "A lamp is warm because", "A) it is old", "B) current flows in it"
    ]  # fmt: skip
    (record,), _ = load(copy, "squad")
    assert [m["role"] for m in record.messages] == ["system", "user"]
    assert record.reference == {"answers": ["1912", "in 1912"]}


def test_calculations_of_gsm8k_become_worked_steps_where_all_of_them_recompute(copy):
    records, _ = load(copy, "gsm8k")
    assert [r.reference for r in records] == [
        {"answer": "72", "steps": "48 / 2 = 24\n48 + 24 = 72"},
        {"answer": "1,150", "steps": "1500 x 20 / 100 = 300\n0.5 x 300 = 150"},
        {"answer": "12"},
        {"answer": "5"},
    ]
    score = get_task("math").metrics["steps_right"].value
    assert score(records[1], get_task("math").target(records[1])) == 1


@pytest.mark.parametrize(
    ("written", "steps"),
    [
        ("<<(5+3)*2=16>>", "(5 + 3) x 2 = 16"),
        ("<<5-10=-5>>", "5 - 10 = -5"),
        ("<<20%*50=10>>", "20% x 50 = 10"),
        ("<<2/3=.67>>", "2 / 3 = 0.67"),
        ("<<2*3=3*2=6>>", "2 x 3 = 3 x 2 = 6"),
        ("<<4=4>> <<2*2=4>>", "2 x 2 = 4"),
        ("<<2*2=4>> <<2*2=5>>", None),
        ("<<__import__('os')=1>>", None),
        ("<<9**9**9=1>>", None),
        ("<<=>> <<>>", None),
    ],
)
def test_what_a_calculation_becomes(written, steps):
    reference = gsm8k({"question": "How many?", "answer": f"{written}\n#### 4"})[1]
    assert reference.get("steps") == steps


def test_the_equation_of_svamp_is_its_step(copy):
    records, _ = load(copy, "svamp")
    assert [r.reference for r in records] == [
        {"answer": "51", "steps": "76 - 25 = 51"}, {"answer": "14", "steps": "(3 + 4) x 2 = 14"}
    ]  # fmt: skip
    assert svamp({**SVAMP[0], "Answer": "52.0"})[1] == {"answer": "52"}


def test_the_last_reply_is_the_reference_and_the_turns_before_it_the_history(copy):
    (record,), _ = load(copy, "ultrachat")
    assert record.reference == "Press the pin for 5 seconds."
    assert [m["role"] for m in record.messages] == ["user", "assistant", "user"]
    assert load(copy, "everyday")[0][0].messages == record.messages


def test_a_limit_is_a_number_of_records_not_of_rows(copy):
    rows = [SNLI[3], *SNLI]
    folder = copy("snli", rows)
    records, counts = load_public("snli", limit=2, folder=folder)
    assert [r.id for r in records] == ["snli-train-000001", "snli-train-000002"] and counts == {"dropped: no label": 1}


def test_what_is_not_there_is_named(copy, tmp_path):
    with pytest.raises(ValueError, match=r"no public set 'imdb'; there are snli, multi_nli"):
        get_public("imdb")
    with pytest.raises(ValueError, match=r"commonsense_qa has no split 'test' with answers; it has train, validation"):
        load_public("commonsense_qa", "test")
    with pytest.raises(ValueError, match=r"snli: no column 'premise'; this copy has a"):
        load_public("snli", folder=copy("snli", [{"a": 1, "label": 0}]))
    with pytest.raises(ValueError, match=r"no row of train can be used .*no label"):
        load_public("snli", folder=copy("snli", SNLI[3:4]))
    with pytest.raises(ValueError, match="is no folder"):
        load_public("snli", folder=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is no usable copy of stanfordnlp/snli"):
        load_public("snli", "test", folder=copy("snli"))


def test_without_a_network_the_error_says_what_to_do(capsys, empty_cache):
    assert main(["public", "gsm8k", "--split", "test", "--out", "never.jsonl"]) == 1
    told = capsys.readouterr().err
    for part in (
        "openai/gsm8k cannot be fetched",
        "HF_HUB_OFFLINE",
        "python -m slmops_utils public gsm8k --split test --out gsm8k-test.jsonl",
        str(empty_cache),
        f"hf download openai/gsm8k --repo-type dataset --revision {SETS['gsm8k'].revision} --local-dir gsm8k",
        "--from gsm8k",
        "python -m slmops_utils data FILE --task math",
    ):
        assert part in told
    assert "Traceback" not in told


def put_into_cache(folder, cache, revision):
    """As `datasets` keeps what it fetched from the Hub at a revision."""
    from datasets import load_dataset

    load_dataset(str(folder), "plain_text", split="train", cache_dir=str(cache / "made"))
    (made,) = (cache / "made").glob("snli/plain_text/0.0.0/*/")
    place = cache / "stanfordnlp___snli" / "plain_text" / "0.0.0" / revision
    place.parent.mkdir(parents=True)
    made.rename(place)


def test_without_a_network_a_cached_copy_is_read_if_it_is_at_the_pinned_revision(copy, empty_cache):
    put_into_cache(copy("snli"), empty_cache, SETS["snli"].revision)
    assert load_public("snli") == load_public("snli", folder=empty_cache.parent / "snli")
    assert load_public("snli", stream=True) == load_public("snli")


@pytest.mark.parametrize("stream", [False, True])
def test_a_cached_copy_at_another_revision_is_not_taken_for_it(copy, empty_cache, stream):
    put_into_cache(copy("snli"), empty_cache, "0" * 40)
    with pytest.raises(ConnectionError, match="the cached copy is at 0000"):
        load_public("snli", stream=stream)


def test_the_list_is_shown_without_a_name(capsys):
    assert main(["public", "--list"]) == 0
    listed = capsys.readouterr().out
    assert main(["public"]) == 0 and capsys.readouterr().out == listed == table() + "\n"
