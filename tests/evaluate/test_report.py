"""The report card: what it says, that it stands alone, and that nothing a model wrote is ever run."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from slmops_utils.__main__ import main
from slmops_utils.evaluate.report import report
from slmops_utils.evaluate.slices import KINDS, kind, learning_curve, slices
from slmops_utils.records import Example, write_records

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = (
    "</div></details><script>document.title='owned'</script>"
    "<img src=http://127.0.0.1:9/stolen onerror=\"document.title='owned'\">"
    '"><svg onload="document.title=\'owned\'">$\\frac{1}{0}$ &lt;b&gt; javascript:alert(1)'
)


def score(value):
    return {"value": value, "ci95": [max(0.0, value - 0.1), min(1.0, value + 0.1)]}


def results(**changes):
    made = {
        "task": "nli", "n_test": 6, "seed": 0, "date": "2026-11-24",
        "hardware": {"cores": 2, "dtype": "float32"},
        "rows": [
            {"model": "data/teacher", "role": "teacher", "parameters": 134_515_008, "bytes_on_disk": 278_884_608,
             "metrics": {"accuracy": score(0.75), "macro_f1": score(0.5)}, "latency_ms": {"p50": 460.0, "p95": 500.0},
             "throughput_per_s": 3.0, "peak_memory_bytes": 1310 * 2**20, "cost_per_1k_usd": None},
            {"model": "build/student", "role": "student", "parameters": 23_000_000, "bytes_on_disk": 46_000_000,
             "metrics": {"accuracy": score(0.5), "macro_f1": score(0.4)}, "latency_ms": {"p50": 74.0, "p95": 80.0},
             "throughput_per_s": 15.7, "peak_memory_bytes": 679 * 2**20, "cost_per_1k_usd": None},
        ],
        "reference_rows": {"majority class": {"accuracy": score(0.33), "macro_f1": score(0.17)}},
        "comparisons": [{"a": "student", "b": "teacher", "metric": "accuracy", "difference": -0.25,
                         "ci95": [-0.4, -0.1], "p_value": 0.004, "p_corrected": 0.008}],
        "retention": {"value": 2 / 3, "ci95": [0.5, 0.9]},
    }  # fmt: skip
    return made | changes


def answered(number, teacher, student, text="neutral", topic="billing", difficulty="easy"):
    given = {"teacher": {"text": text, "score": teacher}, "student": {"text": text, "score": student}}
    extra = {"topic": topic, "difficulty": difficulty, "answers": given}
    return Example(
        f"r{number}", "nli", [{"role": "user", "content": f"Premise {number} {text}"}], "neutral", extra=extra
    )


@pytest.fixture
def written(tmp_path):
    """A results file with six rows of answers beside it."""

    def write(made=None, rows=None, name="road.json"):
        path = tmp_path / name
        path.write_text(json.dumps(made or results()))
        rows = rows or [answered(i, *pair, difficulty=("easy", "hard")[i % 2])
                        for i, pair in enumerate([(1, 0), (1, 1), (0, 1), (0, 0), (1, 0), (1, 1)])]  # fmt: skip
        write_records(path.with_suffix(".answers.jsonl"), rows)
        return path

    return write


def test_every_measured_cost_has_its_column(written, tmp_path):
    made = results()
    made["rows"][1] |= {"first_token_ms": {"p50": 21.4, "p95": 30.0}, "throughput_by_batch": {"1": 3.5, "16": 15.7},
                        "cost_per_1k_usd": 0.0018, "parameters": None, "bytes_on_disk": None, "peak_memory_bytes": None,
                        "concurrent_users": {"users": 8, "within_s": 2.0, "at_least": False}}  # fmt: skip
    page = report([written(made)], tmp_path / "card.html").read_text()
    for words in ("21 ms", "1: 3.5, 16: 15.7", "0.0018", "8 in 2 s", "134.5 M", "The case study&#x27;s table"):
        assert words in page or words.replace("&#x27;", "'") in page, words


class Outline(HTMLParser):
    """Every address and every handler in a page, and whether its elements close in order."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.handlers, self.ids, self.tags = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open += [tag] if tag not in self.VOID else []
        for name, value in attributes:
            self.addresses += [value] if name in ("src", "href", "xlink:href", "action", "data") else []
            self.handlers += [name] if name.startswith("on") else []
            self.ids += [value] if name == "id" else []

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_card_says_what_was_measured(written, tmp_path):
    page = report([written()], tmp_path / "card.html").read_text()
    for words in ("75.0 % (65.0 to 85.0)", "134.5 M", "460 ms", "majority class", "student is below teacher: -25.0 points",
                  "0.0080", "66.7 % (50.0 to 90.0)", "1,310 MiB", "recorded 2026-11-24", "Score against latency",
                  "Score against memory", "accuracy by topic", "accuracy by difficulty"):  # fmt: skip
        assert words in page, words
    assert "$ per 1,000 requests" not in page, "a column nobody measured is left out"
    for name, count in zip(KINDS[:3], (2, 1, 1), strict=True):
        assert f"{name} ({count})" in page
    assert page.count("<details class=row") == 4, "rows both have right are no errors"


def test_the_page_is_well_formed_and_names_no_address(written, tmp_path):
    outline = Outline(report([written()], tmp_path / "card.html").read_text())
    assert outline.open == [] and outline.handlers == []
    assert all(address.startswith("#") for address in outline.addresses)
    assert outline.tags.count("script") == 1 and "link" not in outline.tags and "iframe" not in outline.tags


