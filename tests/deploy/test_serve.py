"""A real llama.cpp server: chat, streaming, usage, log-probabilities, many at once, a teacher over the network, the end."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import psutil
import pytest

from slmops_utils.__main__ import main
from slmops_utils.deploy.export import export
from slmops_utils.deploy.serve import HTTP_THREADS, ServeError, gguf_of, serving
from slmops_utils.evaluate.compare import evaluate
from slmops_utils.evaluate.measure import MOST_USERS, measure
from slmops_utils.models.load import load_model
from slmops_utils.records import read_records, write_records
from slmops_utils.synthesize.answer import Sampling, answer, encode_prompt
from slmops_utils.synthesize.generate import generate
from slmops_utils.tasks import get_task

NLI = get_task("nli")


@pytest.fixture(scope="module")
def taught_gguf(taught_folder, tmp_path_factory):
    return export(taught_folder, "gguf", "f16", tmp_path_factory.mktemp("gguf") / "taught.gguf")


@pytest.fixture(scope="module")
def served(taught_gguf):
    with serving(str(taught_gguf)) as found:
        yield found


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as found:
        yield found


def test_chat_with_the_openai_client(client, served, taught_folder, taught_examples):
    """The very answers of the local model, and its count of tokens."""
    source = load_model(taught_folder, "float32")
    prompts = [NLI.prompt(example) for example in taught_examples[:6]]
    for prompt, expected in zip(prompts, answer(source, prompts, Sampling(16)), strict=True):
        given = client.chat.completions.create(model=served.model, messages=prompt, max_tokens=16, temperature=0)
        assert (given.choices[0].message.content, given.choices[0].finish_reason) == (expected.text, "stop")
        assert given.usage.prompt_tokens == len(encode_prompt(source.tokenizer, prompt))
        assert given.usage.completion_tokens == expected.completion_tokens
        assert given.model == served.model == "taught"


def test_streaming_gives_the_same_text_in_pieces(client, served, taught_examples):
    asked = {"model": served.model, "messages": NLI.prompt(taught_examples[0]), "max_tokens": 16, "temperature": 0}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    texts = [piece.choices[0].delta.content for piece in pieces if piece.choices and piece.choices[0].delta.content]
    assert len(texts) > 1 and "".join(texts) == whole
    assert pieces[-1].usage.completion_tokens >= len(texts)


def test_top_logprobs_are_those_of_the_model(client, served, taught_folder, taught_examples):
    import torch

    source, prompt = load_model(taught_folder, "float32"), NLI.prompt(taught_examples[0])
    given = client.chat.completions.create(
        model=served.model, messages=prompt, max_tokens=1, temperature=0, logprobs=True, top_logprobs=5
    )
    ids = torch.tensor([encode_prompt(source.tokenizer, prompt)])
    with torch.no_grad():
        expected = source.model(ids).logits[0, -1].log_softmax(-1).topk(5)
    listed = given.choices[0].logprobs.content[0].top_logprobs
    assert [token.id for token in listed] == expected.indices.tolist()
    assert [token.logprob for token in listed] == pytest.approx(expected.values.tolist(), abs=0.02)


def test_sampling_at_temperature_1_cuts_nothing_off(client, served, taught_examples):
    """Our own sampling does not either; llama.cpp by itself would keep to the 40 likeliest tokens over 5 % of the best."""
    props = json.load(urllib.request.urlopen(served.url.removesuffix("/v1") + "/props"))
    chosen = props["default_generation_settings"]["params"]
    assert (chosen["top_k"], chosen["top_p"], chosen["min_p"], chosen["temperature"]) == (0, 1.0, 0.0, 1.0)


def test_health_and_who_may_ask(served):
    root = served.url.removesuffix("/v1")
    assert json.load(urllib.request.urlopen(root + "/health")) == {"status": "ok"}
    assert {c.laddr.ip for c in psutil.Process(served.pid).net_connections() if c.status == "LISTEN"} == {"127.0.0.1"}
    page = urllib.request.Request(root + "/health", headers={"Origin": "https://example.org"})
    assert urllib.request.urlopen(page).headers.get("Access-Control-Allow-Origin") not in ("*", "https://example.org")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(root + "/slots")  # other users' prompts


def test_what_does_not_fit_is_said(client, served):
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(model=served.model, messages=[{"role": "user", "content": "fee " * 5000}])


def test_500_requests_at_concurrency_8(client, served, taught_examples):
    prompts = [NLI.prompt(taught_examples[i % len(taught_examples)]) for i in range(500)]

    def ask(prompt):
        given = client.chat.completions.create(model=served.model, messages=prompt, max_tokens=16, temperature=0)
        return given.choices[0].message.content, given.choices[0].finish_reason

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, prompts))
    assert len(answers) == 500 and {reason for _, reason in answers} == {"stop"}
    first = answers[: len(taught_examples)]  # the same question gets the same answer
    same = [given == first[i % len(first)] for i, given in enumerate(answers)]
    assert sum(same) > 490  # half precision may see a near tie another way in another batch


def test_waves_of_clients_that_keep_their_connections_are_not_held_up(served):
    """With few threads for HTTP, about one wave of 16 or 32 in seventy waits five seconds for a connection to be given up."""
    assert HTTP_THREADS > MOST_USERS

    async def waves() -> float:
        slowest = 0.0
        for _ in range(50):
            async with openai.AsyncOpenAI(base_url=served.url, api_key="none", max_retries=0) as client:
                for size in (1, 16, 32):
                    asked = {"model": served.model, "max_tokens": 1, "temperature": 0}
                    calls = (
                        client.chat.completions.create(messages=[{"role": "user", "content": f"{i}"}], **asked)
                        for i in range(size)
                    )
                    started = time.perf_counter()
                    await asyncio.gather(*calls)
                    slowest = max(slowest, time.perf_counter() - started)
        return slowest

    assert asyncio.run(waves()) < 4


def test_the_serving_process_holds_the_model_and_no_training_library(served):
    mapped = {Path(entry.path).name for entry in psutil.Process(served.pid).memory_maps()}
    assert any(name.startswith("xllamacpp") for name in mapped)
    assert not [name for name in mapped if "torch" in name]


def test_it_is_a_teacher_over_the_network(served, taught_folder, taught_examples, tmp_path):
    """Scores and answers through `generate` and `evaluate` as the local model's are."""
    report = generate(served.endpoint, taught_examples, tmp_path / "out.jsonl", Sampling(16))
    assert (report["asked"], report["failures"], report["bill"]["requests"]) == (
        len(taught_examples),
        {},
        len(taught_examples),
    )
    answered = list(read_records(tmp_path / "out.jsonl"))
    assert {example.response.finish_reason for example in answered} == {"stop"}
    models = {"teacher": taught_folder, "served": served.endpoint}
    results = evaluate(models, taught_examples, costs=False, files={"served": served.file})
    local, remote = results["rows"]
    assert local["metrics"]["accuracy"]["value"] == remote["metrics"]["accuracy"]["value"] > 0.5
    assert remote["bytes_on_disk"] == served.file.stat().st_size and remote["parameters"] == local["parameters"]


