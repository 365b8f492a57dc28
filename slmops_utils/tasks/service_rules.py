"""What Azure's distillation service asks of data and settings, checked here before it is paid for.

Read in azureml-assets, training/distillation/src (validate_pipeline.py, common/validation.py, common/constants.py). The
Python SDK accepts a job that breaks these rules; it fails later, in the service.
"""

from collections import Counter
from collections.abc import Sequence

from ..records import Example

TASK_TYPES = {"nli": "NLI", "qa": "NLU_QA", "math": "MATH", "conversation": "CONVERSATION",
              "summarization": "SUMMARIZATION"}  # fmt: skip
LEAST_RECORDS, LEAST_MATH = 65, 40
MOST_BATCH = 100
DEFAULTS = {"temperature": 0.2, "top_p": 0.1, "max_new_tokens": 128, "min_endpoint_success_ratio": 0.7}
LIMITS = {"temperature": (0, 1), "top_p": (0, 1), "frequency_penalty": (0, 2), "presence_penalty": (0, 2),
          "min_endpoint_success_ratio": (0, 1), "request_batch_size": (1, MOST_BATCH)}  # fmt: skip
NO_THOUGHT, NO_DENSITY = ("conversation", "summarization"), ("nli", "qa")


def service_violations(examples: Sequence[Example], style: str = "plain", **settings: float) -> list[str]:
    """Every rule that these records and settings break, a line each, with the record's id where it is about one.

    `settings` may hold temperature, top_p, frequency_penalty, presence_penalty, min_endpoint_success_ratio and
    request_batch_size. Empty when the service would take them. Raises ValueError for a setting it does not know.
    """
    if unknown := set(settings) - set(LIMITS):
        raise ValueError(f"no setting {', '.join(sorted(unknown))}; there are {', '.join(LIMITS)}")
    found = []
    tasks = Counter(example.task for example in examples)
    if len(tasks) > 1:
        found.append(f"a job has one task type, these records have {', '.join(sorted(tasks))}")
    for task, count in tasks.items():
        least = LEAST_MATH if task == "math" else LEAST_RECORDS
        if task not in TASK_TYPES:
            found.append(f"no task type of the service: {task}; there are {', '.join(TASK_TYPES.values())}")
        if count < least:
            found.append(f"{count} records, {TASK_TYPES.get(task, task)} needs at least {least}")
        for named, banned in (("chain_of_thought", NO_THOUGHT), ("chain_of_density", NO_DENSITY)):
            if style == named and task in banned:
                found.append(f"{named.replace('_', ' ')} is not supported for {TASK_TYPES[task]}")
    for name, value in settings.items():
        low, high = LIMITS[name]
        if not low <= value <= high:
            found.append(f"{name} is {value:g}, it may be {low} to {high}")
    return found + [f"{e.id}: {problem}" for e in examples for problem in record_violations(e)]


def record_violations(example: Example) -> list[str]:
    """The rules that one record's messages break."""
    roles, found = [message["role"] for message in example.messages], []
    if roles[0] != "system":
        found.append(f"the first message is from {roles[0]}, the service wants system")
    turns = roles[1:] if roles[0] == "system" else roles
    for i, role in enumerate(turns):
        wanted = ("user", "assistant")[i % 2]
        if role != wanted:
            found.append(f"turn {i + 1} is from {role}, the service wants {wanted}")
            break
    if example.task == "conversation" and len(roles) < 3:
        found.append(f"{len(roles)} messages, CONVERSATION wants several turns, at least 3")
    if example.task != "conversation" and len(roles) > 2:
        found.append(f"{len(roles)} messages, {TASK_TYPES.get(example.task, example.task)} takes at most 2")
    return found
