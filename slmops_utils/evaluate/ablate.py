"""Which method helps? Every method on the same start, the same rows and the same budget, over several seeds.

One run is one (task, method, seed), recorded as runs.py says. What the records say together is in ablation.py.
"""

import copy
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..distill.dataset import lesson_texts
from ..distill.distill import distill
from ..distill.methods import METHODS
from ..distill.step_by_step import NoRationales
from ..distill.train import TrainSettings
from ..distill.validation import score_rows
from ..models.carve import shrink
from ..models.load import LoadedModel, fingerprint, load_model, weights_fingerprint
from ..records import Example, read_records
from ..tasks import get_task
from .runs import Planned, as_saved, check_name, make_missing

START = "start"  # no training at all: what the others have to add to
LABELS = "labels"  # text again, without the teacher's answers: what a student would be that had no teacher
COMPARED = (START, LABELS, *METHODS)
BUDGET = TrainSettings(seconds=120.0, batch_size=16, learning_rate=1e-3)
POINTS = 60  # of a loss curve that are kept


@dataclass(frozen=True)
class Ablation:
    """What is compared, and on what. `{task}` in a pattern stands for the task's name."""

    teacher: str = "data/teacher"
    out: Path = Path("data/results/ablate")
    work: Path = Path("build/ablate")  # soft targets, and checkpoints of runs not yet done
    tasks: Sequence[str] = ("nli", "qa")
    name: str = ""  # what the runs call their one task, where the files are not the course's own
    methods: Sequence[str] = COMPARED
    seeds: Sequence[int] = (0, 1, 2)
    untuned: dict[str, str] = field(default_factory=dict)  # task -> carved start; carved here where there is none
    layers: int = 6
    rule: str = "early"
    train: str = "data/{task}/train.jsonl"
    answered: str = "data/answered/{task}.jsonl"
    validation: str = "data/{task}/validation.jsonl"
    test: str = "data/{task}/test.jsonl"
    limit: int | None = None  # the first so many test rows, and validation rows
    settings: TrainSettings = BUDGET
    score_batch: int = 64
    device: str | None = None

    def settings_of(self, task: str, method: str, seed: int) -> TrainSettings:
        """The settings of one run: only method and seed differ within a task."""
        name = "text" if method in (START, LABELS) else method
        return replace(self.settings, method=name, seed=seed, sample_tokens=get_task(task).max_new_tokens)

    def runs(self) -> list[tuple[str, str, int]]:
        """(task, method, seed) of every run, whole seeds first. Raises ValueError for a method that there is not."""
        if unknown := [m for m in self.methods if m not in COMPARED]:
            raise ValueError(f"no method {', '.join(unknown)}; there are {', '.join(COMPARED)}")
        check_name(self.name, self.tasks)
        return [(t, m, s) for s in self.seeds for t in self.tasks for m in self.methods]

    def called(self, task: str) -> str:
        """What results call a task."""
        return self.name or task


@dataclass
class Start:
    """What the runs of one task share: the carved model before training, and the examples."""

    student: LoadedModel
    labelled: list[Example]
    answered: list[Example]
    validation: list[Example]
    test: list[Example]


def ablate(plan: Ablation, shard: tuple[int, int] = (1, 1)) -> Iterator[dict[str, Any]]:
    """Run what `plan.out` lacks of a shard's runs, and yield each as it was written.

    The runs of one task share their start and their soft targets, which lie in `plan.work`/soft_targets/TASK; processes
    that share a folder wait for each other there. Raises ValueError for a run on disk that had other settings, another
    teacher or another start.
    """
    asked, whose = plan.runs(), fingerprint(plan.teacher)
    teacher = cache(lambda: load_model(plan.teacher, device=plan.device))
    start = cache(lambda task: prepare(plan, teacher(), task))

    def make(task: str, method: str, seed: int) -> dict[str, Any] | None:
        return run_one(plan, teacher(), start(task), task, method, seed)

    carved = f"{plan.layers} layers, {plan.rule}"
    starts = {task: fingerprint(plan.untuned[task]) if task in plan.untuned else carved for task in plan.tasks}
    planned = []
    for task, method, seed in asked:
        settings = asdict(plan.settings_of(task, method, seed)) | {"teacher": whose, "start": starts[task]}
        planned.append(Planned(f"{plan.called(task)}-{method}-s{seed}", settings, partial(make, task, method, seed)))
    yield from make_missing(plan.out, planned, shard)


def prepare(plan: Ablation, teacher: LoadedModel, task: str) -> Start:
    """Read a task's files, and load its start or carve it out of the teacher."""
    labelled, answered, validation, test = (
        list(read_records(pattern.format(task=task)))
        for pattern in (plan.train, plan.answered, plan.validation, plan.test)
    )
    if task in plan.untuned:
        student = load_model(plan.untuned[task], device=plan.device)
    else:
        student = shrink(teacher, plan.layers, plan.rule, lesson_texts(labelled + answered))
    some = slice(plan.limit)
    return Start(student, labelled, answered, validation[some], test[some])


def run_one(
    plan: Ablation, teacher: LoadedModel, start: Start, task: str, method: str, seed: int
) -> dict[str, Any] | None:
    """Train one student from the task's start and score it; None where the data have nothing for the method."""
    student = replace(start.student, model=copy.deepcopy(start.student.model))
    began = weights_fingerprint(student.model)  # of what is trained: a start that an earlier run has changed would show
    without = [replace(example, response=None) for example in start.labelled]
    lessons = without if method == LABELS else start.labelled + start.answered
    called = plan.called(task)
    folder = plan.work / "runs" / f"{called}-{method}-s{seed}"
    told: dict[str, Any] = {"steps": 0, "seconds": 0.0, "tokens_per_s": 0, "rows": 0, "losses": []}
    try:
        if method != START:
            told = distill(student, lessons, folder, plan.settings_of(task, method, seed), teacher=teacher,
                           soft_targets=plan.work / "soft_targets" / called)  # fmt: skip
    except NoRationales as error:
        print(f"{called}, {method}: left out: {error}", flush=True)
        return None
    student = as_saved(student)
    report = {
        "task": called,
        "method": method,
        "seed": seed,
        **{name: told[name] for name in ("steps", "seconds", "tokens_per_s", "rows")},
        "parameters": student.parameters,
        "teacher": plan.teacher,
        "start": began,
        "validation": score_rows(student, start.validation, plan.score_batch),
        "test": score_rows(student, start.test, plan.score_batch),
        "device": student.model.device.type,
        "losses": thinned(told["losses"]),
    }
    shutil.rmtree(folder, ignore_errors=True)
    return report


def thinned(losses: Sequence[dict[str, float]], points: int = POINTS) -> list[dict[str, float]]:
    """A loss curve as at most `points` means of equal stretches, each at the last step of its stretch."""
    curve = [values for values in losses if "loss" in values]
    width = -(-len(curve) // points) or 1
    parts = [curve[i : i + width] for i in range(0, len(curve), width)]
    return [{"step": p[-1]["step"], "loss": round(sum(v["loss"] for v in p) / len(p), 5)} for p in parts]
