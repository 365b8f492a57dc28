"""Public sets by name, through `datasets`: one table, and for each set the function that turns its row into a record.

A revision is the commit of the set's repository on the Hugging Face Hub, so that a set never changes underneath a result.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import Example, parse_record
from . import validate
from .arithmetic import check_steps

Row = dict[str, Any]
Fields = tuple[list[dict[str, str]], Any]  # messages and reference

NLI_LABELS = ("entailment", "neutral", "contradiction")
NO_STEPS = "kept without steps: none, or not all of them recompute"


@dataclass(frozen=True)
class PublicSet:
    """Where a public set is and how it becomes records. splits: our name for a split -> the set's own."""

    task: str
    hub_id: str
    config: str | None
    splits: dict[str, str]
    licence: str
    revision: str
    fields: Callable[[Row], Fields]  # raises ValueError saying why a row cannot be used
    has_steps: bool = False


def _text(row: Row, column: str) -> str:
    if not isinstance(row[column], str) or not row[column].strip():
        raise ValueError(f"empty {column}")
    return row[column].strip()


def _asked(question: str, article: str = "") -> list[dict[str, str]]:
    system = [{"role": "system", "content": article}] if article else []
    return [*system, {"role": "user", "content": question}]


def inference(row: Row) -> Fields:
    """premise, hypothesis, label (0, 1, 2; -1 where the annotators did not agree)."""
    if row["label"] not in range(3):
        raise ValueError("no label")
    question = f"Premise: {_text(row, 'premise')}\nHypothesis: {_text(row, 'hypothesis')}"
    return _asked(question), NLI_LABELS[row["label"]]


def multiple_choice(row: Row) -> Fields:
    """question or question_stem, choices {label, text}, answerKey ("" in a test split without answers)."""
    question = _text(row, "question_stem" if "question_stem" in row else "question")
    options = dict(zip(row["choices"]["label"], row["choices"]["text"], strict=True))
    if row["answerKey"] not in options:
        raise ValueError("no answer")
    shown = "\n".join(f"{letter}) {option.strip()}" for letter, option in options.items())
    return _asked(f"{question}\n{shown}"), {"choice": row["answerKey"], "answers": [options[row["answerKey"]].strip()]}


def passage(row: Row) -> Fields:
    """context, question, answers {text, answer_start}."""
    answers = list(dict.fromkeys(answer.strip() for answer in row["answers"]["text"]))
    if not answers:
        raise ValueError("no answer")
    return _asked(_text(row, "question"), _text(row, "context")), {"answers": answers}


def _number(text: str) -> str:
    """Without a decimal part of noughts, which SVAMP writes after every number, and with the nought that ".5" lacks."""
    text = re.sub(r"(?<=[0-9])\.0+(?![0-9])", "", text.strip())
    return re.sub(r"(?<![0-9])\.(?=[0-9])", "0.", text)


def _step(expression: str, result: str) -> str:
    """ "48/2" and "24" as "48 / 2 = 24", the form our own worked steps have."""
    spaced = re.sub(r"(?<=[0-9%)])\s*([-+*/=])\s*", r" \1 ", _number(expression))
    return f"{spaced.replace('*', 'x')} = {_number(result)}"


def _solved(answer: str, steps: list[str]) -> Any:
    """The reference; the steps are in it only where every one of them recomputes."""
    right = steps and all(verdicts and all(verdicts) for verdicts in map(check_steps, steps))
    return {"answer": answer, "steps": "\n".join(steps)} if right else {"answer": answer}


def gsm8k(row: Row) -> Fields:
    """question, answer: sentences with their arithmetic as "<<48/2=24>>", then "#### 72"."""
    worked, marker, answer = _text(row, "answer").rpartition("####")
    if not marker:
        raise ValueError("no answer")
    found = [calculation.rpartition("=") for calculation in re.findall(r"<<([^<>]*)>>", worked)]
    steps = [_step(left, right) for left, _, right in found if left.strip() != right.strip()]  # <<5=5>> is no step
    return _asked(_text(row, "question")), _solved(_number(answer), steps)


def multiarith(row: Row) -> Fields:
    """question, final_ans: a number as text."""
    return _asked(_text(row, "question")), {"answer": _number(str(row["final_ans"]))}


