"""What the studies share that train many students: one JSON a run, and what several seeds say together.

A run is written as it ends, and one that is on disk is not made again: kill a study at any moment, call it again, or
share it out to processes with a shard. A run on disk that had other settings is refused, since no table may mix them.
"""

import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..models.hardware import describe
from ..models.load import LoadedModel
from ..records import atomic_writer
from .statistics import over_seeds

WHOSE = ("teacher", "start")  # fingerprints among the settings: a run that does not say whose it is counts as another's


@dataclass(frozen=True)
class Planned:
    """A run to be made. `settings` are all that decides it besides its name; `make` returns what came of it, None where
    there was nothing to run."""

    name: str
    settings: dict[str, Any]
    make: Callable[[], dict[str, Any] | None]


def check_name(name: str, tasks: Sequence[str]) -> None:
    """Raises ValueError where a name of one's own would stand for several tasks, whose runs would take each other's place."""
    if name and len(tasks) != 1:
        raise ValueError(f"--name {name} is for one task (--tasks nli), not for {', '.join(tasks)}")


def make_missing(
    folder: Path, runs: Sequence[Planned], shard: tuple[int, int] = (1, 1), option: str = "--out"
) -> Iterator[dict[str, Any]]:
    """Make what a folder lacks of a shard's runs, and yield each as it was written.

    `shard` (i, n) takes every n-th run from the i-th on. Plans put whole seeds first, so that what a comparison lacks when
    time runs out is a seed and not one of those compared. Raises ValueError, before anything is made, for a run on disk
    that had other settings; `option` is what names the folder.
    """
    i, n = shard
    if not 1 <= i <= n:
        raise ValueError(f"--shard takes i/n with i from 1 to n, such as 2/4, not {i}/{n}")
    missing = [run for run in runs[i - 1 :: n] if not _is_there(folder, run, option)]
    for run in missing:
        # another process may have made it meanwhile
        if _is_there(folder, run, option) or (found := run.make()) is None:
            continue
        report = found | {"settings": run.settings, "date": f"{datetime.date.today()}", "hardware": describe()}
        with atomic_writer(folder / f"{run.name}.json") as file:
            file.write(json.dumps(report) + "\n")
        yield report


def _is_there(folder: Path, run: Planned, option: str) -> bool:
    path, asked = folder / f"{run.name}.json", run.settings
    if not path.exists():
        return False
    # a setting that came into being after the run was made is not held against it
    found = dict.fromkeys(WHOSE) | json.loads(path.read_text(encoding="utf-8")).get("settings", {})
    other = [f"{name} {value}, not {asked.get(name)}" for name, value in found.items() if value != asked.get(name)]
    if other:
        told = f"{path} was run with other settings ({', '.join(other)})"
        raise ValueError(f"{told}; remove it, or name another folder with {option}")
    return True


def read_runs(folder: str | Path) -> list[dict[str, Any]]:
    """Every run of a folder, sorted by name; an empty list where there is none."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("*.json"))]


def as_saved(student: LoadedModel) -> LoadedModel:
    """A student in its own number format, as it would be saved and loaded again: training leaves it in float32."""
    import torch

    student.model = student.model.to(getattr(torch, student.dtype)).eval()
    return student


def score_over_seeds(scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """{"value", "ci95"} of row scores (seeds, rows), over both, the interval cut to what a score can be."""
    found = over_seeds(scores)
    return {"value": found["value"], "ci95": [min(max(end, 0.0), 1.0) for end in found["ci95"]]}


def same_seeds(
    ours: Mapping[int, Sequence[float]], theirs: Mapping[int, Sequence[float]]
) -> tuple[list[int], np.ndarray]:
    """The seeds that both have, and the row scores of those: (seeds, two, rows)."""
    seeds = sorted(set(ours) & set(theirs))
    return seeds, np.array([(ours[seed], theirs[seed]) for seed in seeds])


def machine(run: dict[str, Any]) -> str:
    """What a run was made on, in words."""
    hardware = run["hardware"]
    gpu = hardware.get("gpu") if run.get("device") != "cpu" else None
    return f"{gpu or str(hardware['cores']) + ' cores'}, {hardware['dtype']}"
