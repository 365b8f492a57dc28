"""Measure what a choice about the data does to the student: the same student, trained on different rows, over seeds.

A study has arms. Each arm is a set of training rows (or a way to train on them); each is run with several seeds for the
same number of optimizer steps, so that arms differ in which rows they see and not in how much they train. One run writes
one JSON, and a run that has its JSON is not run again: kill it, call it again, or spread it over processes with a shard.
"""

import datetime
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..distill.dataset import known_labels, lesson_texts, training_text
from ..distill.distill import STUDENT, distill
from ..distill.rationale import in_form
from ..models.carve import save, shrink
from ..models.hardware import describe
from ..models.load import load_model
from ..records import Example, atomic_writer, read_records
from ..synthesize.answer import Sampling, answer
from ..synthesize.generate import generate
from ..tasks import get_task
from .statistics import bootstrap, paired_difference


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


def run_study(
    name: str,
    plans: Sequence[Callable[[], Plan]],
    setting: Setting,
    out: Path,
    work: Path,
    seeds: Sequence[int] = (0, 1, 2),
    shard: tuple[int, int] = (1, 1),
) -> int:
    """Run what is missing of a study and return how many runs this call made.

    `shard` (i, n) takes every n-th run: n processes with 1/n to n/n share the work. What the arms need (the teacher's
    answers, the carved student) is made by whoever comes first; the others wait.
    """
    made = 0
    work.mkdir(parents=True, exist_ok=True)
    for plan_of in plans:
        with FileLock(work / "prepare.lock"):
            plan = plan_of()
            _write_once(out / f"{plan.task}.fixed.json", {
                "study": name, "task": plan.task, "n_test": len(plan.test), "date": datetime.date.today().isoformat(),
                "scores": plan.scores,
            })  # fmt: skip
        first = {_hash(arm): arm.name for arm in reversed(plan.arms)}
        runs = [
            (arm, seed) for seed in seeds for arm in plan.arms
        ]  # whole seeds first: a cut-short study lacks a seed, no arm
        for number, (arm, seed) in enumerate(runs):
            path = out / f"{plan.task}.{arm.name}.seed{seed}.json"
            if number % shard[1] != shard[0] - 1 or path.exists():
                continue
            report: dict[str, Any] = {
                "study": name, "task": plan.task, "arm": arm.name, "against": arm.against, "seed": seed,
                "rows": len(arm.examples), **arm.told, "setting": asdict(setting),
                "date": datetime.date.today().isoformat(), "hardware": describe(),
            }  # fmt: skip
            if first[_hash(arm)] != arm.name:
                report["same_as"] = first[_hash(arm)]  # the very same training rows make the very same student
            elif not _texts(arm):
                report["nothing_left"] = True
            else:
                report |= _train_and_score(plan, arm, setting, seed, work / f"{plan.task}.{arm.name}.seed{seed}")
            _write_once(path, report)
            made += 1
            print(f"{path}: {report.get('same_as') or report.get('score', 'nothing left to train on')}", flush=True)
    return made


def _train_and_score(plan: Plan, arm: Arm, setting: Setting, seed: int, folder: Path) -> dict[str, Any]:
    settings = replace(STUDENT, max_steps=plan.steps, batch_size=setting.batch_size, learning_rate=setting.learning_rate,
                       seed=seed, method=arm.method, save_steps=10 * plan.steps)  # fmt: skip
    started = time.perf_counter()
    report = distill(plan.student, arm.examples, folder, settings, teacher=list(arm.teachers) or None,
                     soft_targets=folder.parent / f"{plan.task}.{arm.name}.soft", rationale=arm.rationale)  # fmt: skip
    values = score(str(folder), plan.test, setting.answer_batch)
    shutil.rmtree(folder)
    return {
        "steps": report["steps"],
        "trained_rows": report["rows"],
        "left_out": report["left_out"],
        "final_loss": report["losses"][-1]["loss"] if report["losses"] else None,
        "seconds": round(time.perf_counter() - started),
        "metric": get_task(plan.task).headline,
        "score": bootstrap(values, get_task(plan.task).metrics[get_task(plan.task).headline].aggregate).to_dict(),
        "scores": values,
    }


def score(model: str, test: Sequence[Example], batch_size: int = 32) -> list[float]:
    """The headline score of every test row."""
    task = get_task(test[0].task)
    loaded = load_model(model)
    answers = answer(loaded, [task.prompt(e) for e in test], Sampling(task.max_new_tokens), batch_size)
    return [float(task.metrics[task.headline].value(e, a.text)) for e, a in zip(test, answers, strict=True)]


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
    """The student every arm starts from, carved once; its vocabulary covers the given examples."""
    if not (folder / "config.json").exists():
        texts = lesson_texts(texts_from)
        texts += [get_task(e.task).target(e) for e in texts_from if e.reference is not None]
        texts.append("Answer: ")
        parent = load_model(teacher or setting.teacher)
        save(shrink(parent, setting.layers or None, setting.rule, texts), str(folder))
    return str(folder)


