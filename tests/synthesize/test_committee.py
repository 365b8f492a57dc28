"""Several teachers, real servers and real (tiny) models: each is asked once, the vote is kept, the average is exact."""

import copy
import json

import pytest
import torch
from server import Server, completion, problem
from test_endpoint import QUICK, no_keys, pool, row_of  # noqa: F401

from slmops_utils.__main__ import main
from slmops_utils.models.align import DifferentTokenizers
from slmops_utils.models.load import LoadedModel
from slmops_utils.models.vocabulary import trim_tokenizer
from slmops_utils.records import Example, read_records, write_records
from slmops_utils.synthesize.answer import Sampling, answer, encode_prompt
from slmops_utils.synthesize.budget import Caps
from slmops_utils.synthesize.committee import generate_committee
from slmops_utils.synthesize.together import answer_together, generate_together

SHORT = Sampling(max_new_tokens=8)


def test_the_majority_is_written_and_every_voice_is_kept(tmp_path):
    def dissenter(number, body):
        return problem(400) if row_of(body) == 2 else "entailment"

    with Server() as a, Server(lambda n, b: "It differs. neutral") as b, Server(dissenter) as c:
        teachers = [f"endpoint:t@{server.url}" for server in (a, b, c)]
        options = {"network": QUICK, "sampling": SHORT, "labels": ("neutral", "entailment")}
        report = generate_committee(teachers, pool(3), tmp_path / "out.jsonl", **options)
        assert (report["rows"], report["unanimous"], report["undecided"]) == (3, 0, 0)
        generate_committee(teachers, pool(3), tmp_path / "out.jsonl", **options)
        assert [len(server.requests) for server in (a, b)] == [3, 3], "resumed from each teacher's journal"
    rows = list(read_records(tmp_path / "out.jsonl"))
    assert [row.response.text for row in rows] == ["neutral"] * 3
    told = rows[2].extra["committee"]
    assert told["answers"] == dict(zip(teachers, ["neutral", "It differs. neutral", None], strict=True))
    assert told["heard"] == teachers[0] and told["share"] == pytest.approx(2 / 3, abs=1e-4)


def labelled(count):
    return [Example(f"v{i}", "nli", e.messages, ("entailment", "neutral")[i % 2]) for i, e in enumerate(pool(count))]


def test_a_teacher_right_on_validation_outvotes_two_that_guess(tmp_path):
    def knows(number, body):
        return ("entailment", "neutral")[row_of(body) % 2]

    with Server(knows) as good, Server() as b, Server() as c:
        teachers = [f"endpoint:t@{server.url}" for server in (good, b, c)]
        report = generate_committee(teachers, pool(4), tmp_path / "out.jsonl", "weighted", labelled(20), network=QUICK, sampling=SHORT)  # fmt: skip
    assert report["weights"][teachers[0]] > 2 and report["weights"][teachers[1]] == report["weights"][teachers[2]] < 0.1
    assert [row.response.text for row in read_records(tmp_path / "out.jsonl")] == ["entailment", "neutral"] * 2


def test_a_cap_holds_for_all_teachers_together_and_over_runs(tmp_path):
    with Server(lambda n, body: problem(400) if row_of(body) == 0 else "neutral") as a, Server() as b:
        teachers = [f"endpoint:t@{server.url}" for server in (a, b)]

        def run(most):
            caps = Caps(requests=most)
            report = generate_committee(teachers, pool(4), tmp_path / "out.jsonl", network=QUICK, sampling=SHORT, caps=caps)  # fmt: skip
            return report["ended_early"], len(a.requests), len(b.requests)

        early, *asked = run(5)
        assert asked == [4, 1] and early.startswith(f"{teachers[1]}: the cap of 1 requests would be broken")
        early, *asked = run(5)
        assert asked == [4, 1] and teachers[0] in early, "its failed row may not be asked again with what is spent"
        assert run(9) == (None, 5, 4)


def test_a_cap_counts_the_validation_rows_too(tmp_path):
    def knows(number, body):
        return ("entailment", "neutral")[row_of(body) % 2]

    with Server(knows) as a, Server(knows) as b:
        teachers = [f"endpoint:t@{server.url}" for server in (a, b)]

        def run(most, folder):
            options = {"network": QUICK, "sampling": SHORT, "caps": Caps(requests=most)}
            out = tmp_path / folder / "out.jsonl"
            return generate_committee(teachers, pool(4), out, "weighted", labelled(4), **options)

        report = run(10, "some")
        assert (len(a.requests), len(b.requests)) == (8, 2)
        assert f"{teachers[1]}, on the validation rows: the cap of 2 requests" in report["ended_early"]
        assert report["weights"][teachers[0]] > report["weights"][teachers[1]] == 0.0
        with pytest.raises(ValueError, match=r"none has a vote; .* on the validation rows: the cap of 2 requests"):
            run(2, "few")


