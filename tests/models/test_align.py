"""Which token is which: found by the tokens themselves, and refused where two tokenizers only look alike."""

import copy
import json

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from slmops_utils.models.align import DifferentTokenizers, teacher_ids, template_fingerprint, tokenizer_fingerprint
from slmops_utils.models.vocabulary import trim_tokenizer

TEXT = "Premise: the fee is £5. Hypothesis: the fee is £6."


@pytest.fixture(scope="module")
def teacher(whole_tokenizer):
    """A trimmed tokenizer stands in for a whole one: it is as valid a parent."""
    words = "entailment neutral contradiction system user assistant, the fees of the phone and of the router"
    return trim_tokenizer(whole_tokenizer, [TEXT, words])[0]


@pytest.fixture(scope="module")
def trimmed(teacher):
    return trim_tokenizer(teacher, [TEXT])


def changed(tokenizer, change):
    """A tokenizer made from another's specification after `change` has been at it."""
    from tokenizers import Tokenizer

    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    change(spec)
    backend = Tokenizer.from_str(json.dumps(spec))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokenizer.special_tokens_map)


def test_the_same_tokenizer_maps_to_itself(teacher):
    assert teacher_ids(teacher, copy.deepcopy(teacher)) == list(range(len(teacher)))


def test_a_trimmed_vocabulary_is_recovered_token_by_token(teacher, trimmed):
    student, kept = trimmed
    assert teacher_ids(teacher, student) == kept
    assert [kept[i] for i in student(TEXT)["input_ids"]] == teacher(TEXT)["input_ids"]


def test_it_is_recovered_from_the_whole_vocabulary_and_from_disk(whole_tokenizer, teacher, tmp_path):
    teacher.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    mapping = teacher_ids(whole_tokenizer, again)
    assert whole_tokenizer.convert_ids_to_tokens(mapping) == again.convert_ids_to_tokens(range(len(again)))


def test_a_larger_teacher_is_not_a_trimmed_student(teacher, trimmed):
    with pytest.raises(DifferentTokenizers, match=r"are none of the teacher's \('.*Use method 'text'"):
        teacher_ids(trimmed[0], teacher)


def test_equal_size_is_no_evidence(teacher):
    """As many ids, the same strings, every meaning wrong: two ids have changed places."""

    def swap(spec):
        vocabulary = spec["model"]["vocab"]
        a, b = list(vocabulary)[40:42]
        vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]

    other = changed(teacher, swap)
    assert len(other) == len(teacher)
    assert teacher_ids(teacher, other) != list(range(len(teacher))), "the mapping must follow the tokens"


def test_another_vocabulary_of_equal_size_is_refused(teacher):
    def rename(spec):
        spec["model"]["merges"] = []
        vocabulary = spec["model"]["vocab"]
        spec["model"]["vocab"] = {t if len(t) == 1 or t.startswith("<") else f"{t}x": i for t, i in vocabulary.items()}

    other = changed(teacher, rename)
    assert len(other) == len(teacher)
    with pytest.raises(DifferentTokenizers, match="Use method 'text'"):
        teacher_ids(teacher, other)


def test_the_same_tokens_merged_in_another_order_are_refused(teacher):
    with pytest.raises(DifferentTokenizers, match="another order"):
        teacher_ids(teacher, changed(teacher, lambda spec: spec["model"]["merges"].reverse()))


def test_a_trimmed_vocabulary_that_cuts_words_differently_is_refused(teacher, trimmed):
    def whole_words(spec):
        spec["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}

    with pytest.raises(DifferentTokenizers, match="cut text into words differently"):
        teacher_ids(teacher, changed(trimmed[0], whole_words))


def test_fingerprints_follow_what_decides_and_survive_the_disk(teacher, trimmed, tmp_path):
    found = tokenizer_fingerprint(teacher)
    teacher("some text", padding="max_length", truncation=True, max_length=5)  # leaves its settings in the backend
    assert tokenizer_fingerprint(teacher) == found != tokenizer_fingerprint(trimmed[0])
    teacher.save_pretrained(tmp_path)
    assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path)) == found
    assert tokenizer_fingerprint(changed(teacher, lambda spec: spec["model"]["merges"].pop())) != found
    other = copy.deepcopy(teacher)
    other.chat_template += " "
    assert template_fingerprint(other) != template_fingerprint(teacher)
    assert tokenizer_fingerprint(other) == found