def test_its_costs_are_measured_through_http(served, taught_examples):
    """Streams among them, after each of which llama.cpp closes the connection it promised to keep."""
    found = measure(
        served.endpoint, [NLI.prompt(e) for e in taught_examples], 8, (1, 4), most_users=1, file=served.file
    )
    assert 0 < found["first_token_ms"]["p50"] <= found["latency_ms"]["p50"]
    assert set(found["throughput_by_batch"]) == {"1", "4"} and found["bytes_on_disk"] == served.file.stat().st_size
    assert found["peak_memory_bytes"] > served.file.stat().st_size


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_command_stops_cleanly_on(name, taught_gguf):
    command = [
        sys.executable,
        "-m",
        "slmops_utils",
        "serve",
        "--model",
        str(taught_gguf),
        "--port",
        "0",
        "--slots",
        "2",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    found = re.fullmatch(r"serving taught at (http://127\.0\.0\.1:\d+)/v1 \(2 slots of 1,024 tokens\); .*\n", line)
    assert found, line
    assert urllib.request.urlopen(found[1] + "/health").status == 200
    process.send_signal(getattr(signal, name))
    said, errors = process.communicate(timeout=20)
    assert (process.returncode, said, errors) == (0, "stopped\n", "")
    with pytest.raises(OSError):
        urllib.request.urlopen(found[1] + "/health")


def test_it_ends_with_the_process_that_wanted_it(taught_gguf):
    code = f"import os; from slmops_utils.deploy.serve import serving\nwith serving({str(taught_gguf)!r}) as s: print(s.pid, flush=True); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(done.stdout)
    for process in [psutil.Process(pid)] if psutil.pid_exists(pid) else []:
        process.wait(20)
    assert not psutil.pid_exists(pid)


def test_a_folder_is_exported_once_into_the_cache(taught_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SLMOPS_CACHE", str(tmp_path))
    with serving(taught_folder, slots=1) as found:
        assert found.file.parent == tmp_path / "exports" and found.model == "taught"
        assert "Q8_0" in {tensor.tensor_type.name for tensor in __import__("gguf").GGUFReader(found.file).tensors}
    made = found.file.stat().st_mtime_ns
    assert gguf_of(taught_folder).stat().st_mtime_ns == made
    copy = shutil.copytree(taught_folder, tmp_path / "copy")
    path = copy / "chat_template.jinja"
    path.write_text(path.read_text() + " ")  # another template is another model
    assert gguf_of(str(copy)) != found.file


def test_errors_say_what_is_wrong(taught_gguf, tmp_path, capsys):
    assert main(["serve", "--model", str(tmp_path / "none.gguf")]) == 1
    assert "no file" in capsys.readouterr().err
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ServeError, match=r"cannot load .*bad\.gguf: it is damaged"):
        with serving(str(tmp_path / "bad.gguf")):
            pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServeError, match="is taken"):
            with serving(str(taught_gguf), port=taken.getsockname()[1]):
                pass
    with pytest.raises(ServeError, match="no model 'nowhere'"):
        with serving("nowhere"):
            pass


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_call_of_the_notebook(served):
    """As it is written in notebook 09, the server's address put in."""
    notebook = json.loads(Path("notebooks/09_edge.ipynb").read_text(encoding="utf-8"))
    text = next("".join(c["source"]) for c in notebook["cells"] if c["id"] == "curl")
    start = text.index("curl ")
    command = text[start : text.index('"""', start)]
    assert command.startswith("curl --silent"), text
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, env=os.environ | {"URL": served.url, "MODEL": served.model}
    )
    assert json.loads(done.stdout)["choices"][0]["message"]["content"], done.stderr


def test_generate_through_it_on_the_command_line(served, taught_examples, tmp_path, capsys):
    write_records(tmp_path / "pool.jsonl", taught_examples[:4])
    command = ["generate", "--teacher", served.endpoint, "--pool", str(tmp_path / "pool.jsonl")]
    assert main([*command, "--out", str(tmp_path / "out.jsonl"), "--max-new-tokens", "16"]) == 0
    assert "$0 / $0" in capsys.readouterr().out  # what is known of the price and the terms comes first
    assert len([e for e in read_records(tmp_path / "out.jsonl") if e.response]) == 4
