"""Measure what a choice about the data does to the student: the same student, trained on different rows, over seeds.

A study has arms. Each arm is a set of training rows (or a way to train on them); each is run with several seeds for the
same number of optimizer steps, so that arms differ in which rows they see and not in how much they train. A run is recorded
as runs.py says.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from filelock import FileLock

from ..distill.dataset import known_labels, lesson_texts, training_text
from ..distill.distill import STUDENT, distill
from ..distill.rationale import in_form
from ..distill.validation import score_rows
from ..models.carve import save, shrink
from ..models.load import fingerprint, load_model
from ..records import Example, read_records
from ..synthesize.generate import generate
from ..tasks import get_task
from .runs import Planned, check_name, machine, make_missing, read_runs, same_seeds
from .statistics import bootstrap, over_seeds, points


@dataclass(frozen=True)
class Setting:
    """What a study is run with. `layers` 0 keeps all of the teacher's; `rows` are of the source the arms are cut from."""

    teacher: str = "data/teacher"
    layers: int = 6
    rule: str = "early"
    rows: int = 1200
    epochs: float = 3.0
    batch_size: int = 16
    learning_rate: float = 1e-3
    test_rows: int = 400
    answer_batch: int = 32
    data: str = "data"
    name: str = ""  # what the results call the task, where the data are not the course's own

    def read(self, task: str, part: str) -> list[Example]:
        return list(read_records(Path(self.data) / task / f"{part}.jsonl"))


