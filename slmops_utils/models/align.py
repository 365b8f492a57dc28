"""Are two tokenizers of one family, and which token of the one is which of the other?

Logits, hidden states and attention are compared position by position and token by token, so teacher and student must
cut a text alike. Widths tell nothing: models of one family pad their vocabularies differently, and two tokenizers of
equal size may share no meaning at all. Only the tokens themselves are evidence.
"""

import hashlib
import json
from typing import Any


class DifferentTokenizers(ValueError):
    """Teacher and student cut text differently; the message names the method that works all the same."""


def teacher_ids(teacher: Any, student: Any) -> list[int]:
    """For every id of the student's tokenizer the teacher's id of the same token.

    The student's vocabulary may be the teacher's, or one trimmed out of it. For equal vocabularies this is
    [0, 1, 2, ...], and what a wider output layer has beyond it is padding. Raises DifferentTokenizers.
    """
    theirs, ours = teacher.get_vocab(), student.get_vocab()
    strange = sorted(token for token in ours if token not in theirs)
    if strange:
        raise _different(f"{len(strange):,} of the student's {len(ours):,} tokens are none of the teacher's", strange)
    width = max(ours.values()) + 1
    if all(theirs[token] == i for token, i in ours.items()):
        mapping = list(range(width))
    else:
        token_of = {i: token for token, i in ours.items()}
        if len(token_of) < width:
            raise _different("the student's ids are not the teacher's, and have gaps", [])
        mapping = [theirs[token_of[i]] for i in range(width)]
    _check_cutting(teacher, student)
    return mapping


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A short hash of what decides how a text is cut: the tokens with their ids, the merges, and what comes before."""
    rules = _rules(tokenizer)
    text = json.dumps([sorted(tokenizer.get_vocab().items()), rules], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def template_fingerprint(tokenizer: Any) -> str:
    """A short hash of the chat template."""
    return hashlib.sha256(json.dumps(tokenizer.chat_template).encode()).hexdigest()[:16]


def _check_cutting(teacher: Any, student: Any) -> None:
    """The same tokens may still be put together in another order; the student's merges must be some of the teacher's."""
    theirs, ours = _rules(teacher), _rules(student)
    if theirs is None or ours is None:  # a tokenizer without a Rust backend shows its tokens only
        return
    rank = {pair: i for i, pair in enumerate(theirs["merges"])}
    order = [rank.get(pair, -1) for pair in ours["merges"]]
    if -1 in order or order != sorted(order):
        raise _different("both know the same tokens, but put them together in another order", [])
    if len(ours["merges"]) < len(rank) and ours["before"] != theirs["before"]:
        raise _different("both know the same tokens, but cut text into words differently", [])


def _rules(tokenizer: Any) -> dict[str, Any] | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    spec = json.loads(backend.to_str())
    merges = spec["model"].get("merges") or []
    return {
        "merges": [" ".join(pair) if isinstance(pair, list) else pair for pair in merges],
        "before": [spec["normalizer"], spec["pre_tokenizer"]],
    }


def _different(what: str, tokens: list[str]) -> DifferentTokenizers:
    shown = f" ({', '.join(map(repr, tokens[:3]))}{', ...' if len(tokens) > 3 else ''})" if tokens else ""
    return DifferentTokenizers(
        f"teacher and student have different tokenizers: {what}{shown}. Their logits, hidden states and attention "
        "cannot be compared token by token. Use method 'text', which works across tokenizers: let the teacher write "
        "answers (generate) and train the student on them."
    )
