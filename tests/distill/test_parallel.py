"""Two processes under torchrun train as one does: the same global batches, the same losses, the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slmops_utils.models.carve import save
from slmops_utils.models.load import load_model

SCRIPT = str(Path(__file__).with_name("in_parallel.py"))
# plain; soft targets that one process computes; learned projections; another attention interface; answers that every
# process draws for its own rows; rows with weights of their own
METHODS = ("text", "forward_kl", "hidden", "attention", "on_policy", "step_by_step")


def run(*command: str) -> None:
    environment = os.environ | {"SLMOPS_DTYPE": "float32", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def folders(tiny, tmp_path):
    save(tiny, str(tmp_path / "teacher"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # far enough from its teacher that on_policy's loss is no rounding error
        for parameter in tiny.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save(tiny, str(tmp_path / "student"))
    return str(tmp_path / "student"), str(tmp_path / "teacher")


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's rendezvous needs libuv, which Windows builds lack")
def test_two_processes_give_the_curve_of_one(folders, tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    for out in (alone, both):
        out.mkdir()
    run(SCRIPT, *folders, str(alone), "8", *METHODS)
    run(
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        SCRIPT,
        *folders,
        str(both),
        "4",
        *METHODS,
    )
    one, two = (json.loads((out / "curves.json").read_text()) for out in (alone, both))
    for method in METHODS:
        *losses, last = one[method]
        *shared, found = two[method]
        assert found["steps"] == last["steps"] == 18, (
            "each epoch ends with a batch of one row, which only one process has"
        )
        assert [h["step"] for h in shared] == [h["step"] for h in losses] == [5, 10, 15]
        assert [h["loss"] for h in shared] == pytest.approx([h["loss"] for h in losses], rel=1e-4), method
        assert losses[0]["loss"] > losses[-1]["loss"]
        ours, theirs = (load_model(str(out / method), "float32").model.state_dict() for out in (alone, both))
        for name in ours:  # saved in bfloat16, which keeps three digits
            torch.testing.assert_close(theirs[name], ours[name], rtol=0.02, atol=2e-3)
