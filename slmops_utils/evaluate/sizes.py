"""How small can a student be? Score and retention against size, for each way of choosing layers, healed or not.

A run carves a student, trains it, and scores it on validation, test and challenge; it is recorded as runs.py says. What is
chosen (the smallest student that keeps enough of its teacher) is chosen on validation.
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock

from ..distill.dataset import known_labels, lesson_texts, training_text
from ..distill.distill import distill
from ..distill.train import TrainSettings
from ..distill.validation import score_rows
from ..models.carve import shrink
from ..models.load import LoadedModel, fingerprint, load_model
from ..records import read_records
from ..synthesize.generate import generate
from .runs import Planned, as_saved, make_missing

SPLITS = ("validation", "test", "challenge")
KINDS = ("untuned", "baseline", "student")
WHOLE = 0  # as a number of layers: the teacher itself


@dataclass(frozen=True)
class Run:
    """One student. `kind` is a role of DESIGN's table; the baseline sees labels only, for as many steps."""

    task: str
    layers: int
    rule: str = "early"
    healed: bool = False
    kind: str = "student"
    seed: int = 0

    @property
    def name(self) -> str:
        if self.layers == WHOLE:
            return f"{self.task}_teacher"
        healed = "_healed" if self.healed else ""
        return f"{self.task}_{self.layers:02}_{self.rule}{healed}_{self.kind}_seed{self.seed}"


@dataclass(frozen=True)
class Study:
    """Where things lie and how long students train. `work` holds answers and soft targets, shared by all runs."""

    teacher: str = "data/teacher"
    data: Path = Path("data")
    work: Path = Path("build/sizes")
    results: Path = Path("data/results/sizes")
    steps: int = 300
    heal_steps: int = 150
    batch_size: int = 32
    learning_rate: float = 1e-3

    def settings_of(self, run: Run) -> TrainSettings:
        """How a run's student is trained, once it is healed."""
        return TrainSettings(
            max_steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate, seed=run.seed,
            method="text" if run.kind == "baseline" else "forward_kl", save_steps=10_000,
        )  # fmt: skip

    def decides(self, run: Run) -> dict[str, Any]:
        """What a run depends on besides its name and its teacher: nothing where it is not trained."""
        if run.layers == WHOLE or run.kind == "untuned":
            return {}
        return asdict(self.settings_of(run)) | ({"heal_steps": self.heal_steps} if run.healed else {})


def plan_curve(task: str, sizes: Sequence[int], rules: Sequence[str]) -> list[Run]:
    """The teacher, then every size by the first rule, the other rules, and the first rule again with healing."""
    first, *others = rules
    runs = [Run(task, WHOLE), *(Run(task, size, first) for size in sizes)]
    runs += [Run(task, size, rule) for rule in others for size in sizes]
    return runs + [Run(task, size, first, healed=True) for size in sizes]


def plan_final(task: str, chosen: Run, seeds: Sequence[int]) -> list[Run]:
    """The chosen student beside its untuned start and its baseline, over several seeds, whole seeds first."""
    plain = replace(chosen, healed=False)
    pairs = ((replace(plain, kind="baseline", seed=s), replace(chosen, kind="student", seed=s)) for s in seeds)
    return [replace(plain, kind="untuned", seed=0), *(run for pair in pairs for run in pair)]


def choose(runs: Iterable[dict[str, Any]], task: str, keep: float = 0.92) -> Run:
    """The smallest recorded student of seed 0 that keeps `keep` of its teacher's score on validation; if none does, the
    one that keeps most. ValueError when the teacher or every student is missing."""
    found = [run for run in runs if run["task"] == task and run["kind"] == "student" and run["seed"] == 0]
    teacher = next((fmean(run["scores"]["validation"]) for run in found if run["layers"] == WHOLE), None)
    students = [run for run in found if run["layers"] != WHOLE]
    if teacher is None or not students:
        raise ValueError(f"{task}: no recorded teacher and students to choose among; run the curve first")
    score = {run["name"]: fmean(run["scores"]["validation"]) for run in students}
    enough = [run for run in students if score[run["name"]] >= keep * teacher]
    best = (
        min(enough, key=lambda run: (run["layers"], -score[run["name"]]))
        if enough
        else max(students, key=lambda run: (score[run["name"]], -run["layers"]))
    )
    return Run(task, best["layers"], best["rule"], best["healed"])


