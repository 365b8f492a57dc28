"""A student's folder is an ordinary model folder: stock tools load it as it is, and say what our own code says."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from slmops_utils.models.carve import save, shrink
from slmops_utils.synthesize.answer import Sampling, answer

ROOT = Path(__file__).parents[2]
QUESTION = [
    {"role": "system", "content": "Does the premise support the hypothesis?"},
    {"role": "user", "content": "Premise: the fee is £5.\nHypothesis: the fee is £6."},
]


@pytest.fixture
def carved(tiny, tmp_path):
    """A folder as `shrink` and `distill` leave it: fewer layers, a smaller vocabulary."""
    student = shrink(tiny, [0, 1], vocabulary_from=["Premise: the fee is £5. Hypothesis: the fee is £6."])
    save(student, str(tmp_path / "student"))
    return tmp_path / "student"


def test_a_transformers_pipeline_answers_as_our_own_code_does(carved):
    from transformers import pipeline

    from slmops_utils.models.load import load_model

    chat = pipeline("text-generation", model=str(carved), device="cpu", dtype="float32")
    said = chat(QUESTION, max_new_tokens=12, do_sample=False)[0]["generated_text"][-1]
    assert said["role"] == "assistant"
    ours = answer(load_model(str(carved), dtype="float32"), [QUESTION], Sampling(max_new_tokens=12))[0]
    assert said["content"].strip() == ours.text and ours.completion_tokens > 0


def test_the_readme_gives_the_two_commands_and_the_harness_task_is_there():
    readme = (ROOT / "README.md").read_text()
    assert 'pipeline("text-generation"' in readme
    assert "lm-eval run --model hf" in readme and "--include_path tests/harness --tasks slmops_nli" in readme
    import yaml

    task = yaml.safe_load((ROOT / "tests/harness/slmops_nli.yaml").read_text())
    assert task["task"] == "slmops_nli" and (ROOT / task["dataset_kwargs"]["data_files"]["test"]).is_file()
    from slmops_utils.tasks.nli import INSTRUCTION, TASK

    assert task["description"] == INSTRUCTION and task["generation_kwargs"]["max_gen_toks"] == TASK.max_new_tokens


@pytest.mark.skipif(
    shutil.which("lm-eval") is None, reason="lm-evaluation-harness is not installed here (pip install lm-eval)"
)
def test_lm_evaluation_harness_runs_the_folder(carved, tmp_path):
    command = ["lm-eval", "run", "--model", "hf", "--model_args", f"pretrained={carved},dtype=float32", "--include_path",
               "tests/harness", "--tasks", "slmops_nli", "--apply_chat_template", "--limit", "4", "--device", "cpu",
               "--output_path", str(tmp_path / "out")]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | offline, timeout=300)
    assert done.returncode == 0, done.stderr[-800:]
    (found,) = (tmp_path / "out").rglob("results_*.json")
    assert "slmops_nli" in json.loads(found.read_text())["results"]
