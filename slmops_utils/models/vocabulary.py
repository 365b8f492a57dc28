"""Trim a byte-pair vocabulary to a domain without changing how the domain's text is tokenised.

Byte-pair encoding (arXiv 1508.07909) cuts text into words and merges neighbouring pieces, best-ranked pair first. We
replay it over every word of the domain and keep each piece that ever appears, half-merged ones too. The replay on the
trimmed vocabulary then takes the same steps: at each one the pair merged before is still there, and still ranks best
among a subset of the old choices. All single bytes and special tokens stay, so any other text can still be written.
Where the vocabulary is asked before the merges (`ignore_merges`, as in Llama 3), a word it knows whole is kept whole.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from typing import Any


def trim_tokenizer(tokenizer: Any, texts: Iterable[str], also: Collection[int] = ()) -> tuple[Any, list[int]]:
    """A tokenizer that knows only the tokens `texts` need, and for each of its ids the old id.

    Tokens whose ids are in `also` are kept too.
    Raises ValueError for a tokenizer that is not byte-level BPE.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    if spec["model"]["type"] != "BPE" or spec["model"].get("byte_fallback"):
        raise ValueError("only byte-level BPE vocabularies can be trimmed; keep this one whole (vocabulary_from=None)")
    vocabulary = spec["model"]["vocab"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in spec["model"]["merges"]]
    rank = {pair: i for i, pair in enumerate(merges)}
    put_in = list(places_of_ids(spec["post_processor"]))
    named = {*also, *(ids[i] for ids, i in put_in)}

    keep = {token["content"] for token in spec["added_tokens"]} & set(vocabulary)
    keep |= {token for token, i in vocabulary.items() if len(token) == 1 or i in named}  # 1: the byte alphabet
    words = words_of(tokenizer, texts)
    for word in words:
        keep |= pieces_of(word, rank)
    if spec["model"].get("ignore_merges"):
        keep |= words
    keep &= set(vocabulary)

    kept = sorted(keep, key=vocabulary.__getitem__)  # old order, so the special tokens keep their low ids
    new_id = {token: i for i, token in enumerate(kept)}
    for added in spec["added_tokens"]:  # added tokens may stand outside the model's own table
        new_id.setdefault(added["content"], len(new_id))
    old_id = tokenizer.get_vocab()
    spec["model"]["vocab"] = {token: new_id[token] for token in kept}
    spec["model"]["merges"] = [list(m) for m in merges if m[0] in keep and m[1] in keep and "".join(m) in keep]
    for added in spec["added_tokens"]:
        added["id"] = new_id[added["content"]]
    moved = {old_id[token]: new for token, new in new_id.items()}
    for ids, i in put_in:
        ids[i] = moved[ids[i]]
    spec["truncation"] = spec["padding"] = None

    trimmed = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        chat_template=tokenizer.chat_template,
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
        **tokenizer.special_tokens_map,
    )
    return trimmed, [old_id[token] for token in new_id]


def places_of_ids(processor: dict[str, Any] | None) -> Iterator[tuple[list[Any], int]]:
    """Where a post-processor holds the ids of the tokens it puts around a text: (list, place in it)."""
    if processor is None:
        return
    for part in processor.get("processors", []):  # Sequence
        yield from places_of_ids(part)
    for special in processor.get("special_tokens", {}).values():  # TemplateProcessing
        yield from ((special["ids"], i) for i in range(len(special["ids"])))
    for name in ("cls", "sep"):  # BertProcessing and RobertaProcessing: [token, id]
        if name in processor:
            yield processor[name], 1


def words_of(tokenizer: Any, texts: Iterable[str]) -> set[str]:
    """The words (byte-level, as the pre-tokenizer cuts them) of some texts, special tokens cut out first."""
    backend = tokenizer.backend_tokenizer
    special = sorted((t.content for t in backend.get_added_tokens_decoder().values()), key=len, reverse=True)
    words: set[str] = set()
    for text in texts:
        parts = [text]
        for token in special:
            parts = [piece for part in parts for piece in part.split(token)]
        for part in parts:
            if backend.normalizer is not None:
                part = backend.normalizer.normalize_str(part)
            words |= {word for word, _ in backend.pre_tokenizer.pre_tokenize_str(part)}
    return words


def pieces_of(word: str, rank: dict[tuple[str, str], int]) -> set[str]:
    """Every piece that appears while byte-pair encoding merges a word."""
    pieces, seen = list(word), set(word)
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: rank.get(pair, len(rank)))
        if best not in rank:
            break
        merged, i = [], 0
        while i < len(pieces):
            if i + 1 < len(pieces) and (pieces[i], pieces[i + 1]) == best:
                merged.append(pieces[i] + pieces[i + 1])
                i += 2
            else:
                merged.append(pieces[i])
                i += 1
        pieces = merged
        seen.update(pieces)
    return seen
