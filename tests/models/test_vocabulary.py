"""A trimmed vocabulary writes its domain with the same tokens as before, and any other text still."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from slmops_utils.models.vocabulary import pieces_of, trim_tokenizer

pytestmark = pytest.mark.model

DATA = Path(__file__).resolve().parents[2] / "data"
ODD = [
    "", " ", "   deep\n\n\tindent  ", "Größe: 5 µm — naïve café", "日本語のテキスト", "🙂👩‍👩‍👧 emoji", "x" * 80,
    "£1,234.50 on 03/04/2025", "don't can't they'll WE'VE", "def f(x):\n    return x**2  # code", "<|im_start|>user\nhi<|im_end|>",
    "a<|im_end|><|im_end|> b", "http://example.org/a?b=c&d=%20", "\r\n\r\n", "اَلْعَرَبِيَّةُ", "12345678901234567890",
]  # fmt: skip
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is £5 in naïve café money? 🙂"}]


def domain() -> list[str]:
    texts = []
    for name in ("nli", "conversation"):
        lines = (DATA / name / "challenge.jsonl").read_text(encoding="utf-8").splitlines()
        texts += [message["content"] for line in lines for message in json.loads(line)["messages"]]
    return texts[:200] + ODD


@pytest.fixture(scope="module")
def whole(embedded):
    return embedded.tokenizer


@pytest.fixture(scope="module")
def trimmed(whole):
    return trim_tokenizer(whole, domain())


def test_the_domain_is_written_with_the_same_tokens(whole, trimmed):
    tokenizer, kept = trimmed
    assert len(domain()) > 200
    for text in domain():
        assert tokenizer.tokenize(text) == whole.tokenize(text)
        assert [kept[i] for i in tokenizer(text)["input_ids"]] == whole(text)["input_ids"]


def test_it_is_much_smaller_and_keeps_the_old_order(whole, trimmed):
    tokenizer, kept = trimmed
    assert len(tokenizer) == len(kept) < len(whole) / 10
    assert kept == sorted(set(kept))
    assert tokenizer.convert_ids_to_tokens(range(len(kept))) == whole.convert_ids_to_tokens(kept)


def test_special_tokens_survive(whole, trimmed):
    tokenizer, kept = trimmed
    assert tokenizer.special_tokens_map == whole.special_tokens_map
    assert set(tokenizer.all_special_tokens) == set(whole.all_special_tokens)
    for name in ("bos", "eos", "pad", "unk"):
        assert kept[getattr(tokenizer, f"{name}_token_id")] == getattr(whole, f"{name}_token_id")
    added = {token.content for token in whole.added_tokens_decoder.values()}
    assert {token.content for token in tokenizer.added_tokens_decoder.values()} == added
    assert all(len(tokenizer.tokenize(token)) == 1 for token in added)


def test_the_chat_template_gives_the_same_text_and_tokens(whole, trimmed):
    tokenizer = trimmed[0]
    as_text = {"tokenize": False, "add_generation_prompt": True}
    assert tokenizer.apply_chat_template(CHAT, **as_text) == whole.apply_chat_template(CHAT, **as_text)
    in_domain = trim_tokenizer(whole, [whole.apply_chat_template(CHAT, **as_text)])[0]
    ids = in_domain.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=True)["input_ids"]
    old = whole.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert in_domain.convert_ids_to_tokens(ids) == whole.convert_ids_to_tokens(old)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(max_size=60))
def test_any_text_comes_back_from_its_tokens(text, whole, trimmed):
    tokenizer = trimmed[0]
    back = tokenizer.decode(tokenizer(text)["input_ids"])
    assert back == whole.decode(whole(text)["input_ids"])
    # SmolLM2 has no token for six control characters and the unassigned planes 4 to 11: there is nothing to keep
    if not any(c in "\x04\x06\x13\x14\x16\x1d" or 0x40000 <= ord(c) < 0xC0000 for c in text):
        assert back == text


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="abeinrst '\n.5£", max_size=40))
def test_trimming_to_a_text_never_changes_how_that_text_is_cut(text, whole, trimmed):
    # the trimmed tokenizer stands for the whole one here: it is as valid a parent, and trims a hundred times faster
    parent = trimmed[0]
    assert trim_tokenizer(parent, [text])[0].tokenize(text) == parent.tokenize(text)


def test_the_saved_folder_is_plain_hugging_face(trimmed, tmp_path):
    from transformers import AutoTokenizer

    tokenizer, _ = trimmed
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in domain():
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.chat_template == tokenizer.chat_template
    assert (again.eos_token_id, again.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_half_merged_pieces_are_kept():
    # "abab": ab+ab are merged before (abab) exists, and a run of merges must find every step
    rank = {("a", "b"): 0, ("ab", "ab"): 1}
    assert pieces_of("ababa", rank) == {"a", "b", "ab", "abab"}


FIRST, LAST = ("<s>", 259), ("</s>", 260)
FRAMES = {
    "template": processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>", [FIRST, LAST]),
    "bert": processors.BertProcessing(LAST, FIRST),
    "roberta": processors.RobertaProcessing(LAST, FIRST),
}


def small(post_processor=None, **options):
    """The bytes and a few tokens more: no merge leads to "abc", and "<s>" is special to nobody but the post-processor."""
    from transformers import PreTrainedTokenizerFast

    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "de", "ab", "abc", "<s>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("d", "e"), ("a", "b")], **options))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(["</s>"])
    if post_processor is not None:
        backend.post_processor = post_processor
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("frame", FRAMES)
def test_what_is_put_around_a_text_moves_with_the_vocabulary(frame, nested):
    frame = FRAMES[frame]
    whole = small(processors.Sequence([processors.ByteLevel(), frame]) if nested else frame)
    tokenizer, kept = trim_tokenizer(whole, ["ab c"])
    ids = tokenizer("ab c")["input_ids"]
    assert max(ids) < len(tokenizer) == len(kept) < len(whole)
    assert [kept[i] for i in ids] == whole("ab c")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "ab", "Ġ", "c", "</s>"]


def test_a_word_that_is_known_whole_stays_whole_though_no_merge_leads_to_it():
    """As in Llama 3, whose vocabulary is asked before its merges."""
    whole, text = small(ignore_merges=True), "abc ab"
    tokenizer, kept = trim_tokenizer(whole, [text])
    assert tokenizer.tokenize(text) == whole.tokenize(text) == ["abc", "Ġ", "ab"]
    assert [kept[i] for i in tokenizer(text)["input_ids"]] == whole(text)["input_ids"]
    assert len(tokenizer) == len(kept) < len(whole)
    assert "abc" not in trim_tokenizer(small(), [text])[0].get_vocab(), "which only merges could write"


def test_another_kind_of_vocabulary_is_refused():
    from transformers import PreTrainedTokenizerFast

    unigram = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram([("a", 0.0)], 0)))
    with pytest.raises(ValueError, match="only byte-level BPE"):
        trim_tokenizer(unigram, ["a"])
