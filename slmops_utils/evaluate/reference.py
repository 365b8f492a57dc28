"""Reference rows: what takes no language model at all. A task these nearly solve is too easy to teach anything."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from ..records import Example
from ..tasks import get_task
from ..tasks.qa import options

LEAD = 3  # the usual baseline of summarization
HYPOTHESIS = "\nHypothesis: "  # begins the claim of an inference row, as our data and `convert` write it


def reference_answers(train: Sequence[Example], test: Sequence[Example]) -> dict[str, list[str]]:
    """Answers to `test` by name of the method: for labels, the majority class and a TF-IDF classifier, and where the rows
    are premises and hypotheses one that reads the hypothesis only; the first sentences for summaries; for the rest, the
    article sentence with the highest TF-IDF similarity to what the user said, and of a question's options the one most
    like that sentence."""
    if test[0].task == "nli":
        majority = Counter(str(e.reference) for e in train).most_common(1)[0][0]
        answers = {"majority class": [majority] * len(test), "TF-IDF classifier": _tfidf_labels(train, test, _asked)}
        if all(HYPOTHESIS in _asked(e) for e in (*train, *test)):
            answers["TF-IDF, hypothesis only"] = _tfidf_labels(train, test, _hypothesis)
        return answers
    if test[0].task == "summarization":
        return {f"first {LEAD} sentences": [" ".join(_sentences(e.prompt[-1]["content"])[:LEAD]) for e in test]}
    if test[0].task == "qa":
        return {"closest article sentence (TF-IDF)": [_closest_option(e) or closest_sentence(e) for e in test]}
    return {"closest article sentence (TF-IDF)": [closest_sentence(e) for e in test]}


def _asked(example: Example) -> str:
    return example.prompt[-1]["content"]


def _hypothesis(example: Example) -> str:
    """What a label could be told from without the premise: far above chance, it gives the labels away."""
    return _asked(example).rpartition(HYPOTHESIS)[2]


def _tfidf_labels(train: Sequence[Example], test: Sequence[Example], read: Callable[[Example], str]) -> list[str]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    classifier.fit([read(e) for e in train], [str(e.reference) for e in train])
    return [str(label) for label in classifier.predict([read(e) for e in test])]


def closest_sentence(example: Example) -> str:
    """The sentence of the system message that shares most with the user's turns; "" where there is no article."""
    sentences = _sentences(next((m["content"] for m in example.messages if m["role"] == "system"), ""))
    said = " ".join(m["content"] for m in example.prompt if m["role"] == "user")
    return _closest(sentences, said) if sentences else ""


def _closest_option(example: Example) -> str | None:
    shown = {text: letter for letter, text in options(example).items()}
    # an option can be a single character: "3", "£5"
    return shown[_closest(list(shown), closest_sentence(example), r"[\w£]+|\S")] if shown else None


def _sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])\s+|\n", text) if s.strip()]


def _closest(texts: list[str], said: str, word: str = r"\b\w\w+\b") -> str:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(sublinear_tf=True, token_pattern=word).fit_transform([*texts, said])
    return texts[int((vectors[:-1] @ vectors[-1].T).toarray().ravel().argmax())]


def reference_scores(train: Sequence[Example], test: Sequence[Example]) -> dict[str, dict[str, list]]:
    """Row scores of each reference method on each metric of the task."""
    metrics = get_task(test[0].task).metrics_for(test)
    return {
        name: {m: [metric.value(e, a) for e, a in zip(test, answers, strict=True)] for m, metric in metrics.items()}
        for name, answers in reference_answers(train, test).items()
    }
