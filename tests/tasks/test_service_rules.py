"""Every rule of the distillation service, broken one at a time."""

import pytest

from slmops_utils.records import Example
from slmops_utils.tasks.service_rules import service_violations

SYSTEM, USER, ASSISTANT = ({"role": role, "content": "text"} for role in ("system", "user", "assistant"))


def rows(task="nli", count=65, messages=(SYSTEM, USER)):
    return [Example(f"r{i}", task, list(messages)) for i in range(count)]


@pytest.mark.parametrize(
    ("task", "count", "messages"),
    [("nli", 65, (SYSTEM, USER)), ("qa", 65, (SYSTEM, USER)), ("math", 40, (SYSTEM, USER)), ("summarization", 65, (SYSTEM, USER)),
     ("conversation", 65, (SYSTEM, USER, ASSISTANT)), ("conversation", 65, (SYSTEM, USER, ASSISTANT, USER))],
)  # fmt: skip
def test_what_the_service_takes_breaks_no_rule(task, count, messages):
    settings = {"temperature": 0.2, "top_p": 0.1, "min_endpoint_success_ratio": 0.7, "request_batch_size": 100,
                "frequency_penalty": 0, "presence_penalty": 2}  # fmt: skip
    assert service_violations(rows(task, count, messages), **settings) == []


@pytest.mark.parametrize(
    ("examples", "options", "told"),
    [
        (rows(count=64), {}, "64 records, NLI needs at least 65"),
        (rows("math", 39), {}, "39 records, MATH needs at least 40"),
        (rows("translation"), {}, "no task type of the service: translation"),
        ([*rows(), *rows("qa")], {}, "one task type"),
        (rows("conversation", messages=(SYSTEM, USER, ASSISTANT)), {"style": "chain_of_thought"}, "chain of thought is not supported for CONVERSATION"),
        (rows("summarization"), {"style": "chain_of_thought"}, "not supported for SUMMARIZATION"),
        (rows(), {"style": "chain_of_density"}, "chain of density is not supported for NLI"),
        (rows("qa"), {"style": "chain_of_density"}, "chain of density is not supported for NLU_QA"),
        (rows(messages=(USER,)), {}, "r0: the first message is from user"),
        (rows(messages=(SYSTEM, USER, ASSISTANT)), {}, "r3: 3 messages, NLI takes at most 2"),
        (rows("conversation"), {}, "r0: 2 messages, CONVERSATION wants several turns"),
        (rows("conversation", messages=(SYSTEM, ASSISTANT, USER)), {}, "r0: turn 1 is from assistant, the service wants user"),
        (rows(), {"temperature": 1.5}, "temperature is 1.5, it may be 0 to 1"),
        (rows(), {"top_p": -0.1}, "top_p is -0.1"),
        (rows(), {"presence_penalty": 2.1}, "presence_penalty is 2.1, it may be 0 to 2"),
        (rows(), {"frequency_penalty": -1}, "frequency_penalty is -1"),
        (rows(), {"min_endpoint_success_ratio": 7}, "min_endpoint_success_ratio is 7"),
        (rows(), {"request_batch_size": 101}, "request_batch_size is 101, it may be 1 to 100"),
    ],
)  # fmt: skip
def test_each_broken_rule_is_named_and_no_other(examples, options, told):
    found = service_violations(examples, **options)
    assert any(told in line for line in found)
    kinds = {line.partition(": ")[2] or line for line in found}
    assert len(kinds) <= 2, kinds


def test_every_broken_rule_is_named_at_once_with_the_record():
    bad = [*rows(count=2), Example("odd", "nli", [USER, ASSISTANT, USER])]
    found = service_violations(bad, "chain_of_density", temperature=2)
    assert len(found) == 5 and sum(line.startswith("odd: ") for line in found) == 2


def test_an_unknown_setting_is_no_silent_pass():
    with pytest.raises(ValueError, match="no setting softness; there are temperature"):
        service_violations(rows(), softness=2)
