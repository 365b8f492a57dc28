"""Which method helps? Every method on the same start, the same rows and the same budget, over several seeds.

One run is one (task, method, seed) and leaves one JSON file; a run whose file is there is not run again. What the files
say together is in ablation.py.
"""

import copy
import datetime
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..distill.dataset import Row, encode_rows, lesson_texts
from ..distill.methods import METHODS, NEED_NO_TEACHER, make_method
from ..distill.step_by_step import step_by_step_rows
from ..distill.train import TrainSettings, train
from ..distill.validation import score_rows
from ..models.carve import shrink
from ..models.hardware import describe
from ..models.load import LoadedModel, load_model, weights_fingerprint
from ..records import Example, atomic_writer, read_records
from ..tasks import get_task

LABELS = "labels"  # text again, without the teacher's answers: what a student would be that had no teacher
COMPARED = (LABELS, *METHODS)
BUDGET = TrainSettings(seconds=120.0, batch_size=16, learning_rate=1e-3)
POINTS = 60  # of a loss curve that are kept


@dataclass(frozen=True)
class Ablation:
    """What is compared, and on what. `{task}` in a pattern stands for the task's name."""

    teacher: str = "data/teacher"
    out: Path = Path("data/results/ablate")
    work: Path = Path("build/ablate")  # soft targets, and checkpoints of runs not yet done
    tasks: Sequence[str] = ("nli", "qa")
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

    def path(self, task: str, method: str, seed: int) -> Path:
        return self.out / f"{task}-{method}-s{seed}.json"

    def run_folder(self, task: str, method: str, seed: int) -> Path:
        return self.work / "runs" / f"{task}-{method}-s{seed}"

    def settings_of(self, task: str, method: str, seed: int) -> TrainSettings:
        """The settings of one run: only method and seed differ within a task."""
        name = "text" if method == LABELS else method
        return replace(self.settings, method=name, seed=seed, sample_tokens=get_task(task).max_new_tokens)

    def runs(self, shard: tuple[int, int] = (1, 1)) -> list[tuple[str, str, int]]:
        """(task, method, seed) of every run, or of every n-th from the i-th on; whole seeds come first, so that what a
        comparison lacks when time runs out is a seed, not a method."""
        i, n = shard
        if not 1 <= i <= n:
            raise ValueError(f"--shard takes i/n with i from 1 to n, such as 2/4, not {i}/{n}")
        unknown = [m for m in self.methods if m not in COMPARED]
        if unknown:
            raise ValueError(f"no method {', '.join(unknown)}; there are {', '.join(COMPARED)}")
        return [(t, m, s) for s in self.seeds for t in self.tasks for m in self.methods][i - 1 :: n]


@dataclass
class Start:
    """What the runs of one task share: the carved model before training, and the examples."""

    student: LoadedModel
    fingerprint: str
    labelled: list[Example]
    answered: list[Example]
    validation: list[Example]
    test: list[Example]

    def rows(self, method: str, settings: TrainSettings) -> list[Row]:
        """The rows a method trains on. Raises ValueError where the data have nothing for it."""
        tokenizer = self.student.tokenizer
        if method == LABELS:
            return encode_rows([replace(e, response=None) for e in self.labelled], tokenizer)[0]
        examples = self.labelled + self.answered
        if method == "step_by_step":
            return step_by_step_rows(examples, tokenizer, settings.rationale_weight)[0]
        return encode_rows(examples, tokenizer)[0]


def ablate(plan: Ablation, shard: tuple[int, int] = (1, 1)) -> Iterator[dict[str, Any]]:
    """Run what `plan.out` lacks of a shard's runs, and yield each as it was written.

    The runs of one task share their start and their soft targets, which lie in `plan.work`/soft_targets/TASK; processes
    that share a folder wait for each other there. Raises ValueError for a run on disk that had other settings.
    """
    missing = [run for run in plan.runs(shard) if not _done(plan, *run)]
    if not missing:
        return
    teacher = load_model(plan.teacher, device=plan.device)
    starts: dict[str, Start] = {}
    for task, method, seed in missing:
        if task not in starts:
            starts[task] = prepare(plan, teacher, task)
        try:
            rows = starts[task].rows(method, plan.settings)
        except ValueError as error:
            print(f"{task}, {method}: left out: {error}", flush=True)
            continue
        report = run_one(plan, teacher, starts[task], rows, task, method, seed)
        with atomic_writer(plan.path(task, method, seed)) as file:
            file.write(json.dumps(report) + "\n")
        shutil.rmtree(plan.run_folder(task, method, seed), ignore_errors=True)
        yield report


def _done(plan: Ablation, task: str, method: str, seed: int) -> bool:
    path = plan.path(task, method, seed)
    if not path.exists():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))["settings"]
    asked = asdict(plan.settings_of(task, method, seed))
    other = [f"{name} {found[name]}, not {asked[name]}" for name in found if found[name] != asked.get(name)]
    if other:
        raise ValueError(f"{path} was run with other settings ({', '.join(other)}); name another folder with --out")
    return True


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
    fingerprint = weights_fingerprint(student.model)
    return Start(student, fingerprint, labelled, answered, validation[: plan.limit], test[: plan.limit])


def run_one(
    plan: Ablation, teacher: LoadedModel, start: Start, rows: Sequence[Row], task: str, method: str, seed: int
) -> dict[str, Any]:
    """Train one student from the task's start and score it: what its JSON file holds."""
    import torch

    settings = plan.settings_of(task, method, seed)
    student = replace(start.student, model=copy.deepcopy(start.student.model))
    guide = None if settings.method in NEED_NO_TEACHER else teacher
    folder = plan.work / "soft_targets" / task
    grade = make_method(settings, student, guide, rows, folder)
    result = train(student, rows, plan.run_folder(task, method, seed), settings, method=grade)
    student.model = student.model.to(getattr(torch, student.dtype)).eval()  # as it would be saved and loaded again
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "tokens_per_s": round(result.tokens_per_s),
        "rows": len(rows),
        "parameters": student.parameters,
        "teacher": plan.teacher,
        "start": start.fingerprint,
        "validation": score_rows(student, start.validation, plan.score_batch),
        "test": score_rows(student, start.test, plan.score_batch),
        "settings": asdict(settings),
        "date": datetime.date.today().isoformat(),
        "device": student.model.device.type,
        "hardware": describe(),
        "losses": thinned(result.losses),
    }


def thinned(losses: Sequence[dict[str, float]], points: int = POINTS) -> list[dict[str, float]]:
    """A loss curve as at most `points` means of equal stretches, each at the last step of its stretch."""
    curve = [values for values in losses if "loss" in values]
    width = -(-len(curve) // points) or 1
    parts = [curve[i : i + width] for i in range(0, len(curve), width)]
    return [{"step": p[-1]["step"], "loss": round(sum(v["loss"] for v in p) / len(p), 5)} for p in parts]
