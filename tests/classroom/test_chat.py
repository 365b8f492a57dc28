"""The chat shows what each model writes as it comes, and never runs it."""

import pytest

from slmops_utils.classroom import chat
from slmops_utils.deploy.export import export
from slmops_utils.deploy.serve import serving
from slmops_utils.models.load import load_model
from slmops_utils.synthesize.answer import Sampling, answer
from slmops_utils.tasks import get_task


@pytest.fixture(scope="module")
def both(taught_folder, tmp_path_factory):
    path = export(taught_folder, "gguf", "f16", tmp_path_factory.mktemp("chat") / "taught.gguf")
    with serving(str(path), slots=1) as served:
        yield {"teacher": load_model(taught_folder, "float32"), "edge student": served}


def test_both_stream_the_answer_that_answer_gives(both, taught_examples):
    prompt = get_task("nli").prompt(taught_examples[1])
    whole = answer(both["teacher"], [prompt], Sampling(16))[0].text
    for model in both.values():
        seen = []
        text, first, _ = chat.watch(model, prompt, 16, lambda *state, seen=seen: seen.append(state))
        assert text.strip() == whole == seen[-1][0].strip()
        assert len(seen) > 1 and 0 < first <= seen[-1][3]
        assert [state[1] for state in seen] == list(range(1, len(seen) + 1))


def test_the_box_asks_both_and_shows_their_speed(both, taught_examples):
    *system, user = get_task("nli").prompt(taught_examples[0])
    box = chat.side_by_side(both, user["content"], system[0]["content"], 16)
    text, button, row = box.children
    assert text.value == user["content"]
    button.click()
    for view, name in zip(row.children, both, strict=True):
        assert name in view.value and "entailment" in view.value and "first after" in view.value
    assert not button.disabled


def test_what_a_model_writes_is_shown_and_never_run(monkeypatch):
    monkeypatch.setattr(chat, "stream", lambda *_: iter(["<script>alert(1)", "</script>"]))
    box = chat.side_by_side({"<b>": None}, "Hi")
    box.ask("Hi")
    shown = box.children[2].children[0].value
    assert "&lt;script&gt;" in shown and "<script" not in shown and "<b><b>" not in shown


def test_a_failure_is_shown_where_the_learner_looks(monkeypatch):
    def broken(*_):
        raise ConnectionError("the server is <gone>")

    monkeypatch.setattr(chat, "stream", broken)
    box = chat.side_by_side({"student": None}, "Hi")
    box.ask("Hi")
    assert "ConnectionError: the server is &lt;gone&gt;" in box.children[2].children[0].value
    assert not box.children[1].disabled