class Bench:
    """One task's records, teacher, answers and vocabulary, loaded once for all its runs."""

    def __init__(self, study: Study, task: str, teacher: LoadedModel):
        self.study, self.teacher, self.work = study, teacher, study.work / task
        rows = {part: list(read_records(study.data / task / f"{part}.jsonl")) for part in ("train", "pool", *SPLITS)}
        self.train, self.tests = rows["train"], {split: rows[split] for split in SPLITS}
        self.work.mkdir(parents=True, exist_ok=True)
        answered = self.work / "answered.jsonl"
        with FileLock(f"{answered}.lock"):
            # whether there is anything to ask is the journal's to say: another teacher's answers are not this one's.
            # Conversations go on from their written turns, as the test rows do
            generate(teacher, rows["pool"], answered, batch_size=teacher.answer_batch, history="written")
            lessons = [*self.train, *read_records(answered)]
        labels = known_labels(self.train).get(task, ())
        self.lessons = [e for e in lessons if training_text(e, labels)]
        self.texts = lesson_texts(self.lessons)

    def student(self, run: Run) -> tuple[LoadedModel, dict[str, Any]]:
        """Carve and train the student of a run; and what its training says of itself."""
        if run.layers == WHOLE:
            return self.teacher, {}
        loaded = shrink(self.teacher, run.layers, run.rule, self.texts)
        if run.kind == "untuned":
            return loaded, {}
        settings, reports = self.study.settings_of(run), []
        with tempfile.TemporaryDirectory() as out:
            if run.healed:
                heal = replace(settings, max_steps=self.study.heal_steps, alpha=0.0)
                reports.append(distill(loaded, self.lessons, out, heal, teacher=self.teacher,
                                       soft_targets=self.work / "healing", every_position=True))  # fmt: skip
            rows = self.train if run.kind == "baseline" else self.lessons
            reports.append(distill(loaded, rows, out, settings, teacher=self.teacher,
                                   soft_targets=self.work / "soft_targets"))  # fmt: skip
        counts = {name: sum(report[name] for report in reports) for name in ("steps", "seconds")}
        return as_saved(loaded), {**counts, "tokens_per_s": reports[-1]["tokens_per_s"]}

    def measure(self, run: Run) -> dict[str, Any]:
        """Make one run and say what came of it."""
        loaded, training = self.student(run)
        scored = {split: score_rows(loaded, rows, loaded.answer_batch) for split, rows in self.tests.items()}
        return {
            **asdict(run),
            "name": run.name,
            "metric": scored["test"]["metric"],
            "parameters": loaded.parameters,
            **training,
            "scores": {split: found["scores"] for split, found in scored.items()},
        }


def run_study(runs: Sequence[Run], study: Study, shard: tuple[int, int] = (1, 1)) -> int:
    """Make the runs of a shard that are not recorded yet; returns how many. Raises ValueError for a recorded one that had
    other settings or another teacher."""
    whose, made = fingerprint(study.teacher), 0
    teacher = cache(lambda: load_model(study.teacher))
    bench = cache(lambda task: Bench(study, task, teacher()))

    def make(run: Run) -> dict[str, Any]:
        return bench(run.task).measure(run)

    planned = [Planned(run.name, {"teacher": whose, **study.decides(run)}, partial(make, run)) for run in runs]
    for run in make_missing(study.results, planned, shard, "--results"):
        means = ", ".join(f"{split} {100 * fmean(scores):.1f} %" for split, scores in run["scores"].items())
        print(f"{run['name']}: {means}", flush=True)
        made += 1
    return made
