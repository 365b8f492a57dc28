"""The command line end to end on a tiny model: each command, as a user types it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from slmops_utils.__main__ import build_parser, main
from slmops_utils.records import Example, read_records, write_records

COMMANDS = (
    "doctor",
    "data",
    "public",
    "correct",
    "generate",
    "filter",
    "shrink",
    "distill",
    "evaluate",
    "report",
    "study",
    "course",
)


def run(*arguments, **environment):
    command = [sys.executable, "-W", "ignore", "-m", "slmops_utils", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=300)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args([command, "--help"])
    assert stop.value.code == 0 and command in capsys.readouterr().out


def test_the_whole_road(tmp_path, tiny_folder):
    """convert, check, correct, generate, shrink, distill, evaluate"""
    table = tmp_path / "tickets.csv"
    table.write_text(
        "text,label\n"
        + "".join(f"my {thing} number {i} is broken,{thing}\n" for i in range(12) for thing in ("phone", "router"))
    )
    done = run("data", table, "--split", "train=8", "test=6", "pool=-1", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "8 good records" in run("data", tmp_path / "train.jsonl").stdout
    done = run(
        "correct",
        "--data",
        tmp_path / "train.jsonl",
        "--model",
        tiny_folder,
        "--out",
        tmp_path / "teacher",
        "--max-steps",
        3,
    )
    assert done.returncode == 0, done.stderr
    done = run(
        "generate",
        "--teacher",
        tmp_path / "teacher",
        "--pool",
        tmp_path / "pool.jsonl",
        "--out",
        tmp_path / "answered.jsonl",
    )
    assert json.loads(done.stdout)["rows"] == 10, done.stderr
    done = run(
        "shrink",
        "--model",
        tmp_path / "teacher",
        "--layers",
        "2",
        "--vocabulary-from",
        tmp_path / "train.jsonl",
        "--out",
        tmp_path / "untuned",
    )
    assert done.returncode == 0, done.stderr
    done = run(
        "distill",
        "--student",
        tmp_path / "untuned",
        "--data",
        tmp_path / "train.jsonl",
        tmp_path / "answered.jsonl",
        "--out",
        tmp_path / "student",
        "--max-steps",
        3,
    )
    assert done.returncode == 0, done.stderr
    done = run(
        "evaluate",
        "--teacher",
        tmp_path / "teacher",
        "--student",
        tmp_path / "student",
        "--untuned",
        tmp_path / "untuned",
        "--test",
        tmp_path / "test.jsonl",
        "--train",
        tmp_path / "train.jsonl",
        "--no-costs",
        "--out",
        tmp_path / "results.json",
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["role"] for row in results["rows"]] == ["teacher", "untuned", "student"]
    assert set(results["reference_rows"]) == {"majority class", "TF-IDF classifier"}
    assert len(list(read_records(tmp_path / "results.answers.jsonl"))) == 6


def test_errors_are_told_without_a_traceback(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"id": "a"}\nnot json\n')
    done = run("data", tmp_path / "bad.jsonl")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "bad.jsonl:1: missing key 'task'" in done.stderr and "bad.jsonl:2: not JSON" in done.stderr


def two_records(folder):
    path = folder / "two.jsonl"
    write_records(path, [Example(id, "nli", [{"role": "user", "content": "Well?"}]) for id in "ab"])
    return str(path)


def test_a_misspelt_style_is_no_pass_of_the_service_rules(tmp_path, capsys):
    assert main(["data", two_records(tmp_path), "--service-rules", "chain_of_thougt"]) == 1
    told = capsys.readouterr()
    assert "no prompting style 'chain_of_thougt'; there are plain" in told.err and told.out == ""


def test_records_that_are_only_checked_are_not_held(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("slmops_utils.__main__._read_all", lambda paths: pytest.fail("all of them at once"))
    assert main(["data", two_records(tmp_path)]) == 0
    assert "two.jsonl: 2 good records" in capsys.readouterr().out


def test_a_model_that_does_not_exist_says_which_names_there_are(tmp_path):
    write_records(tmp_path / "pool.jsonl", [Example("a", "nli", [{"role": "user", "content": "x"}])])
    done = run("generate", "--teacher", "no/such", "--pool", tmp_path / "pool.jsonl", "--out", tmp_path / "out.jsonl")
    assert done.returncode == 1 and "'embedded'" in done.stderr and not (tmp_path / "out.jsonl").exists()


def test_the_doctor_reports_machine_model_and_network():
    done = run("doctor", SLMOPS_ENDPOINT="http://someone:sk-planted-key@127.0.0.1:9/v1")
    assert done.returncode == 0, done.stdout + done.stderr
    for word in (
        "cores",
        "GiB",
        "GFLOP/s",
        "torch",
        "SHA-256 holds",
        "hub",
        "does not answer",
        "ready",
        "00_start_here",
    ):
        assert word in done.stdout
    assert "planted" not in done.stdout + done.stderr


def test_the_doctor_fails_when_the_model_cannot_be_cached(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = run("doctor", SLMOPS_CACHE=str(blocked))
    assert done.returncode == 1 and "SLMOPS_CACHE" in done.stdout


def test_every_endpoint_in_the_readme_can_be_used_as_it_stands_there(monkeypatch):
    from slmops_utils.synthesize.presets import LOCAL_KEY, PRESETS, find_endpoint

    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    monkeypatch.setenv("AZURE_AI_ENDPOINT", "https://mine.services.ai.azure.com/openai/v1")
    for variable in (LOCAL_KEY, *(preset.key_variable for preset in PRESETS.values())):
        assert f"`{variable}`" in readme, variable
        monkeypatch.setenv(variable, "sk-planted")
    names = set(re.findall(r"endpoint:[^\s`@]+@[^\s`]+", readme)) - {"endpoint:MODEL@WHERE"}
    found = {name: find_endpoint(name) for name in names}
    assert {endpoint.key() for endpoint in found.values()} == {"sk-planted"}
    assert {name.rpartition("@")[2] for name in names if "http" not in name} == set(PRESETS)
    local = {endpoint.base_url for endpoint in found.values() if endpoint.local}
    assert local >= {f"http://localhost:{port}/v1" for port in (8000, 11434, 8080)}  # vLLM, Ollama, llama.cpp
