"""How small can a student be? Score and retention against size, for each way of choosing layers, healed or not.

A run carves a student, trains it, and scores it on validation, test and challenge; each run's JSON is written as it
ends, and a run whose JSON is there is not made again. What is chosen (the smallest student that keeps enough of its
teacher) is chosen on validation.
"""

import datetime
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..distill.dataset import known_labels, lesson_texts, training_text
from ..distill.distill import distill
from ..distill.train import TrainSettings
from ..models.carve import RULES, shrink
from ..models.hardware import describe
from ..models.load import LoadedModel, load_model
from ..records import atomic_writer, read_records
from ..synthesize.answer import Sampling, answer
from ..synthesize.generate import generate
from ..tasks import get_task

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
    steps: int = 600
    heal_steps: int = 300
    batch_size: int = 32
    learning_rate: float = 1e-3


def plan_curve(task: str, sizes: Sequence[int], rules: Sequence[str] = RULES) -> list[Run]:
    """The teacher, then every size by the first rule, the other rules, and the first rule again with healing."""
    first, *others = rules
    runs = [Run(task, WHOLE), *(Run(task, size, first) for size in sizes)]
    runs += [Run(task, size, rule) for rule in others for size in sizes]
    return runs + [Run(task, size, first, healed=True) for size in sizes]


def plan_final(task: str, chosen: Run, seeds: Sequence[int]) -> list[Run]:
    """The chosen student beside its untuned start and its baseline, over several seeds."""
    plain = replace(chosen, healed=False)
    return [
        replace(plain, kind="untuned", seed=0),
        *(replace(plain, kind="baseline", seed=seed) for seed in seeds),
        *(replace(chosen, kind="student", seed=seed) for seed in seeds),
    ]


def read_runs(folder: str | Path) -> list[dict[str, Any]]:
    """Every recorded run, sorted by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("*.json"))]


def mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def choose(runs: Iterable[dict[str, Any]], task: str, keep: float = 0.92) -> Run:
    """The smallest recorded student of seed 0 that keeps `keep` of its teacher's score on validation; if none does, the
    one that keeps most. ValueError when the teacher or every student is missing."""
    found = [run for run in runs if run["task"] == task and run["kind"] == "student" and run["seed"] == 0]
    teacher = next((mean(run["scores"]["validation"]) for run in found if run["layers"] == WHOLE), None)
    students = [run for run in found if run["layers"] != WHOLE]
    if teacher is None or not students:
        raise ValueError(f"{task}: no recorded teacher and students to choose among; run the curve first")
    score = {run["name"]: mean(run["scores"]["validation"]) for run in students}
    enough = [run for run in students if score[run["name"]] >= keep * teacher]
    best = (
        min(enough, key=lambda run: (run["layers"], -score[run["name"]]))
        if enough
        else max(students, key=lambda run: (score[run["name"]], -run["layers"]))
    )
    return Run(task, best["layers"], best["rule"], best["healed"])


class Bench:
    """One task's records, teacher, answers and vocabulary, loaded once for all its runs."""

    def __init__(self, study: Study, task: str):
        self.study, self.task = study, get_task(task)
        folder = study.data / task
        self.train = list(read_records(folder / "train.jsonl"))
        self.tests = {split: list(read_records(folder / f"{split}.jsonl")) for split in SPLITS}
        self.teacher = load_model(study.teacher)
        answered = study.work / task / "answered.jsonl"
        answered.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{answered}.lock"):
            # whether there is anything to ask is the journal's to say: another teacher's answers are not this one's
            pool = list(read_records(folder / "pool.jsonl"))
            sampling = Sampling(max_new_tokens=self.task.max_new_tokens)
            generate(self.teacher, pool, answered, sampling, batch_size=self.teacher.answer_batch)
            self.answered = list(read_records(answered))
        labels = known_labels(self.train).get(task, ())
        self.lessons = [e for e in [*self.train, *self.answered] if training_text(e, labels)]
        self.texts = lesson_texts(self.lessons)
        self.settings = TrainSettings(
            max_steps=study.steps, batch_size=study.batch_size, learning_rate=study.learning_rate,
            method="forward_kl", save_steps=10_000,
        )  # fmt: skip

    def student(self, run: Run) -> tuple[LoadedModel, dict[str, Any]]:
        """Carve and train the student of a run; and what its training says of itself."""
        if run.layers == WHOLE:
            return self.teacher, {}
        loaded = shrink(self.teacher, run.layers, run.rule, self.texts)
        if run.kind == "untuned":
            return loaded, {}
        settings, work = replace(self.settings, seed=run.seed), self.study.work / self.task.name
        counts = {"steps": 0, "seconds": 0}
        with tempfile.TemporaryDirectory() as out:
            if run.kind == "baseline":
                settings = replace(settings, method="text")
                report = distill(loaded, self.train, out, settings)
            else:
                if run.healed:
                    heal = replace(settings, max_steps=self.study.heal_steps, alpha=0.0)
                    report = distill(loaded, self.lessons, out, heal, teacher=self.teacher,
                                     soft_targets=work / "healing", every_position=True)  # fmt: skip
                    counts = {name: report[name] for name in counts}
                report = distill(
                    loaded, self.lessons, out, settings, teacher=self.teacher, soft_targets=work / "soft_targets"
                )
        counts = {name: counts[name] + report[name] for name in counts}
        return loaded, {**counts, "tokens_per_s": report["tokens_per_s"], "settings": asdict(settings)}

    def score(self, loaded: LoadedModel) -> dict[str, list[float]]:
        """Row scores on each split, of the task's headline metric."""
        headline = self.task.metrics[self.task.headline]
        rows = [(split, example) for split, examples in self.tests.items() for example in examples]
        prompts = [self.task.prompt(example) for _, example in rows]
        answers = answer(loaded, prompts, Sampling(self.task.max_new_tokens), loaded.answer_batch)
        scores: dict[str, list[float]] = {split: [] for split in SPLITS}
        for (split, example), found in zip(rows, answers, strict=True):
            scores[split].append(round(float(headline.value(example, found.text)), 4))
        return scores

    def measure(self, run: Run) -> dict[str, Any]:
        """Make one run and say what came of it."""
        loaded, training = self.student(run)
        return {
            **asdict(run),
            "name": run.name,
            "metric": self.task.headline,
            "parameters": loaded.parameters,
            **training,
            "scores": self.score(loaded),
            "date": datetime.date.today().isoformat(),
            "hardware": describe(),
        }


def run_study(runs: Sequence[Run], study: Study, shard: tuple[int, int] = (0, 1)) -> int:
    """Make the runs that are not recorded yet; returns how many. `shard` (i, n): only every n-th, from the i-th on, so
    that n processes share the work. Kill it at any moment and call it again."""
    made, benches = 0, dict[str, Bench]()
    study.results.mkdir(parents=True, exist_ok=True)
    for run in runs[shard[0] :: shard[1]]:
        path = study.results / f"{run.name}.json"
        if path.exists():
            continue
        if run.task not in benches:
            benches.clear()  # one teacher in memory is enough
            benches[run.task] = Bench(study, run.task)
        result = benches[run.task].measure(run)
        with atomic_writer(path) as file:
            json.dump(result, file)
            file.write("\n")
        made += 1
        print(
            f"{run.name}: " + ", ".join(f"{k} {100 * mean(v):.1f} %" for k, v in result["scores"].items()), flush=True
        )
    return made