def svamp(row: Row) -> Fields:
    """Body, Question, Equation "( 8.0 - 3.0 )", Answer "5.0"."""
    equation = _text(row, "Equation").replace("( ", "(").replace(" )", ")")
    if equation.startswith("("):
        equation = equation[1:-1]  # there is always a pair round the whole
    answer = _number(str(row["Answer"]))
    return _asked(f"{_text(row, 'Body')} {_text(row, 'Question')}"), _solved(answer, [_step(equation, answer)])


def chat(row: Row) -> Fields:
    """messages [{role, content}]: the last reply is the reference, the turns before it the history."""
    messages = [{"role": m["role"], "content": m["content"].strip()} for m in row["messages"]]
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise ValueError("no reply at the end")
    if sum(m["role"] == "user" for m in messages) < 2:
        raise ValueError("a single turn")
    if messages[0] == {"role": "system", "content": ""}:
        messages = messages[1:]
    return messages[:-1], messages[-1]["content"]


def dialogue(row: Row) -> Fields:
    """dialogue, summary."""
    return _asked(_text(row, "dialogue")), _text(row, "summary")


ALL_THREE = {"train": "train", "validation": "validation", "test": "test"}
CC_BY_SA = "CC BY-SA 4.0"
NOT_STATED = "none stated: ask before you pass it on"
SETS = {
    "snli": PublicSet("nli", "stanfordnlp/snli", "plain_text", ALL_THREE, CC_BY_SA,
                      "cdb5c3d5eed6ead6e5a341c8e56e669bb666725b", inference),
    "multi_nli": PublicSet("nli", "nyu-mll/multi_nli", None,
                           {"train": "train", "validation": "validation_matched", "test": "validation_mismatched"},
                           "several: OANC, CC BY 3.0, CC BY-SA 3.0, MIT",
                           "da70db2af9d09693783c3320c4249840212ee221", inference),
    "conjnli": PublicSet("nli", "pietrolesci/conj_nli", None, {"train": "train", "validation": "dev"}, NOT_STATED,
                         "5a0586250eacc5d79247f229547853912a6a2624", inference),
    "commonsense_qa": PublicSet("qa", "tau/commonsense_qa", None, {"train": "train", "validation": "validation"}, "MIT",
                                "94630fe30dad47192a8546eb75f094926d47e155", multiple_choice),
    "openbookqa": PublicSet("qa", "allenai/openbookqa", "main", ALL_THREE, "unknown, says its card",
                            "388097ea7776314e93a529163e0fea805b8a6454", multiple_choice),
    "squad": PublicSet("qa", "rajpurkar/squad", "plain_text", {"train": "train", "validation": "validation"}, CC_BY_SA,
                       "7b6d24c440a36b6815f21b70d25016731768db1f", passage),
    "gsm8k": PublicSet("math", "openai/gsm8k", "main", {"train": "train", "test": "test"}, "MIT",
                       "740312add88f781978c0658806c59bc2815b9866", gsm8k, has_steps=True),
    "multiarith": PublicSet("math", "ChilleD/MultiArith", None, {"train": "train", "test": "test"}, NOT_STATED,
                            "144d44c3fb87c0b9097ac9593c789e716a282e3e", multiarith),
    "svamp": PublicSet("math", "ChilleD/SVAMP", None, {"train": "train", "test": "test"}, "MIT (its authors' repository)",
                       "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef", svamp, has_steps=True),
    "ultrachat": PublicSet("conversation", "HuggingFaceH4/ultrachat_200k", None,
                           {"train": "train_sft", "test": "test_sft"}, "MIT",
                           "8049631c405ae6576f93f445c6b8166f76f5505a", chat),
    "everyday": PublicSet("conversation", "HuggingFaceTB/everyday-conversations-llama3.1-2k", None,
                          {"train": "train_sft", "test": "test_sft"}, "Apache 2.0; written by Llama 3.1",
                          "14f543216b9ba42b6b951dc5bd199460d193b162", chat),
    "dialogsum": PublicSet("summarization", "knkarthick/dialogsum", None, ALL_THREE, "CC BY-NC-SA 4.0",
                           "a968e7aee0602e257935f1321a02e4287f7d5848", dialogue),
    "samsum": PublicSet("summarization", "knkarthick/samsum", None, ALL_THREE, "CC BY-NC-ND 4.0",
                        "f8040674894a743112febaddde2b32264c07bb20", dialogue),
}  # fmt: skip