@dataclass(frozen=True)
class Arm:
    """One set of rows. `against` is the arm it is compared with; `told` is what the gates kept and dropped."""

    name: str
    examples: Sequence[Example]
    against: str = ""
    told: dict[str, Any] = field(default_factory=dict)
    rationale: str = "as_written"
    method: str = "text"
    teachers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The arms of one task, all trained from the same start; `scores` are those of models that are not trained."""

    task: str
    arms: Sequence[Arm]
    student: str
    steps: int
    test: Sequence[Example]
    scores: dict[str, list[float]]
    setting: Setting

    @property
    def called(self) -> str:
        """What results call the task."""
        return self.setting.name or self.task


def plan_for(
    setting: Setting, work: Path, arms: list[Arm], student: str, rows: int, test: list[Example], scores: Any = None
) -> Plan:
    """A plan of as many steps as the setting's epochs of so many rows take. Beside its arms stand the untrained student and
    those whose `scores` are given, or else the teacher."""
    scores = scores or {"teacher": score_texts(teacher_answers(setting, test, work / "test.jsonl"))}
    untuned = score_rows(load_model(student), test, setting.answer_batch)["scores"]
    steps = max(1, round(rows * setting.epochs / setting.batch_size))
    return Plan(test[0].task, arms, student, steps, test, scores | {"untuned": untuned}, setting)


def plans_of(tasks: Sequence[str], known: Mapping[str, Callable[[], Plan]], name: str = "") -> list[Callable[[], Plan]]:
    """The plans of the given tasks, made when they are called; `name` is what results call the one task."""
    check_name(name, tasks)
    if unknown := set(tasks) - set(known):
        raise ValueError(f"this is studied on {', '.join(known)}, not on {', '.join(sorted(unknown))}")
    return [known[task] for task in tasks]


def run_study(
    name: str,
    plans: Sequence[Callable[[], Plan]],
    out: Path,
    work: Path,
    seeds: Sequence[int] = (0, 1, 2),
    shard: tuple[int, int] = (1, 1),
) -> int:
    """Run what is missing of a study and return how many runs this call made.

    What the arms need (the teacher's answers, the carved student) is made by whoever comes first; the others wait. Raises
    ValueError for a run on disk of other rows, another start or other settings.
    """
    made = 0
    work.mkdir(parents=True, exist_ok=True)
    for plan_of in plans:
        with FileLock(work / "prepare.lock"):
            plan = plan_of()
            fixed, *runs = _planned(name, plan, seeds, work)
            list(make_missing(out, [fixed]))
        for run in make_missing(out, runs, shard):
            told = run.get("same_as") or run.get("score", "nothing left to train on")
            print(f"{run['task']}.{run['arm']}.seed{run['seed']}: {told}", flush=True)
            made += 1
    return made


def _planned(name: str, plan: Plan, seeds: Sequence[int], work: Path) -> list[Planned]:
    """The scores that no training changes, then the runs."""
    called = plan.called
    about = {"study": name, "task": called, "n_test": len(plan.test), "metric": get_task(plan.task).headline}
    # a name may stay when what it names has changed: the start and the texts' hash stand for teacher and data
    settings = asdict(replace(plan.setting, teacher="", data="", name=""))
    settings |= {"start": fingerprint(plan.student), "steps": plan.steps}
    hashes = {arm.name: _hash(arm) for arm in plan.arms}
    first = {texts: arm for arm, texts in reversed(hashes.items())}

    def make(arm: Arm, seed: int) -> dict[str, Any]:
        report = about | {"arm": arm.name, "against": arm.against, "seed": seed, "rows": len(arm.examples), **arm.told}
        if (twin := first[hashes[arm.name]]) != arm.name:
            return report | {"same_as": twin}  # the very same training rows make the very same student
        if not _texts(arm):
            return report | {"nothing_left": True}
        return report | _train_and_score(plan, arm, seed, work / f"{called}.{arm.name}.seed{seed}")

    planned = [Planned(f"{called}.fixed", settings, lambda: about | {"scores": plan.scores})]
    for seed in seeds:
        for arm in plan.arms:
            decides = settings | {"texts": hashes[arm.name]}
            planned.append(Planned(f"{called}.{arm.name}.seed{seed}", decides, partial(make, arm, seed)))
    return planned


def _train_and_score(plan: Plan, arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
    settings = replace(STUDENT, max_steps=plan.steps, batch_size=plan.setting.batch_size, seed=seed, method=arm.method,
                       learning_rate=plan.setting.learning_rate, save_steps=10 * plan.steps)  # fmt: skip
    started = time.perf_counter()
    report = distill(plan.student, arm.examples, folder, settings, teacher=list(arm.teachers) or None,
                     soft_targets=folder.parent / f"{plan.called}.{arm.name}.soft", rationale=arm.rationale)  # fmt: skip
    found = score_rows(load_model(str(folder)), plan.test, plan.setting.answer_batch)
    shutil.rmtree(folder)
    return {
        "steps": report["steps"],
        "trained_rows": report["rows"],
        "left_out": report["left_out"],
        "final_loss": report["losses"][-1]["loss"] if report["losses"] else None,
        "seconds": round(time.perf_counter() - started),
        "score": bootstrap(found["scores"], np.mean).to_dict(),
        "scores": found["scores"],
    }


def score_texts(answered: Sequence[Example]) -> list[float]:
    """The headline score of every labelled row, from the answers it carries; 0 where it carries none."""
    metric = get_task(answered[0].task).metrics[get_task(answered[0].task).headline]
    return [float(metric.value(e, e.response.text)) if e.response else 0.0 for e in answered]


def teacher_answers(
    setting: Setting, examples: Sequence[Example], path: Path, teacher: str | None = None
) -> list[Example]:
    """The teacher's greedy answers, journalled beside `path`."""
    generate(teacher or setting.teacher, examples, path, batch_size=setting.answer_batch)
    return list(read_records(path))


def carve(setting: Setting, texts_from: Sequence[Example], folder: Path, teacher: str | None = None) -> str:
    """The student every arm starts from, carved once, in a folder of `folder` that is named after all that decides it.

    Its vocabulary covers the given examples.
    """
    parent, texts = teacher or setting.teacher, lesson_texts(texts_from)
    texts += [get_task(e.task).target(e) for e in texts_from if e.reference is not None]
    texts.append("Answer: ")
    decides = json.dumps([fingerprint(parent), setting.layers, setting.rule, texts])
    folder = folder / hashlib.sha256(decides.encode()).hexdigest()[:16]
    if not (folder / "tokenizer.json").exists():  # it is written last
        save(shrink(load_model(parent), setting.layers or None, setting.rule, texts), str(folder))
    return str(folder)


def unlabelled(examples: Sequence[Example]) -> list[Example]:
    """The answered rows without their labels, so that a student has only its teacher's word."""
    return [replace(e, reference=None) for e in examples]


def _texts(arm: Arm) -> list[tuple[str, str]]:
    """(id, text) of every row that can be trained on, in order."""
    labels = known_labels(arm.examples)
    usable = ((e, training_text(e, labels[e.task])) for e in arm.examples)
    return [(e.id, in_form(e, text, arm.rationale, labels[e.task])) for e, text in usable if text is not None]


def _hash(arm: Arm) -> str:
    """What decides the training: ids and texts in order, and the way they are trained on."""
    decides = json.dumps([_texts(arm), arm.method, arm.teachers])
    return hashlib.sha256(decides.encode()).hexdigest()


def read_study(folder: str | Path) -> list[dict[str, Any]]:
    """What the recorded runs say: one row an arm that has runs, in the order of tasks and arms.

    {"task", "arm", "against", "seeds", "kept", "dropped", "metric", "score", "per_seed", "same_as", "unchanged" (its rows
    are those of the arm it is compared with), "difference" and "ci95", "p_value" against that arm}. The difference is over the
    seeds that both arms have, its interval over seeds and test rows: the same rows in another order make another student.
    `score` is None for an arm whose gates left nothing to train on. Empty where nothing is recorded.
    """
    recorded = read_runs(folder)
    fixed = {run["task"]: run["scores"] for run in recorded if "arm" not in run}
    runs: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for run in recorded:
        if "arm" in run:
            runs.setdefault((run["task"], run["arm"]), {})[run["seed"]] = run

    def scores(task: str, arm: str) -> dict[int, list[float]]:
        """By seed; those of its twin where an arm trained on the very same rows."""
        own = runs.get((task, arm), {})
        made = {seed: runs.get((task, run.get("same_as", "")), {}).get(seed, run) for seed, run in own.items()}
        return {seed: run["scores"] for seed, run in made.items() if "scores" in run}

    found = []
    for (task, arm), by_seed in runs.items():
        example, own = next(iter(by_seed.values())), scores(task, arm)
        untrained = fixed.get(task, {}).get(example["against"])
        others = scores(task, example["against"]) or (dict.fromkeys(own, untrained) if untrained else {})
        seeds, pairs = same_seeds(own, others)
        per_seed = [fmean(own[seed]) for seed in sorted(own)]
        line = {
            "task": task, "arm": arm, "against": example["against"], "seeds": sorted(own),
            "kept": example.get("kept", example["rows"]), "dropped": example.get("dropped", 0),
            "same_as": example.get("same_as"), "metric": example["metric"], "date": example["date"],
            "hardware": example["hardware"], "per_seed": per_seed, "score": fmean(per_seed) if own else None,
        }  # fmt: skip
        other = runs.get((task, example["against"]), {}).get(example["seed"])
        line["unchanged"] = other is not None and (line["same_as"] or arm) == (other.get("same_as") or other["arm"])
        if seeds:
            gap = over_seeds(pairs[:, 0] - pairs[:, 1])
            ends = [min(max(end, -1.0), 1.0) for end in gap["ci95"]]  # two seeds may say less than nothing
            line |= gap | {"difference": gap["value"], "ci95": ends}
        found.append(line)
    return found


def study_table(lines: Sequence[dict[str, Any]]) -> str:
    """A study for a terminal: what each arm kept, what its student scores, and what that is beside the other arm's."""
    out = [f"{'task':<14}{'arm':<26}{'kept':>6}{'dropped':>8}{'seeds':>6}{'score':>8}  difference [95 %]"]
    for line in lines:
        told = f"same rows as {line['against']}" if line["unchanged"] else ""
        if not told and "ci95" in line:
            low, high = line["ci95"]
            told = f"{100 * line['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] against {line['against']}"
        score = "nothing" if line["score"] is None else f"{100 * line['score']:.1f}%"
        out.append(f"{line['task']:<14}{line['arm']:<26}{line['kept']:>6,}{line['dropped']:>8,}{len(line['seeds']):>6}"
                   f"{score:>8}  {told}")  # fmt: skip
    return "\n".join(out)


def study_markdown(lines: Sequence[dict[str, Any]]) -> str:
    """A study for a notebook: a table of the arms of each task, above it when and on what they were recorded."""
    return "\n\n".join(
        _task_markdown(task, [line for line in lines if line["task"] == task])
        for task in dict.fromkeys(line["task"] for line in lines)
    )


def _task_markdown(task: str, lines: Sequence[dict[str, Any]]) -> str:
    dates = sorted({line["date"] for line in lines})
    when, where = " to ".join(dict.fromkeys((dates[0], dates[-1]))), " and ".join(sorted({*map(machine, lines)}))
    table = [
        f"**{task}**, each seed's score in brackets; recorded {when} on {where}",
        "",
        "| rows trained on | kept | dropped | student | against | difference (95 % interval) |",
        "|---" * 6 + "|",
    ]
    for line in lines:
        told = f"the very rows of *{line['against']}*, so the same student" if line["unchanged"] else ""
        if "ci95" in line and not told:
            told = points(line["difference"], line["ci95"])
        seeds = f"({', '.join(f'{100 * score:.1f}' for score in line['per_seed'])})"
        score = f"{line['score']:.1%} {seeds}" if line["score"] is not None else "nothing left to train on"
        table.append(
            f"| {line['arm']} | {line['kept']:,} | {line['dropped']:,} | {score} | {line['against']} | {told} |"
        )
    if any(len(line["seeds"]) == 1 for line in lines):
        table += [
            "",
            "Where there is one seed, the interval is over test rows alone, and another seed would give another student.",
        ]
    return "\n".join(table)
