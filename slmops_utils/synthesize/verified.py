"""Gates that test what an answer says: its arithmetic, its samples, the judge's opinion."""

from ..records import Example
from ..tasks import get_task
from ..tasks.arithmetic import check_steps
from ..tasks.quantity import Quantity, find_quantities
from ..tasks.quantity import agrees as same_quantity
from .rules import Rules, each
from .vote import canonical


@each
def arithmetic(example: Example, text: str, rules: Rules) -> str | None:
    """A step of its arithmetic does not recompute. A worked solution also has to show a step, and its answer has to be
    the result of one."""
    worked = f"{example.response.rationale}\n{text}" if example.response else text
    steps = check_steps(worked)
    if not all(steps):
        return f"step {steps.index(False) + 1} of {len(steps)} does not recompute"
    task = get_task(example.task)
    if "steps_right" not in task.metrics:
        return None  # answers of other tasks need show no working
    if not steps:
        return "no step of arithmetic to recompute"
    answer = task.parse(text, ())
    if isinstance(answer, Quantity) and not any(same_quantity(answer, result) for result in _results(worked)):
        return "the answer is the result of none of its steps"
    return None


def _results(text: str) -> list[Quantity]:
    """What stands first behind each equals sign."""
    found = (find_quantities(part[:80]) for line in text.splitlines() for part in line.split("=")[1:])
    return [quantities[0][2] for quantities in found if quantities and quantities[0][2] is not None]


@each
def consistent(example: Example, text: str, rules: Rules) -> str | None:
    """Too few of the samples drawn for its question say the same (records without samples pass)."""
    samples = example.extra.get("samples")
    if not samples:
        return None
    labels = rules.labels or rules.known_labels.get(example.task, ())
    said = canonical(example, text, labels)
    if said is None:  # free text: the likeness measured when it was chosen
        share, what = float(example.extra.get("agreement", 0.0)), "likeness to the other samples"
        return None if share >= rules.agreement else f"{what} is {share:.2f}"
    same = sum(canonical(example, other, labels) == said for other in samples)
    return None if same >= rules.agreement * len(samples) else f"{same} of {len(samples)} samples agree"


@each
def judged(example: Example, text: str, rules: Rules) -> str | None:
    """The judge graded it too low, or gave no grade that can be read (records nobody judged pass)."""
    verdict = example.extra.get("judge")
    if verdict is None:
        return None
    score = verdict.get("score")
    if not isinstance(score, int):
        return "the judge gave no readable grade"
    return None if score >= rules.least_score else f"the judge gave {score}"
