"""Two more studies: reasons trained on or not, and a committee of teachers beside its best member."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..distill.correct import TEACHER, correct
from ..records import Example, read_records
from ..synthesize.committee import generate_committee
from .study import Arm, Plan, Setting, carve, plan_for, score_texts, teacher_answers, unlabelled

MEMBERS, MEMBER_STEPS = 3, 300


def rationale_plans(setting: Setting, math: Setting, work: Path) -> dict[str, Callable[[], Plan]]:
    """The teacher's answers to a pool, whose reasons are trained on ('with'), cut off ('without'), or a task of their own
    (step_by_step, nli only)."""
    settings = {"nli": setting, "math": math}
    return {task: partial(rationale_plan, task, settings[task], work / task) for task in settings}


def rationale_plan(task: str, setting: Setting, work: Path) -> Plan:
    pool = setting.read(task, "pool")[: setting.rows]
    test = setting.read(task, "test")[: setting.test_rows]
    answered = teacher_answers(setting, pool, work / "answered.jsonl")
    student = carve(setting, [*answered, *test], work / "untuned")
    arms = [Arm("with", answered, rationale="with"), Arm("without", answered, "with", rationale="without")]
    if task == "nli":
        arms.append(Arm("step_by_step", answered, "with", method="step_by_step"))
    return plan_for(setting, work, arms, student, len(answered), test)


def committee_plan(setting: Setting, work: Path, members: Sequence[str] = (), task: str = "nli") -> Plan:
    """Students of the best single teacher (by validation) and of the committee: its votes, the text it writes together,
    and the mean of its log-probabilities as soft targets. Without `members`, three teachers are corrected, each on two
    thirds of the labels with a seed of its own.
    """
    train, validation = setting.read(task, "train"), setting.read(task, "validation")
    pool = setting.read(task, "pool")[: setting.rows]
    test = setting.read(task, "test")[: setting.test_rows]
    teachers = list(members) or [_member(train, i, work) for i in range(MEMBERS)]
    labels = sorted({e.reference for e in train})
    on_validation = [
        score_texts(teacher_answers(setting, validation, work / f"validation{i}.jsonl", t))
        for i, t in enumerate(teachers)
    ]
    best = max(range(len(teachers)), key=lambda i: sum(on_validation[i]))
    alone = teacher_answers(setting, pool, work / "best.jsonl", teachers[best])
    fixed = {}
    for i, teacher in enumerate(teachers):
        fixed[f"teacher{i + 1}"] = score_texts(teacher_answers(setting, test, work / f"test{i}.jsonl", teacher))
    fixed["best"] = fixed[f"teacher{best + 1}"]
    arms = [Arm("best", unlabelled(alone))]
    for rule in ("majority", "weighted", "average"):
        options = {"rule": rule, "validation": validation, "labels": labels, "batch_size": setting.answer_batch}
        for part, rows in (("pool", pool), ("test", test)):
            generate_committee(teachers, rows, work / f"{rule}.{part}.jsonl", **options)  # type: ignore[arg-type]
        fixed[rule] = score_texts(list(read_records(work / f"{rule}.test.jsonl")))
        voted = list(read_records(work / f"{rule}.pool.jsonl"))
        arms.append(Arm(rule, unlabelled(voted), "best"))
    arms.append(Arm("best_soft", unlabelled(alone), "best", method="forward_kl", teachers=(teachers[best],)))
    arms.append(Arm("average_soft", unlabelled(alone), "best_soft", method="forward_kl", teachers=tuple(teachers)))
    student = carve(setting, [*alone, *pool, *test], work / "untuned", teachers[best])
    return plan_for(setting, work, arms, student, len(pool), test, fixed)


def _member(train: Sequence[Example], number: int, work: Path) -> str:
    """One corrected teacher, of all labels but one third."""
    folder = work / f"teacher{number + 1}"
    if not (folder / "recipe.json").exists():
        rows = [e for i, e in enumerate(train) if i % MEMBERS != number]
        correct(rows, folder, settings=replace(TEACHER, max_steps=MEMBER_STEPS, seed=number, save_steps=100))
    return str(folder)
