"""A carved student computes what its parent computes wherever nothing was taken away."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops_utils.models.carve import choose_layers, keep_layers, keep_tokens, save, shrink
from slmops_utils.models.influence import block_influence
from slmops_utils.models.load import LoadedModel, weights_fingerprint
from slmops_utils.models.vocabulary import trim_tokenizer
from slmops_utils.synthesize.answer import end_ids

TEXT = "Premise: the fee is £5. Hypothesis: the fee is £6."


def logits(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits


def ids_of(loaded: LoadedModel) -> list[int]:
    return loaded.tokenizer(TEXT)["input_ids"]


@pytest.fixture
def deep(tiny):
    """The tiny model with five layers, so that there is something to leave out."""
    from transformers import LlamaForCausalLM

    tiny.model.config.num_hidden_layers = 5
    tiny.model.config.layer_types = None
    torch.manual_seed(1)
    tiny.model = LlamaForCausalLM(tiny.model.config).eval()
    return tiny


@settings(deadline=None)
@given(total=st.integers(2, 80), data=st.data(), rule=st.sampled_from(["even", "early"]))
def test_chosen_layers_rise_from_the_first_to_the_last(total, data, rule):
    keep = data.draw(st.integers(2, total))
    layers = choose_layers(total, keep, rule)
    assert len(layers) == keep
    assert layers == sorted(set(layers))
    assert (layers[0], layers[-1]) == (0, total - 1)


def test_the_rules_do_what_they_say():
    assert choose_layers(30, 4) == [0, 10, 19, 29]
    assert choose_layers(30, 4, "early") == [0, 1, 2, 29]


@pytest.mark.parametrize("keep", [-1, 0, 1, 31])
def test_too_few_or_too_many_layers_are_an_error(keep):
    with pytest.raises(ValueError, match="between 2 and 30"):
        choose_layers(30, keep)


def test_an_unknown_rule_names_those_that_exist():
    with pytest.raises(ValueError, match=r"'odd'.*early, even, influence"):
        choose_layers(30, 4, "odd")


@pytest.mark.parametrize("layers", [[], [1, 0], [0, 0, 1], [-1, 1], [0, 5]])
def test_a_bad_list_of_layers_is_an_error(layers, deep):
    with pytest.raises(ValueError, match="rising numbers from 0 to 4"):
        keep_layers(deep.model, layers)


def test_influence_keeps_the_layers_that_change_most_and_both_ends():
    assert choose_layers(6, 4, "influence", [0.0, 0.1, 0.9, 0.2, 0.8, 0.0]) == [0, 2, 4, 5]
    with pytest.raises(ValueError, match="measured influence"):
        choose_layers(6, 4, "influence")


def test_a_layer_that_passes_its_input_on_has_no_influence_and_goes_first(deep):
    quiet = deep.model.get_decoder().layers[2]
    with torch.no_grad():
        quiet.self_attn.o_proj.weight.zero_()
        quiet.mlp.down_proj.weight.zero_()
    measured = block_influence(deep, [TEXT, "a much shorter text"], batch_size=2)
    assert measured[2] == pytest.approx(0, abs=1e-6)
    assert min(measured[:2] + measured[3:]) > 1e-4
    assert measured == pytest.approx(block_influence(deep, [TEXT, "a much shorter text"], batch_size=1), abs=1e-5)
    student = shrink(deep, 4, "influence", [TEXT])
    others = [deep.model.get_decoder().layers[i] for i in (0, 1, 3, 4)]
    for kept, parent in zip(student.model.get_decoder().layers, others, strict=True):
        assert torch.equal(kept.mlp.down_proj.weight, parent.mlp.down_proj.weight)


def test_influence_without_a_text_is_an_error(deep):
    with pytest.raises(ValueError, match="measured on text"):
        shrink(deep, 3, "influence")


def test_an_unshrunk_copy_computes_the_same(deep):
    ids = ids_of(deep)
    assert torch.equal(logits(shrink(deep).model, ids), logits(deep.model, ids))
    assert torch.equal(logits(keep_layers(deep.model, range(5)), ids), logits(deep.model, ids))


def test_the_kept_layers_are_the_named_ones(deep):
    model = keep_layers(deep.model, [0, 3, 4])
    for new, old in enumerate([0, 3, 4]):
        kept, parent = (decoder.get_decoder().layers[i] for decoder, i in ((model, new), (deep.model, old)))
        assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), parent.parameters(), strict=True))
        assert kept.self_attn.layer_idx == new
    assert not torch.equal(logits(model, ids_of(deep)), logits(deep.model, ids_of(deep)))


@pytest.mark.parametrize("tied", [True, False])
def test_a_trimmed_vocabulary_gives_exactly_the_logits_of_the_kept_rows(tied, deep):
    from transformers import LlamaForCausalLM

    deep.model.config.tie_word_embeddings = tied
    deep.model = LlamaForCausalLM(deep.model.config).eval()
    student = shrink(deep, vocabulary_from=[TEXT])
    kept = trim_tokenizer(deep.tokenizer, [TEXT])[1]
    assert len(kept) < len(deep.tokenizer)
    expected = logits(deep.model, ids_of(deep))[..., kept]
    found = logits(student.model, ids_of(student))
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)  # a narrower product may round its last bit
    shared = student.model.get_input_embeddings().weight is student.model.get_output_embeddings().weight
    assert shared == tied


def test_the_special_ids_move_with_the_vocabulary(deep):
    tokenizer, kept = trim_tokenizer(deep.tokenizer, [TEXT])
    model = keep_tokens(keep_layers(deep.model, range(5)), kept, tokenizer)
    assert model.config.vocab_size == len(kept) == len(tokenizer)
    for config in (model.config, model.generation_config):
        assert config.eos_token_id == tokenizer.eos_token_id
        assert config.pad_token_id == tokenizer.pad_token_id
        assert config.bos_token_id == tokenizer.bos_token_id


def test_all_that_ends_an_answer_still_does(deep):
    """Llama 3 and Phi name several ends; no text needs the second one here."""
    kept = trim_tokenizer(deep.tokenizer, [TEXT])[1]
    other = next(i for i in range(len(deep.tokenizer)) if i not in kept)
    deep.model.generation_config.eos_token_id = [other, deep.tokenizer.eos_token_id]
    student = shrink(deep, vocabulary_from=[TEXT])
    said = student.tokenizer.convert_ids_to_tokens(sorted(end_ids(student)))
    assert sorted(said) == sorted(deep.tokenizer.convert_ids_to_tokens(sorted(end_ids(deep)))) and len(said) == 2
    assert student.model.config.eos_token_id == student.tokenizer.eos_token_id, "this one named a single end"
    assert student.tokenizer.tokenize(TEXT) == deep.tokenizer.tokenize(TEXT)


def test_the_parent_is_left_as_it_was(deep):
    before, size = weights_fingerprint(deep.model), len(deep.tokenizer)
    student = shrink(deep, 3, vocabulary_from=[TEXT])
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.zero_()  # would show through any weight still shared
    assert weights_fingerprint(deep.model) == before
    assert deep.model.config.num_hidden_layers == len(deep.model.get_decoder().layers) == 5
    assert deep.model.config.vocab_size == len(deep.tokenizer) == size


def test_the_embedded_model_is_carved_to_what_was_asked(embedded):
    student = shrink(embedded, 2, vocabulary_from=[TEXT])
    config = student.model.config
    assert (config.num_hidden_layers, config.vocab_size) == (2, len(student.tokenizer))
    assert student.parameters < embedded.parameters / 10
    assert embedded.model.config.num_hidden_layers == 30


def test_a_saved_student_is_plain_hugging_face(deep, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    student = shrink(deep, [0, 2, 4], vocabulary_from=[TEXT])
    save(student, str(tmp_path))
    assert next(student.model.parameters()).dtype == torch.float32, "saving changed the model in memory"
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(TEXT)["input_ids"] == ids_of(student)
    rounded = {name: tensor.bfloat16().float() for name, tensor in student.model.state_dict().items()}
    assert all(torch.equal(tensor, rounded[name]) for name, tensor in model.state_dict().items())


def test_a_saved_student_answers_the_same_with_and_without_its_cache(deep, tmp_path):
    from transformers import AutoModelForCausalLM

    save(shrink(deep, [0, 2, 4], vocabulary_from=[TEXT]), str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.tensor([shrink(deep, [0, 2, 4], vocabulary_from=[TEXT]).tokenizer(TEXT)["input_ids"]])
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    cached = model.generate(ids, use_cache=True, **options)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **options))