@pytest.mark.parametrize(
    ("teachers", "rule", "why"),
    [
        (["embedded"], "majority", "two teachers or more"),
        (["embedded", "embedded"], "majority", "a name of its own"),
        (["a", "b"], "seance", "there are majority, weighted, average|no committee"),
        (["a", "b"], "weighted", "needs labelled validation rows"),
        (["a", "endpoint:m@http://127.0.0.1:9/v1"], "average", "no log-probabilities"),
    ],
)
def test_what_is_no_committee_is_refused(teachers, rule, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        generate_committee(teachers, pool(1), tmp_path / "out.jsonl", rule)


def another(tiny, seed):
    other = copy.deepcopy(tiny)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    other.name = f"tiny-{seed}"
    return other


def by_hand(teachers, prompt, most):
    """Greedy, one prompt, no cache, no padding: what the batched writer has to give."""
    ids, out = encode_prompt(teachers[0].tokenizer, prompt), []
    for _ in range(most):
        with torch.no_grad():
            logs = [t.model(torch.tensor([ids + out])).logits[0, -1].float().log_softmax(-1) for t in teachers]
        token = int(torch.stack(logs).mean(0).argmax())
        if token == teachers[0].tokenizer.eos_token_id:
            break
        out.append(token)
    return teachers[0].tokenizer.decode(out, skip_special_tokens=True).strip()


def test_the_average_is_that_of_the_log_probabilities_whatever_the_padding(tiny):
    teachers = [another(tiny, seed) for seed in (1, 2, 3)]
    prompts = [[{"role": "user", "content": "fee " * n + "£5"}] for n in (1, 9, 4)]

    def together(teachers, batch_size):
        return [
            a.text
            for a in sorted(
                (a for b in answer_together(teachers, prompts, SHORT, batch_size) for a in b), key=lambda a: a.index
            )
        ]

    alone = [a.text for a in answer(teachers[0], prompts, SHORT)]
    assert together(teachers, 3) == [by_hand(teachers, prompt, 8) for prompt in prompts] != alone
    assert together([teachers[0]] * 2, 2) == alone, "a committee of one mind is that mind"


def test_writing_together_resumes_and_is_written_as_any_answer(tiny, tmp_path):
    teachers = [tiny, another(tiny, 1)]
    first = generate_committee(teachers, pool(3), tmp_path / "out.jsonl", "average", sampling=SHORT)
    again = generate_together(teachers, pool(3), tmp_path / "out.jsonl", SHORT)
    assert (first["asked"], again["asked"], again["from_journal"]) == (3, 0, 3)
    assert all(row.response.model == "tiny + tiny-1" for row in read_records(tmp_path / "out.jsonl"))


def test_different_tokenizers_are_told_to_vote(tiny, whole_tokenizer):
    other = LoadedModel("other", tiny.model, trim_tokenizer(whole_tokenizer, ["something else"])[0], "float32", "")
    with pytest.raises(DifferentTokenizers, match="--committee majority"):
        next(answer_together([tiny, other], [pool(1)[0].messages], SHORT))


def test_a_committee_on_the_command_line(tmp_path, capsys):
    write_records(tmp_path / "pool.jsonl", pool(2))
    with Server() as a, Server(lambda n, b: completion("entailment", model="teacher-2")) as b:
        common = ["generate", "--pool", str(tmp_path / "pool.jsonl"), "--out", str(tmp_path / "out.jsonl")]
        common += ["--teacher", f"endpoint:t@{a.url}", "--teacher", f"endpoint:t@{b.url}"]
        assert main(common) == 1 and "say how it decides" in capsys.readouterr().err
        assert main([*common, "--committee", "majority", "--dry-run"]) == 0 and not a.requests
        write_records(tmp_path / "validation.jsonl", labelled(3))
        weighted = ["--committee", "weighted", "--validation", str(tmp_path / "validation.jsonl"), "--dry-run"]
        capsys.readouterr()
        assert main([*common, *weighted]) == 0 and not a.requests
        counted = capsys.readouterr().out
        assert counted.count("\n2 requests, ") == counted.count("\n3 requests, ") == 2
        assert main([*common, "--committee", "majority"]) == 0
    told = capsys.readouterr().out
    assert json.loads(told[told.rindex("\n{\n") :])["unanimous"] == 0
    assert [row.response.text for row in read_records(tmp_path / "out.jsonl")] == ["neutral", "neutral"]


def test_a_member_that_was_stopped_is_named_and_the_command_fails(tmp_path, capsys):
    write_records(tmp_path / "pool.jsonl", pool(2))
    with Server() as a, Server(lambda n, b: problem(401)) as b:
        teachers = [f"endpoint:t@{server.url}" for server in (a, b)]
        options = [
            "--pool",
            str(tmp_path / "pool.jsonl"),
            "--out",
            str(tmp_path / "out.jsonl"),
            "--committee",
            "majority",
        ]
        assert main(["generate", "--teacher", teachers[0], "--teacher", teachers[1], *options]) == 1
    told = capsys.readouterr().err
    assert teachers[1] in told and "the key was refused" in told and teachers[0] not in told
