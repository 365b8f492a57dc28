"""Reference rows: what takes no language model at all. A task these nearly solve is too easy to teach anything."""

import re
from collections import Counter
from collections.abc import Sequence

from ..records import Example
from ..tasks import get_task


def reference_answers(train: Sequence[Example], test: Sequence[Example]) -> dict[str, list[str]]:
    """Answers to `test` by name of the method: the majority class and a TF-IDF classifier for labels; for
    conversations, the article sentence with the highest TF-IDF similarity to what the customer said."""
    if test[0].task == "nli":
        majority = Counter(str(e.reference) for e in train).most_common(1)[0][0]
        return {"majority class": [majority] * len(test), "TF-IDF classifier": _tfidf_labels(train, test)}
    return {"closest article sentence (TF-IDF)": [closest_sentence(e) for e in test]}


def _tfidf_labels(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    classifier.fit([e.prompt[-1]["content"] for e in train], [str(e.reference) for e in train])
    return [str(label) for label in classifier.predict([e.prompt[-1]["content"] for e in test])]


def closest_sentence(example: Example) -> str:
    """The sentence of the system message that shares most with the customer's turns."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    article = next((m["content"] for m in example.messages if m["role"] == "system"), "")
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n", article) if s.strip()]
    if not sentences:
        return ""
    said = " ".join(m["content"] for m in example.prompt if m["role"] == "user")
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform([*sentences, said])
    return sentences[int((vectors[:-1] @ vectors[-1].T).toarray().ravel().argmax())]


def reference_scores(train: Sequence[Example], test: Sequence[Example]) -> dict[str, dict[str, list]]:
    """Row scores of each reference method on each metric of the task."""
    task = get_task(test[0].task)
    return {
        name: {
            m: [metric.value(e, a) for e, a in zip(test, answers, strict=True)] for m, metric in task.metrics.items()
        }
        for name, answers in reference_answers(train, test).items()
    }