def test_what_a_model_or_a_file_says_is_text(written, tmp_path):
    made = results(task=HOSTILE)
    made["rows"][1] |= {"model": HOSTILE, "role": HOSTILE}
    made["comparisons"][0]["a"] = HOSTILE
    made["reference_rows"] = {HOSTILE: {"accuracy": score(0.3)}}
    rows = [answered(i, 1, 0, HOSTILE, HOSTILE, HOSTILE) for i in range(2)]
    outline = Outline(report([written(made, rows)], tmp_path / "card.html", HOSTILE).read_text())
    assert outline.open == [] and outline.handlers == []
    assert outline.tags.count("script") == 1 and "img" not in outline.tags
    assert all(address.startswith("#") for address in outline.addresses)


def test_older_results_without_answers_costs_or_tests_are_still_a_card(tmp_path):
    bare = {"task": "nli", "n_test": 6, "rows": [{"model": "m", "role": "teacher", "parameters": 10**6, "bytes_on_disk": 1,
                                                  "metrics": {"accuracy": score(0.5)}}]}  # fmt: skip
    (tmp_path / "old.json").write_text(json.dumps(bare))
    page = report([tmp_path / "old.json"], tmp_path / "card.html").read_text()
    assert "50.0 % (40.0 to 60.0)" in page and "Paired tests" not in page and "Error analysis" not in page


@pytest.mark.parametrize("content", ["[]", "{}", "not json", '{"rows": []}', '{"rows": [{"role": "student"}]}'])
def test_a_file_that_is_no_results_file_is_named(content, tmp_path):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=r"bad\.json is no results file"):
        report([tmp_path / "bad.json"], tmp_path / "card.html")
    assert not (tmp_path / "card.html").exists()


def test_the_command_writes_one_card_of_several_files_with_a_learning_curve(written, capsys):
    paths = [written(name=f"{name}.json") for name in ("road", "small", "large")]
    for path, value in zip(paths[1:], (0.4, 0.5), strict=True):
        made = results()
        made["rows"][1]["metrics"]["accuracy"] = score(value)
        path.write_text(json.dumps(made))
    out = paths[0].parent / "card.html"
    curve = ["--curve", f"500={paths[1]}", f"2000={paths[2]}"]
    assert main(["report", "--results", str(paths[0]), str(paths[1]), "--out", str(out), *curve]) == 0
    assert str(out) in capsys.readouterr().out
    page = out.read_text()
    assert page.count("<section") == 2 and page.count("Learning curve") == 1 and "2,000" in page
    points = json.loads(paths[0].read_text())["learning_curve"]
    assert [(point["rows"], point["value"]) for point in points] == [(500, 0.4), (2000, 0.5)]
    assert main(["report", "--results", str(paths[0]), "--out", str(out), "--curve", "many.json"]) == 1
    assert "ROWS=RESULTS" in capsys.readouterr().err


def test_a_learning_curve_is_of_one_task():
    with pytest.raises(ValueError, match="one task"):
        learning_curve({1: results(), 2: results(task="qa")})
    with pytest.raises(ValueError, match="no baseline"):
        learning_curve({1: results()}, role="baseline")


def test_slices_count_their_own_rows():
    rows = [answered(0, 1, 0), answered(1, 1, 1), answered(2, 0, 0, difficulty="hard")]
    found = slices(rows, "difficulty")
    assert list(found) == ["easy", "hard"], "difficulties rise"
    assert (found["easy"]["rows"], found["easy"]["scores"]["student"]["value"]) == (2, 0.5)
    low, high = found["easy"]["scores"]["student"]["ci95"]
    assert low < 0.5 < high
    assert slices(rows, "colour") == {}
    assert kind(rows[0]) == KINDS[0] and kind(answered(1, 1, 0.5)) == KINDS[0] and kind(Example("x", "nli", [])) is None


def test_figures_follow_the_dark_mode(written, tmp_path):
    page = report([written()], tmp_path / "card.html").read_text()
    assert "prefers-color-scheme:dark" in page
    drawn = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(drawn) == 4
    for figure in drawn:
        assert "currentColor" in figure and "var(--student)" in figure and "#010203" not in figure
        assert "#000000" not in figure and 'role="img"' in figure


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_a_browser_runs_nothing_loads_nothing_and_the_keyboard_suffices(written, tmp_path):
    from playwright.sync_api import sync_playwright

    rows = [answered(i, 1, i % 2, HOSTILE, topic=("billing", HOSTILE)[i % 3 == 0]) for i in range(6)]
    made = results(task=HOSTILE)
    made["rows"][1]["model"] = HOSTILE
    path = report([written(made, rows)], tmp_path / "card.html", "The card")
    asked, errors = [], []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(color_scheme="dark")
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.goto(path.as_uri())
        assert page.locator(".count").inner_text() == "3 of 3 rows"
        page.locator("select[name=topic]").select_option(HOSTILE)
        assert page.locator(".count").inner_text() == "1 of 3 rows"
        page.locator("select[name=topic]").select_option("")
        page.locator("input[type=search]").fill("premise 2")
        assert page.locator("details.row:visible").count() == 1
        page.locator("input[type=search]").fill("")
        page.locator("input[type=search]").focus()
        for _ in range(2):  # past the button to the first row
            page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        opened = page.locator("details.row[open]")
        assert opened.count() == 1 and "r2" in opened.locator("summary").inner_text()
        assert "document.title='owned'" in opened.inner_text(), "it is shown as it was written"
        page.locator("button.open").click()
        assert page.locator("details.row[open]:visible").count() == 3
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 29)"
        assert asked == [path.as_uri()] and errors == []
        # even markup that slipped through would not run: the page's policy forbids it
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")
        page.wait_for_timeout(300)
        assert page.title() == "The card"
        browser.close()
    assert errors and all("Content Security Policy" in error for error in errors), errors