def get_public(name: str, split: str = "train") -> PublicSet:
    """The entry of the table. Raises ValueError naming the sets, or the splits with answers, that there are."""
    if name not in SETS:
        raise ValueError(f"no public set {name!r}; there are {', '.join(SETS)}")
    if split not in SETS[name].splits:
        raise ValueError(f"{name} has no split {split!r} with answers; it has {', '.join(SETS[name].splits)}")
    return SETS[name]


def table() -> str:
    """The sets as lines of text, one each."""
    return "\n".join(
        f"{name:15} {s.task:14} {s.hub_id}{f' ({s.config})' if s.config else ''} @ {s.revision[:12]}; "
        f"{', '.join(s.splits)}; licence: {s.licence}"
        for name, s in SETS.items()
    )


def load_public(
    name: str, split: str = "train", limit: int | None = None, folder: str | Path | None = None, stream: bool = False
) -> tuple[list[Example], dict[str, int]]:
    """The first `limit` records of a public set, and how many rows were dropped or changed on the way, by reason.

    folder: a copy of the set's repository on this disk, read in place of the Hub's. stream: fetch only what is read, and
    keep nothing in the cache. Raises ValueError for a set, split or column that is not there and when no row can be
    used, ConnectionError saying what to do when neither the Hub nor a cached copy at the pinned revision can be read.
    """
    public = get_public(name, split)
    examples: list[Example] = []
    counts: Counter[str] = Counter()
    seen: set[int] = set()
    for index, row in enumerate(_rows(public, name, split, folder, stream)):
        if limit is not None and len(examples) >= limit:
            break
        try:
            messages, reference = public.fields(row)
            example = Example(f"{name}-{split}-{index:06d}", public.task, messages, reference, extra={"source": name})
            parse_record(example.to_dict())
        except KeyError as error:
            raise ValueError(f"{name}: no column {error}; this copy has {', '.join(row)}") from None
        except ValueError as error:
            counts[f"dropped: {error}"] += 1
            continue
        if validate(example):
            counts["dropped: its own answer does not score in full"] += 1
        elif (asked := hash(json.dumps(messages))) in seen:
            counts["dropped: stands there twice"] += 1
        else:
            seen.add(asked)
            examples.append(example)
            counts[NO_STEPS] += public.has_steps and "steps" not in reference
    if not examples:
        raise ValueError(f"{name}: no row of {split} can be used ({dict(+counts)})")
    return examples, dict(+counts)


def _rows(public: PublicSet, name: str, split: str, folder: str | Path | None, stream: bool) -> Iterator[Row]:
    import datasets
    from datasets.exceptions import DatasetsError
    from httpx import HTTPError

    if folder and not Path(folder).is_dir():
        raise ValueError(f"{folder} is no folder; it should be a copy of the repository {public.hub_id}")
    try:
        if folder:
            builder = datasets.load_dataset_builder(str(folder), public.config)
        else:
            builder = datasets.load_dataset_builder(public.hub_id, public.config, revision=public.revision)
            if builder.hash != public.revision:  # without the Hub, `datasets` takes whichever revision it cached last
                raise ConnectionError(f"the cached copy is at {builder.hash}, not at the pinned {public.revision}")
        if folder or stream:  # of a folder, the cache would give what was in it before
            yield from builder.as_streaming_dataset(public.splits[split])
        else:
            builder.download_and_prepare()
            yield from builder.as_dataset(public.splits[split])
    except (OSError, ValueError, HTTPError, DatasetsError) as error:
        cause = error.__cause__ or error
        if folder:
            raise ValueError(f"{folder} is no usable copy of {public.hub_id}: {cause}") from None
        raise ConnectionError(advice(public, name, split, cause, datasets.config.HF_DATASETS_CACHE)) from None


def advice(public: PublicSet, name: str, split: str, cause: object, cache: object) -> str:
    """What to do when a set cannot be fetched."""
    command = f"python -m slmops_utils public {name} --split {split} --out {name}-{split}.jsonl"
    return f"""{public.hub_id} cannot be fetched: {cause}.
 - If this machine has a network, see that HF_HUB_OFFLINE is not set, and try again.
 - Otherwise run this on a machine that has one, and copy the file it writes to this one:
     {command}
 - Or copy that machine's cache after that command; here it belongs in {cache} (or set HF_HOME).
 - Or copy the repository, and read it with --from {name}:
     hf download {public.hub_id} --repo-type dataset --revision {public.revision} --local-dir {name}
 - A file of your own needs no network: python -m slmops_utils data FILE --task {public.task} --help"""