def unlabelled(examples: Sequence[Example]) -> list[Example]:
    """The answered rows without their labels, so that a student has only its teacher's word."""
    return [replace(e, reference=None) for e in examples]


def steps_for(rows: int, setting: Setting) -> int:
    return max(1, round(rows * setting.epochs / setting.batch_size))


def _texts(arm: Arm) -> list[tuple[str, str]]:
    """(id, text) of every row that can be trained on, in order."""
    labels = known_labels(arm.examples)
    usable = ((e, training_text(e, labels[e.task])) for e in arm.examples)
    return [(e.id, in_form(e, text, arm.rationale, labels[e.task])) for e, text in usable if text is not None]


def _hash(arm: Arm) -> str:
    """What decides the training: ids and texts in order, and the way they are trained on."""
    decides = json.dumps([_texts(arm), arm.method, arm.teachers])
    return hashlib.sha256(decides.encode()).hexdigest()


def _write_once(path: Path, report: dict[str, Any]) -> None:
    if not path.exists():
        with atomic_writer(path) as file:
            json.dump(report, file, indent=1)
            file.write("\n")


def read_study(folder: str | Path) -> list[dict[str, Any]]:
    """What the recorded runs say: one row an arm that has runs, in the order of tasks and arms.

    {"task", "arm", "against", "seeds", "kept", "dropped", "metric", "score", "per_seed", "same_as", "difference" and
    "ci95", "p_value" against that arm}. The scores of a row are means over the seeds that both arms have; the interval is
    over test rows. `score` is None for an arm whose gates left nothing to train on. Empty where nothing is recorded.
    """
    runs: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    fixed: dict[str, dict[str, list[float]]] = {}
    for path in sorted(Path(folder).glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if "arm" in run:
            runs.setdefault((run["task"], run["arm"]), {})[run["seed"]] = run
        elif "scores" in run:
            fixed[run["task"]] = run["scores"]
    found = []
    for (task, arm), by_seed in runs.items():
        example = next(iter(by_seed.values()))
        own = _scores(runs, task, arm)
        others = _scores(runs, task, example["against"]) or {
            seed: fixed.get(task, {}).get(example["against"], []) for seed in own
        }
        seeds = sorted(seed for seed in own if others.get(seed))
        line = {
            "task": task, "arm": arm, "against": example["against"], "seeds": sorted(own),
            "kept": example.get("kept", example["rows"]), "dropped": example.get("dropped", 0),
            "same_as": example.get("same_as"), "metric": get_task(task).headline, "date": example["date"],
            "hardware": example["hardware"], "per_seed": [_mean(own[seed]) for seed in sorted(own)],
            "score": _mean([_mean(values) for values in own.values()]) if own else None,
        }  # fmt: skip
        if seeds:
            mine, theirs = (_over_seeds([scores[seed] for seed in seeds]) for scores in (own, others))
            line |= paired_difference(mine, theirs)
        found.append(line)
    return found


def _scores(runs: dict, task: str, arm: str) -> dict[int, list[float]]:
    """Seed -> row scores of an arm, those of its twin where it trained on the very same rows."""
    found = {}
    for seed, run in runs.get((task, arm), {}).items():
        twin = runs.get((task, run.get("same_as", "")), {}).get(seed, run)
        if "scores" in twin:
            found[seed] = twin["scores"]
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _over_seeds(scores: Sequence[Sequence[float]]) -> list[float]:
    return [_mean(row) for row in zip(*scores, strict=True)]


def study_table(lines: Sequence[dict[str, Any]]) -> str:
    """A study for a terminal: what each arm kept, what its student scores, and what that is beside the other arm's."""
    out = [f"{'task':<14}{'arm':<26}{'kept':>6}{'dropped':>8}{'seeds':>6}{'score':>8}  difference [95 %]"]
    for line in lines:
        told = f"same rows as {line['same_as']}" if line["same_as"] else ""
        if not told and "ci95" in line:
            low, high = line["ci95"]
            told = f"{100 * line['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] against {line['against']}"
        score = "nothing" if line["score"] is None else f"{100 * line['score']:.1f}%"
        out.append(f"{line['task']:<14}{line['arm']:<26}{line['kept']:>6,}{line['dropped']:>8,}{len(line['seeds']):>6}"
                   f"{score:>8}  {told}")  # fmt: skip
    return "\n".join(out)
