"""The study of the quality gates: what each does to the student, those that do nothing included.

nli    as it came: the teacher's answers to labelled rows, each gate alone and all together, beside no gate at all
       planted: a share of the rows spoiled as one gate is meant to notice, with and without that gate
math   verified arithmetic and self-consistency on the teacher's solutions, beside the teacher itself
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..records import Example, read_records
from ..synthesize.answer import Sampling
from ..synthesize.gates import GATES, Rules, run_gates
from ..synthesize.judge import judge
from ..synthesize.samples import generate_samples
from ..tasks import get_task
from .faults import FAULTS, spoil
from .study import Arm, Plan, Setting, carve, plan_for, teacher_answers, unlabelled

PLANTED = (*FAULTS, "not_held_out", "not_repeated", "balanced")
SHARE = 0.4
SAMPLES, SAMPLING_TEMPERATURE = 5, 0.7
MATH = Setting(layers=0, rows=1600, epochs=2.0, learning_rate=2e-4)


def plans(setting: Setting, math: Setting, work: Path) -> dict[str, Callable[[], Plan]]:
    """The plan of each task, made when it is called."""
    return {"nli": partial(nli_plan, setting, work / "nli"), "math": partial(math_plan, math, work / "math")}


def gated(name: str, rows: Sequence[Example], gates: Sequence[str], rules: Rules, against: str) -> Arm:
    """An arm of what the gates keep."""
    kept, dropped, _ = run_gates(rows, rules, gates)
    told = {"gates": list(gates), "kept": len(kept), "dropped": len(dropped)}
    return Arm(name, unlabelled(kept), against, told)


def nli_plan(setting: Setting, work: Path) -> Plan:
    train = setting.read("nli", "train")[: setting.rows]
    test = setting.read("nli", "test")[: setting.test_rows]
    held_out = [*test, *setting.read("nli", "validation")]
    if (Path(setting.data) / "nli" / "challenge.jsonl").exists():  # data of one's own may have none
        held_out += setting.read("nli", "challenge")
    answered = teacher_answers(setting, train, work / "answered.jsonl")
    judged, _ = judge(setting.teacher, answered, work / "judge.jsonl", batch_size=setting.answer_batch)
    student = carve(setting, [*answered, *test], work / "untuned")
    rules = Rules(held_out, sorted({e.reference for e in train}))
    arms = [Arm("none", unlabelled(answered))]
    arms += [
        gated(f"only_{gate}", judged, [gate], rules, "none")
        for gate in GATES
        if gate not in ("arithmetic", "consistent")
    ]
    arms.append(gated("all", answered, [gate for gate in GATES if gate != "judged"], rules, "none"))
    for gate in PLANTED:
        spoiled = spoil(answered, gate, SHARE, test)
        arms.append(Arm(f"planted_{gate}", unlabelled(spoiled), "none", {"kept": len(spoiled), "dropped": 0}))
        arms.append(gated(f"planted_{gate}_gated", spoiled, [gate], rules, f"planted_{gate}"))
    return plan_for(setting, work, arms, student, len(answered), test)


def math_plan(setting: Setting, work: Path) -> Plan:
    """Every arm has the labelled rows; they differ in which of the teacher's solutions to the pool are added."""
    labelled, pool = setting.read("math", "train"), setting.read("math", "pool")[: setting.rows]
    test = setting.read("math", "test")[: setting.test_rows]
    answered = teacher_answers(setting, pool, work / "answered.jsonl")
    drawn = work / "drawn.jsonl"
    sampling = Sampling(get_task("math").max_new_tokens, SAMPLING_TEMPERATURE)
    generate_samples(setting.teacher, pool, drawn, SAMPLES, sampling=sampling, batch_size=setting.answer_batch)
    voted = list(read_records(drawn))
    student = carve(setting, [*labelled, *answered, *voted, *test], work / "untuned")
    rules = Rules()

    def arm(name: str, rows: Sequence[Example], gates: Sequence[str], against: str) -> Arm:
        made = gated(name, rows, ["answered", "finished", "parsed", *gates], rules, against)
        return replace(made, examples=[*labelled, *made.examples])

    arms = [
        Arm("labels", labelled),
        arm("greedy", answered, [], "labels"),
        arm("greedy_arithmetic", answered, ["arithmetic"], "greedy"),
        arm("voted", voted, [], "greedy"),
        arm("voted_consistent", voted, ["consistent"], "voted"),
        arm("voted_arithmetic", voted, ["arithmetic"], "voted"),
        arm("first_verified", [first_verified(e) for e in voted], ["arithmetic"], "greedy"),
    ]
    # the question of the study: does verified arithmetic let a student pass its teacher?
    arms += [
        replace(one, name=f"{one.name}_vs_teacher", against="teacher")
        for one in arms
        if "arithmetic" in one.name or "verified" in one.name
    ]
    return plan_for(setting, work, arms, student, len(labelled) + len(answered), test)


def first_verified(example: Example) -> Example:
    """The example with the first of its samples whose arithmetic recomputes (rejection sampling, arXiv 2308.01825); as it
    is where none does."""
    if example.response is None:
        return example
    tries = [replace(example, response=replace(example.response, text=text)) for text in example.extra["samples"]]
    reasons = GATES["arithmetic"](tries, Rules())
    return next((one for one, reason in zip(tries, reasons, strict=True) if reason is None), example)
