"""What a model costs: its memory is its own, a served one is measured through HTTP, and users are counted as defined."""

import json
import os
import subprocess
import sys
import time

import pytest

from slmops_utils.__main__ import main
from slmops_utils.evaluate.compare import evaluate, table
from slmops_utils.evaluate.measure import cost_per_1k, measure, run_waves, weigh
from slmops_utils.records import Example, write_records
from tests.synthesize.server import Reply, Server, completion, problem

PROMPTS = [[{"role": "user", "content": f"Premise: £{i}. Hypothesis: £5."}] for i in range(3)]


def test_peak_memory_is_not_inherited_from_the_parent():
    # Linux hands ru_maxrss down through fork and exec; a small child of a large parent must still look small
    child = "from slmops_utils.evaluate.measure import peak_memory_bytes; print(peak_memory_bytes())"
    parent = (
        "import subprocess, sys\nhold = bytearray(400 * 2**20)\nhold[::4096] = b'x' * len(hold[::4096])\n"
        f"print(subprocess.run([sys.executable, '-c', {child!r}], capture_output=True, text=True, check=True).stdout)"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 2**20 < int(done.stdout) < 200 * 2**20


def test_peak_memory_sees_what_was_freed_again():
    code = (
        "from slmops_utils.evaluate.measure import peak_memory_bytes\nhold = bytearray(300 * 2**20)\n"
        "hold[::4096] = b'x' * len(hold[::4096])\ndel hold\nprint(peak_memory_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 300 * 2**20


def test_a_local_model_is_measured_in_every_way(tiny_folder, tiny):
    found = measure(tiny_folder, PROMPTS, 6, batch_sizes=(1, 2), within_s=30, most_users=4, price_per_hour=0.36)
    for times in (found["first_token_ms"], found["latency_ms"]):
        assert 0 < times["p50"] <= times["p95"]
    assert found["first_token_ms"]["p50"] < found["latency_ms"]["p50"]
    assert set(found["throughput_by_batch"]) == {"1", "2"}
    assert found["throughput_per_s"] == found["throughput_by_batch"]["2"]
    assert found["concurrent_users"] == {"users": 4, "within_s": 30, "at_least": True}
    assert 50 * 2**20 < found["peak_memory_bytes"] < 8 * 2**30
    assert found["parameters"] == tiny.parameters and found["bytes_on_disk"] == os.path.getsize(
        f"{tiny_folder}/model.safetensors"
    )
    assert found["tokens_per_request"][0] > 10 and 0 < found["tokens_per_request"][1] <= 6
    assert found["cost_per_1k_usd"] == pytest.approx(0.1 / found["throughput_per_s"], abs=1e-4)


class Clock:
    """A model that takes as long as it says: one unit for a wave of one, and one more for each further request."""

    def __init__(self):
        self.waves = []

    def first(self, prompt):
        return 0.1, 0.5

    def wave(self, prompts):
        self.waves.append(len(prompts))
        return [(1.0 + 0.25 * i, 10, 2) for i in range(len(prompts))]


@pytest.mark.parametrize(("within", "users", "at_least"), [(0.5, 0, False), (1.0, 1, False), (1.25, 2, False),
                                                           (1.8, 4, False), (2.75, 8, True)])  # fmt: skip
def test_users_are_the_largest_wave_answered_in_time(within, users, at_least):
    clock = Clock()
    request = {"prompts": PROMPTS, "max_new_tokens": 4, "batch_sizes": [1, 4], "within_s": within, "most_users": 8}
    found = run_waves(request, clock.first, clock.wave, lambda: 7)
    assert found["concurrent_users"] == {"users": users, "within_s": within, "at_least": at_least}
    assert found["throughput_by_batch"] == {"1": 1.0, "4": round(4 / 1.75, 2)}
    assert found["latency_ms"] == {"p50": 500.0, "p95": 500.0} and found["first_token_ms"]["p50"] == 100.0
    assert found["tokens_per_request"] == [10, 2] and found["peak_memory_bytes"] == 7
    assert len(clock.waves) == len(set(clock.waves)) + 1, "no wave is sent twice, but for the warm-up"


def test_a_price_by_the_token_goes_before_one_by_the_hour():
    measured = {"throughput_per_s": 10.0, "tokens_per_request": [500.0, 100.0]}
    assert cost_per_1k(measured) is None
    assert cost_per_1k(measured, price_per_hour=3.6) == 0.1
    assert cost_per_1k(measured, 3.6, (2.0, 8.0)) == pytest.approx(1.8)


def streaming(number, body, text="neutral", first=0.0, rest=0.0):
    """A reply as a server streams it when asked to."""
    if not body.get("stream"):
        return Reply(completion(text).body, after=rest)
    pieces = [{"role": "assistant", "content": ""}, {"content": text[:3]}, {"content": text[3:]}]
    events = "".join(
        "data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                               "choices": [{"index": 0, "delta": piece, "finish_reason": None}]}) + "\n\n"
        for piece in pieces
    )  # fmt: skip
    return Reply((events + "data: [DONE]\n\n").encode(), headers={"Content-Type": "text/event-stream"}, after=first)


def test_a_served_model_is_measured_through_http(tmp_path):
    def script(number, body):
        return streaming(number, body, first=0.05, rest=0.3)

    with Server(script) as server:
        started = time.perf_counter()
        found = measure(
            f"endpoint:tiny@{server.url}", PROMPTS, 6, batch_sizes=(1, 4), most_users=8, price_per_token=(2.0, 8.0)
        )
        assert time.perf_counter() - started < 60
        asked = [request["body"] for request in server.requests]
        assert server.most_at_once == 8, "a wave is sent at once"
    assert 50 <= found["first_token_ms"]["p50"] <= found["latency_ms"]["p50"] < 290
    assert sum(bool(body.get("stream")) for body in asked) == 13
    assert all(body["temperature"] == 0 and body["max_tokens"] == 6 for body in asked)
    assert found["concurrent_users"] == {"users": 8, "within_s": 2.0, "at_least": True}
    assert 4 < found["throughput_by_batch"]["4"] <= 4 / 0.3
    assert found["tokens_per_request"] == [12.0, 3.0]
    assert found["cost_per_1k_usd"] == pytest.approx(1000 * (2 * 12 + 8 * 3) / 1e6)
    assert found["peak_memory_bytes"] > 50 * 2**20, "the server runs in this very process"
    assert found["parameters"] is None


def test_a_server_that_fails_is_an_error_without_its_words():
    with Server(lambda number, body: problem(500)) as server:
        with pytest.raises(RuntimeError, match="HTTP 500") as error:
            measure(f"endpoint:tiny@{server.url}", PROMPTS, 6)
    assert "planted" not in str(error.value)
    with pytest.raises(RuntimeError, match="no prompts"):
        measure(f"endpoint:tiny@{server.url}", [], 6)


def rows(count=6):
    labels = ("entailment", "neutral", "contradiction")
    return [
        Example(f"e{i}", "nli", [{"role": "user", "content": f"Premise: £{i}."}], labels[i % 3]) for i in range(count)
    ]


def test_an_endpoint_is_evaluated_beside_a_local_model(tiny_folder, tmp_path):
    out = tmp_path / "results.json"
    with Server(lambda number, body: streaming(number, body)) as server:
        models = {"student": tiny_folder, "q8_0": f"endpoint:tiny@{server.url}"}
        files = {"q8_0": tmp_path / "tiny"}
        results = evaluate(models, rows(), out=out, costs=False, files=files)
        asked = len(server.requests)
        again = evaluate(models, rows(), out=out, costs=False, files=files)
        assert len(server.requests) == asked, "kept answers are not asked again"
    assert again["rows"][1]["metrics"] == results["rows"][1]["metrics"]
    row = results["rows"][1]
    assert row["role"] == "q8_0" and row["metrics"]["accuracy"]["value"] == pytest.approx(2 / 6)
    assert row["bytes_on_disk"] > 10_000 and row["parameters"] is None
    assert [(c["a"], c["b"]) for c in results["comparisons"]] == [("q8_0", "student")]
    assert "q8_0" in table(results)


def test_a_row_that_stays_unanswered_is_no_wrong_answer():
    def script(number, body):
        return problem(400) if "£4" in body["messages"][-1]["content"] else "neutral"

    with Server(script) as server:
        with pytest.raises(RuntimeError, match=r"1 of 6 rows were not answered.*'e4'.*HTTP 400"):
            evaluate({"student": f"endpoint:tiny@{server.url}"}, rows(), costs=False)


def test_a_gguf_file_is_weighed(tmp_path):
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_tensor("a", np.zeros((4, 8), np.float16))
    writer.add_tensor("b", np.zeros(5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert weigh(tmp_path / "tiny.gguf") == (37, os.path.getsize(tmp_path / "tiny.gguf"))
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(b"12345")
    assert weigh(tmp_path / "deep") == (None, 5)


def test_the_command_measures_further_models_and_weighs_their_files(tiny_folder, tmp_path, capsys):
    test, out = tmp_path / "test.jsonl", tmp_path / "results.json"
    write_records(test, rows(3))
    with Server(streaming) as server:
        command = ["evaluate", "--student", tiny_folder, "--also", f"q8_0=endpoint:tiny@{server.url}", "--file",
                   f"q8_0={tiny_folder}", "--within", "0.5", "--price-per-hour", "0.1", "--test", str(test), "--out", str(out)]  # fmt: skip
        assert main(command) == 0
    student, served = json.loads(out.read_text())["rows"]
    assert student["concurrent_users"]["within_s"] == served["concurrent_users"]["within_s"] == 0.5
    assert served["bytes_on_disk"] > student["bytes_on_disk"], "a folder is weighed with all its files"
    assert served["first_token_ms"]["p50"] > 0 and served["cost_per_1k_usd"] > 0
    assert main(["evaluate", "--student", tiny_folder, "--also", "no-model", "--test", str(test)]) == 1
    assert "--also takes LABEL=MODEL" in capsys.readouterr().err
