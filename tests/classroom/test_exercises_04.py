"""Exercises of notebook 04: the reference passes, a stub never blocks, typical mistakes are named."""

from collections import Counter

import pytest

from slmops_utils.classroom.exercises_04 import EXERCISES, check


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes_and_a_stub_does_not_block(name, capsys):
    reference = EXERCISES[name].reference
    attempt = lambda *a, **k: reference(*a, **k)  # noqa: E731
    assert check(name, attempt) is attempt, capsys.readouterr().out
    assert check(name, lambda *a, **k: None) is reference
    assert "not attempted" in capsys.readouterr().out


def steps(exact=False, last=False, whole=False):
    def first_wrong_step(rows):
        found = []
        for i, (a, op, b, c) in enumerate(rows):
            value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if not whole or b else 1e9}[op]
            if (value != c) if exact else abs(value - c) > 0.005:
                found.append(i)
        return (found[-1] if last else found[0]) if found else None

    return first_wrong_step


def words_only(train, held, threshold):
    share = lambda a, b: len(set(a.split()) & set(b.split())) / len(set(a.split()))  # noqa: E731
    return [i for i, t in enumerate(train) if any(share(t.lower(), h.lower()) >= threshold for h in held)]


def as_written(train, held, threshold):
    def triples(text):
        words = text.split()
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    return [i for i, t in enumerate(train)
            if any(len(triples(t) & triples(h)) / len(triples(t) | triples(h)) >= threshold for h in held)]  # fmt: skip


def last_stay(labels, times):
    first = EXERCISES["cap_classes"].reference(labels[::-1], times)
    return sorted(len(labels) - 1 - i for i in first)


@pytest.mark.parametrize(
    ("name", "mistake", "hint"),
    [
        ("first_wrong_step", lambda rows: any(a * b != c for a, _, b, c in rows), "not whether"),
        ("first_wrong_step", lambda rows: 1, "counted from 0"),
        ("first_wrong_step", lambda rows: 0, "all three steps hold"),
        ("first_wrong_step", steps(exact=True), "half a penny"),
        ("first_wrong_step", steps(), "5 / 0 = 0"),
        ("majority_answer", lambda a: (Counter(a).most_common(1)[0]), "count"),
        ("majority_answer", lambda a: Counter(a).most_common(1)[0][0], "two things"),
        ("majority_answer", lambda a: (Counter(a).most_common(1)[0][0], Counter(a).most_common(1)[0][1] / len(a)), "no answer that could win"),
        ("majority_answer", lambda a: ((r := [x for x in a if x]) and Counter(r).most_common(1)[0][0], Counter(r).most_common(1)[0][1] / len(r)), "count against it"),
        ("majority_answer", lambda a: ((r := [x for x in a if x]) and Counter(r).most_common(1)[0][0], Counter(r).most_common(1)[0][1] / len(a)), "nothing to count"),
        ("leaked_rows", lambda t, h, s: [x for x in t if x in h], "places"),
        ("leaked_rows", lambda t, h, s: [i for i, x in enumerate(t) if x in h], "one word more"),
        ("leaked_rows", as_written, "lower case"),
        ("leaked_rows", lambda t, h, s: words_only(t, h, s) if s < 1 else [1], "3 shares only 8|row 0"),
        ("cap_classes", lambda labels, times: list(range(len(labels))), "at most six"),
        ("cap_classes", last_stay, "earlier rows"),
    ],
)  # fmt: skip
def test_typical_mistakes_are_named(name, mistake, hint, capsys):
    assert check(name, mistake) is EXERCISES[name].reference
    told = capsys.readouterr().out
    assert any(part in told for part in hint.split("|")), told


def test_an_unknown_exercise_names_those_of_this_notebook():
    with pytest.raises(KeyError, match="cap_classes"):
        check("retention", lambda: None)
