"""The command line: `python -m slmops_utils COMMAND --help`. A thin face over the functions of the same names."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# in the order they run; repeated here because importing the gates takes seconds
GATE_NAMES = ("answered", "finished", "not_refused", "parsed", "length", "same_language", "agrees", "arithmetic",
              "consistent", "judged", "not_held_out", "not_repeated", "balanced")  # fmt: skip


def _print(report: dict[str, Any]) -> None:
    print(json.dumps({key: value for key, value in report.items() if key not in ("losses", "hardware")}, indent=1))


def _settings(base: Any, args: argparse.Namespace) -> Any:
    """The command's own settings with those given on the command line put over them."""
    given = {name: getattr(args, name) for name in vars(base) if getattr(args, name, None) is not None}
    return replace(base, **given)


def _read_all(paths: list[Path]) -> list[Any]:
    from .records import read_records

    return [example for path in paths for example in read_records(path)]


def _named(items: list[str], option: str, form: str) -> dict[str, Any]:
    found = dict(item.partition("=")[::2] for item in items)
    if not all(name and value for name, value in found.items()):
        raise ValueError(f"{option} takes {form}, not {' '.join(items)!r}")
    return found


def _shard(text: str) -> tuple[int, int]:
    """ "2/4" as (2, 4): the second of four processes that share some runs."""
    index, _, of = text.partition("/")
    if not (index.isdecimal() and of.isdecimal() and 1 <= int(index) <= int(of)):
        raise ValueError(f"--shard takes i/n, from 1/n to n/n, not {text!r}")
    return int(index), int(of)


def run_doctor(args: argparse.Namespace) -> int:
    from .classroom.doctor import doctor

    return doctor()


def run_data(args: argparse.Namespace) -> int:
    from .records import read_records, write_records
    from .tasks.convert import COLUMNS, convert

    columns = {role: getattr(args, role) for role in COLUMNS if getattr(args, role)}
    if args.input.suffix == ".jsonl" and not args.task and not columns:
        if not args.service_rules:
            print(f"{args.input}: {sum(1 for _ in read_records(args.input)):,} good records")
            return 0
        from .tasks.service_rules import service_violations
        from .tasks.styles import get_style

        get_style(args.service_rules)  # one that does not exist breaks no rule
        examples = _read_all([args.input])
        print(f"{args.input}: {len(examples):,} good records")
        broken = service_violations(examples, args.service_rules)
        print("\n".join(broken) if broken else "Azure's distillation service would take them")
        return int(bool(broken))
    counts = {}
    for item in args.split:
        name, _, number = item.partition("=")
        if not name or not number.removeprefix("-").isdecimal():
            raise ValueError(f"--split takes name=rows, such as train=400 or pool=-1, not {item!r}")
        counts[name] = int(number)
        if (args.out / f"{name}.jsonl").resolve() == args.input.resolve():
            raise ValueError(f"{args.input} would be written over; name another folder with --out")
    for split, examples in convert(args.input, args.task or "nli", columns, counts, args.seed).items():
        path = args.out / f"{split}.jsonl"
        print(f"{path}: {write_records(path, examples):,} records")
    return 0


def run_public(args: argparse.Namespace) -> int:
    from .records import write_records
    from .tasks.public_sets import get_public, load_public, table

    if args.list or not args.name:
        print(table())
        return 0
    public = get_public(args.name, args.split)
    examples, counts = load_public(args.name, args.split, args.limit, args.folder, args.stream)
    path = args.out or Path(f"{args.name}-{args.split}.jsonl")
    print(f"{path}: {write_records(path, examples):,} {public.task} records; licence: {public.licence}")
    for reason, rows in counts.items():
        print(f"  {rows:,} rows {reason}")
    return 0


def run_correct(args: argparse.Namespace) -> int:
    from .distill.correct import TEACHER, correct

    _print(correct(_read_all(args.data), args.out, args.model, _settings(TEACHER, args), stop_after=args.stop_after,
                   sources=[path.as_posix() for path in args.data]))  # fmt: skip
    return 0


def run_generate(args: argparse.Namespace) -> int:
    from .records import RecordFile
    from .synthesize.answer import Sampling
    from .synthesize.budget import Caps
    from .synthesize.endpoint import Network
    from .synthesize.estimate import estimate_table
    from .synthesize.generate import default_sampling, dry_run, generate

    pool = RecordFile(args.pool)[: args.limit]
    most = args.max_new_tokens or default_sampling(pool[:1], args.style).max_new_tokens
    sampling = Sampling(most, args.temperature, args.top_p, args.seed, args.top_logprobs)
    network = Network(args.concurrency, seconds=args.timeout, success_ratio=args.success_ratio)
    several = args.samples > 1
    if several and len(args.teacher) > 1:
        raise ValueError("--samples draws several answers from one teacher; a committee gives one answer each")
    if len(args.teacher) > 1 and not args.committee:
        raise ValueError(
            "several teachers are a committee: say how it decides, --committee majority, weighted or average"
        )
    if args.dry_run:
        from .synthesize.committee import member_file
        from .synthesize.samples import expand

        for number, teacher in enumerate(args.teacher, start=1):
            parts: dict[Path, Any] = {args.out: expand(pool, args.samples) if several else pool}
            if len(args.teacher) > 1:
                parts = {member_file(args.out, number, teacher): pool}
                if args.committee == "weighted":
                    parts[member_file(args.out, number, teacher, "validation-")] = _read_all(args.validation)
            for out, rows in parts.items():
                if len(args.teacher) > 1:
                    print(f"{out}:")
                print(estimate_table(dry_run(teacher, rows, out, sampling, network=network, price=args.price, style=args.style, history=args.history)))  # fmt: skip
        return 0
    options: dict[str, Any] = {
        "sampling": sampling, "batch_size": args.batch_size, "network": network, "price": args.price, "style": args.style, "history": args.history,
        "caps": Caps(args.max_dollars, args.max_tokens, args.max_requests),
    }  # fmt: skip
    if len(args.teacher) > 1:
        from .synthesize.committee import generate_committee

        report = generate_committee(args.teacher, pool, args.out, args.committee, _read_all(args.validation), args.labels, **options)  # fmt: skip
    elif several:
        from .synthesize.samples import generate_samples

        report = generate_samples(args.teacher[0], pool, args.out, args.samples, args.labels, **options)
    else:
        report = generate(args.teacher[0], pool, args.out, **options)
    if "rank" not in report:  # under torchrun, rank 0 speaks for all
        _print(report)
    if report.get("ended_early"):
        print(f"ended early: {report['ended_early']}. The same command goes on from here.", file=sys.stderr)
    return int(bool(report.get("ended_early")))


def run_filter(args: argparse.Namespace) -> int:
    from .synthesize.gates import Rules, filter_file, table

    rules = Rules(_read_all(args.against), args.labels, args.most_words, args.similarity, args.balance, args.agreement,
                  args.least_score)  # fmt: skip
    gates = [name for name in args.gates if name not in args.skip]
    source = args.input
    if args.judge:
        from .records import RecordFile, write_records
        from .synthesize.budget import Caps
        from .synthesize.judge import RUBRIC, judge

        rubric = args.rubric.read_text(encoding="utf-8") if args.rubric else RUBRIC
        examples, judging = judge(args.judge, RecordFile(args.input), args.out.with_suffix(".judge.jsonl"), rubric,
                                  caps=Caps(args.max_dollars), price=args.price)  # fmt: skip
        _print(judging)
        if judging.get("ended_early"):
            print(
                f"the judge ended early: {judging['ended_early']}. The same command goes on from here.", file=sys.stderr
            )
            return 1
        source = args.out.with_suffix(".judged.jsonl")
        write_records(source, examples)
    beside = args.out.with_suffix(".dropped.jsonl")
    report = filter_file(source, args.out, beside, rules, gates)
    print(table(report))
    kept, dropped = report[-1]["kept"], sum(gate["dropped"] for gate in report)
    print(f"{args.out}: {kept:,} kept; {beside}: {dropped:,} dropped, each with its reason under 'gates'")
    return 0


def run_shrink(args: argparse.Namespace) -> int:
    from .distill.dataset import lesson_texts
    from .models.carve import save, shrink
    from .models.load import load_model

    layers = [int(i) for i in args.layers.split(",")] if "," in args.layers else int(args.layers)
    texts = lesson_texts(_read_all(args.vocabulary_from)) if args.vocabulary_from else None
    student = shrink(load_model(args.model), layers, args.rule, texts)
    save(student, str(args.out))
    origin = {"parent": args.model, "layers": args.layers, "rule": args.rule}
    (args.out / "shrink.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    print(f"{args.out}: {student.parameters / 1e6:.1f} M parameters, {len(student.tokenizer):,} tokens, {student.name}")
    return 0


def run_distill(args: argparse.Namespace) -> int:
    from .deploy.model_card import remember_training
    from .distill.distill import STUDENT, distill
    from .distill.methods import NEED_NO_TEACHER
    from .progress import is_main_process

    examples, settings = _read_all(args.data), _settings(STUDENT, args)
    validation = list(_read_all([args.validation]))[: args.validation_limit] if args.validation else []
    report = distill(args.student, examples, args.out, settings, validation, args.validation_every,
                     teacher=args.teacher, soft_targets=args.soft_targets, tokenizer_of=args.tokenizer_of,
                     journals=args.journal, rationale=args.rationale)  # fmt: skip
    if not is_main_process():
        return 0
    _print(report)
    teachers = [] if settings.method in NEED_NO_TEACHER else args.teacher or []
    print(f"model card: {remember_training(args.out, args.student, args.data, examples, teachers)}")
    return 0


def run_ablate(args: argparse.Namespace) -> int:
    from .evaluate.ablate import Ablation, ablate

    shard = _shard(args.shard)
    default = Ablation()
    settings = _settings(default.settings, args)
    if args.max_steps and args.seconds is None:
        settings = replace(settings, seconds=0.0)  # steps were asked for, not a time
    untuned = _named(args.untuned, "--untuned", "TASK=FOLDER")
    for run in ablate(replace(_settings(default, args), settings=settings, untuned=untuned), shard):
        print(f"{run['task']:<14} {run['method']:<13} seed {run['seed']}  {run['steps']:>6,} steps  {run['seconds']:>6,.0f} s  "
              f"{run['tokens_per_s']:>6,} tokens/s  test {100 * run['test']['score']:5.1f} %", flush=True)  # fmt: skip
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    from .deploy.model_card import has_card, remember_scores
    from .evaluate.compare import ROLES, evaluate, table
    from .tasks import choose_shots

    models = {role: getattr(args, role) for role in ROLES if getattr(args, role)}
    models |= _named(args.also, "--also", "LABEL=MODEL")
    if not models:
        print(f"name at least one model: {', '.join('--' + role for role in ROLES)}", file=sys.stderr)
        return 2
    train = _read_all(args.train) if args.train else []
    shots = choose_shots(train, args.shots)
    results = evaluate(models, _read_all([args.test])[: args.limit], train, args.out, shots, not args.no_costs,
                       args.price_per_hour, args.seed, args.price_per_token, args.within,
                       _named(args.file, "--file", "LABEL=PATH"), not args.no_answers)  # fmt: skip
    print(table(results))
    for role, name in models.items():
        if has_card(name):
            remember_scores(name, results, role, args.test.name)
    return 0


def run_study(args: argparse.Namespace) -> int:
    from .evaluate.study import Setting, plans_of, read_study, run_study, study_table
    from .evaluate.study_gates import MATH, plans
    from .evaluate.study_teachers import committee_plan, rationale_plans

    out, work = args.out / args.study, args.work / args.study
    if not args.show:
        shard = _shard(args.shard)
        setting, math = _settings(Setting(), args), _settings(MATH, args)
        math = replace(math, layers=MATH.layers if args.math_layers is None else args.math_layers)
        if args.study == "committee":
            todo = [lambda: committee_plan(setting, work, args.member)]
        else:
            known = (plans if args.study == "gates" else rationale_plans)(setting, math, work)
            todo = plans_of(args.tasks, known, setting.name)
        made = run_study(args.study, todo, out, work, args.seeds, shard)
        print(f"{made} runs made")
    lines = read_study(out)
    print(study_table(lines) if lines else f"{out}: nothing recorded yet")
    return 0


def run_report(args: argparse.Namespace) -> int:
    from .evaluate.report import read_results, report
    from .evaluate.slices import learning_curve
    from .records import atomic_writer

    if args.curve:
        by_rows = {}
        for item in args.curve:
            rows, _, path = item.partition("=")
            if not rows.isdecimal() or not path:
                raise ValueError(f"--curve takes ROWS=RESULTS, such as 500=small.json, not {item!r}")
            by_rows[int(rows)] = read_results(path)
        first = json.loads(args.results[0].read_text(encoding="utf-8"))
        with atomic_writer(args.results[0]) as file:
            json.dump(first | {"learning_curve": learning_curve(by_rows)}, file, indent=1)
            file.write("\n")
    print(report(args.results, args.out, args.title))
    return 0


def run_curve(args: argparse.Namespace) -> int:
    from .evaluate.runs import read_runs
    from .evaluate.sizes import Study, choose, plan_curve, plan_final, run_study

    study, shard = _settings(Study(), args), _shard(args.shard)
    if args.final:
        recorded = read_runs(study.results)
        runs = [run for task in args.tasks for run in plan_final(task, choose(recorded, task, args.keep), args.seeds)]
    else:
        runs = [run for task in args.tasks for run in plan_curve(task, args.sizes, args.rules)]
    print(f"{run_study(runs, study, shard)} of {len(runs)} runs made now; results in {study.results}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    from .deploy.export import export
    from .evaluate.measure import weigh

    path = export(args.model, args.format, args.precision, args.out)
    print(f"{path}: {weigh(path)[1] / 1e6:.1f} MB, {args.format} {args.precision}")
    if args.test:
        from .deploy.check import check_export, verdict

        found = check_export(args.model, path, _read_all([args.test])[: args.limit], args.precision)
        print(verdict(found, args.precision))
        return int(not found["passed"])
    return 0


def run_serve(args: argparse.Namespace) -> int:
    from .deploy.serve import serve

    return serve(args.model, args.port, args.slots, args.context, args.threads, args.until_stdin_closes)


def run_course(args: argparse.Namespace) -> int:
    from .classroom.course import run_course

    report = run_course(args.notebooks, args.out, use_overrides=args.short, only=args.only)
    return int(any(notebook["status"] != "ok" for notebook in report["notebooks"]))


def build_parser() -> argparse.ArgumentParser:
    from .tasks.convert import COLUMNS

    parser = argparse.ArgumentParser(
        prog="python -m slmops_utils", description="Distil a large model into a small one."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        return sub

    def training(sub: argparse.ArgumentParser) -> None:
        for name, kind in (("epochs", float), ("max_steps", int), ("batch_size", int), ("gradient_accumulation", int),
                           ("learning_rate", float), ("lora_rank", int), ("seed", int), ("save_steps", int)):  # fmt: skip
            sub.add_argument(f"--{name.replace('_', '-')}", type=kind)

    command("doctor", run_doctor, "say what this machine is, what it will use, and whether everything is in place")

    sub = command("data", run_data, "check a file of records, or convert a table of your own into records")
    sub.add_argument(
        "input", type=Path, help="records to check (.jsonl); or a .jsonl, .csv or `datasets` folder to convert"
    )
    sub.add_argument("--task", help="convert into records of this task: nli, qa, math, conversation, summarization")
    for role, holds in COLUMNS.items():
        sub.add_argument(f"--{role}", metavar="COLUMN", help=f"the column with {holds}")
    sub.add_argument(
        "--split",
        nargs="+",
        default=["train=-1"],
        help="name=rows, cut in this order; -1 is the rest; pool loses its labels",
    )
    sub.add_argument("--out", type=Path, default=Path("."))
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument(
        "--service-rules", nargs="?", const="plain", metavar="STYLE",
        help="also name every rule of Azure's distillation service that the records break (STYLE: chain_of_thought, ...)",
    )  # fmt: skip

    sub = command("public", run_public, "fetch a public data set by name and write it as records")
    sub.add_argument("name", nargs="?", help="without one, the sets there are")
    sub.add_argument("--list", action="store_true", help="every set: task, place, revision, splits, licence")
    sub.add_argument("--split", default="train", help="train, validation or test")
    sub.add_argument("--limit", type=int, help="so many records at most")
    sub.add_argument("--from", dest="folder", type=Path, help="a copy of the set's repository on this disk")
    sub.add_argument("--stream", action="store_true", help="fetch only the rows that are read, and cache nothing")
    sub.add_argument("--out", type=Path, help="default: NAME-SPLIT.jsonl")

    sub = command("correct", run_correct, "fine-tune a teacher on labels with LoRA")
    sub.add_argument("--data", type=Path, nargs="+", required=True, help="labelled records")
    sub.add_argument("--model", default="embedded")
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument(
        "--stop-after", type=int, help="end after so many steps; without it the run would go on from there"
    )
    training(sub)

    sub = command("generate", run_generate, "let a teacher answer a pool; kill it and call it again to go on")
    sub.add_argument("--teacher", required=True, action="append", help="a model name; several are a committee")
    sub.add_argument("--pool", type=Path, required=True)
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--limit", type=int, help="only the first so many")
    sub.add_argument("--temperature", type=float, default=0.0)
    sub.add_argument("--top-p", type=float, default=1.0)
    sub.add_argument("--max-new-tokens", type=int)
    sub.add_argument("--batch-size", type=int, default=32)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--style", default="plain", help="plain, chain_of_thought (nli, qa, math) or chain_of_density "
                     "(summarization): the reasons are kept beside the answer")  # fmt: skip
    sub.add_argument("--history", default="own", choices=("own", "written"), help="what stands in a conversation as the "
                     "earlier answers: the teacher's own, asked turn by turn (default), or those in the records")  # fmt: skip
    sub.add_argument(
        "--samples", type=int, default=1, help="so many answers to each prompt; the one most agree on is kept"
    )
    sub.add_argument("--committee", choices=("majority", "weighted", "average"), help="how several teachers decide")
    sub.add_argument("--validation", type=Path, nargs="*", default=[], help="labelled records that weigh the teachers")
    sub.add_argument("--labels", nargs="*", default=[], help="of a closed set (default: read from the data)")
    sub.add_argument(
        "--dry-run", action="store_true", help="say what it would take in requests, tokens, dollars, hours"
    )
    over = sub.add_argument_group(
        "a teacher over the network, --teacher endpoint:MODEL@PRESET or endpoint:MODEL@http://…"
    )
    over.add_argument("--price", type=float, nargs=2, metavar=("IN", "OUT"), help="US dollars per million tokens")
    over.add_argument(
        "--max-dollars", type=float, help="the most this journal (or all of a committee) may spend, over all runs"
    )
    over.add_argument("--max-tokens", type=int)
    over.add_argument("--max-requests", type=int)
    over.add_argument("--concurrency", type=int, default=8)
    over.add_argument("--timeout", type=float, default=120.0, help="seconds for one attempt")
    over.add_argument("--top-logprobs", type=int, default=0, help="keep so many likely tokens of each place in the journal: "
                      "soft targets for `distill`")  # fmt: skip
    over.add_argument("--success-ratio", type=float, default=0.7, help="stop when fewer calls succeed")

    sub = command("filter", run_filter, "keep the answers that pass the quality gates, and say why the others do not")
    sub.add_argument("--in", dest="input", type=Path, required=True, help="what generate wrote")
    sub.add_argument("--against", type=Path, nargs="*", default=[], help="validation, test and challenge records")
    sub.add_argument("--out", type=Path, required=True, help="dropped records go beside it, to NAME.dropped.jsonl")
    sub.add_argument("--gates", nargs="*", default=list(GATE_NAMES), metavar="GATE", help=" ".join(GATE_NAMES))
    sub.add_argument("--skip", nargs="*", default=[], metavar="GATE")
    sub.add_argument("--labels", nargs="*", default=[], help="of a closed set (default: read from the data)")
    sub.add_argument("--most-words", type=int, default=400)
    sub.add_argument("--similarity", type=float, default=0.8, help="from which two questions count as the same")
    sub.add_argument("--balance", type=float, default=3.0, help="no class or topic over so many times the median")
    sub.add_argument("--agreement", type=float, default=0.5, help="the share of samples that has to say the same")
    sub.add_argument("--judge", metavar="MODEL", help="let this model grade every answer from 1 to 5 first")
    sub.add_argument("--rubric", type=Path, help="a text file: what each grade means")
    sub.add_argument("--least-score", type=int, default=3, help="the lowest grade that passes")
    sub.add_argument("--max-dollars", type=float, help="the most that the judge may cost, over all runs")
    sub.add_argument(
        "--price", type=float, nargs=2, metavar=("IN", "OUT"), help="the judge's, dollars per million tokens"
    )

    sub = command("shrink", run_shrink, "carve a student out of a teacher: fewer layers, a smaller vocabulary")
    sub.add_argument("--model", required=True)
    sub.add_argument("--layers", default="6", help="how many to keep, or which: 0,5,29")
    sub.add_argument("--rule", default="even", choices=("even", "early", "influence"))
    sub.add_argument("--vocabulary-from", type=Path, nargs="*", help="records whose tokens to keep (default: keep all)")
    sub.add_argument("--out", type=Path, required=True)

    sub = command("distill", run_distill, "train a student on a teacher's answers, on labels, or on both")
    sub.add_argument("--student", required=True)
    sub.add_argument("--data", type=Path, nargs="+", required=True)
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--method", help="text (default), forward_kl, reverse_kl, jsd, skewed_kl, hidden, attention, on_policy "
                     "or step_by_step")  # fmt: skip
    sub.add_argument("--teacher", action="append", help="a model name; every method but text compares the student with "
                     "it. Several: the mean of their log-probabilities")  # fmt: skip
    sub.add_argument("--rationale", default="as_written", choices=("as_written", "with", "without"),
                     help="train on the teacher's reasons, or on its answer alone")  # fmt: skip
    sub.add_argument(
        "--soft-targets", type=Path, help="where the teacher's log-probabilities are kept (OUT/soft_targets)"
    )
    sub.add_argument("--journal", type=Path, nargs="*", default=[], help="of `generate --top-logprobs`, for a teacher that "
                     "is an endpoint")  # fmt: skip
    sub.add_argument("--tokenizer-of", help="a model name or folder with that teacher's tokenizer")
    sub.add_argument("--temperature", type=float, help="softens teacher and student alike")
    sub.add_argument("--alpha", type=float, help="weight of the text's own tokens: 0 teacher only, 1 text only")
    sub.add_argument("--top-k", type=int, help="how many of the teacher's likeliest tokens are kept")
    sub.add_argument("--beta", type=float, help="jsd: towards 0 like forward_kl, towards 1 like reverse_kl")
    sub.add_argument("--layer-map", help="hidden, attention: student:teacher layers, as in 0:0,5:29 (default: evenly)")
    sub.add_argument("--hidden-loss", choices=("cosine", "mse"))
    sub.add_argument("--attention-loss", choices=("values", "maps"))
    sub.add_argument("--on-policy-share", type=float, help="on_policy: share of rows the student answers itself")
    sub.add_argument("--sampling-temperature", type=float, help="on_policy: how freely it does")
    sub.add_argument("--sample-tokens", type=int, help="on_policy: the longest answer it may give")
    sub.add_argument("--rationale-weight", type=float, help="step_by_step: of rationales, beside 1 of labels")
    sub.add_argument("--validation", type=Path, help="labelled records that are not trained on")
    sub.add_argument("--validation-limit", type=int, help="only the first so many of them")
    sub.add_argument("--validation-every", type=int, default=50, metavar="STEPS")
    sub.add_argument("--patience", type=int, help="end after so many scores on --validation without a better one, and keep "
                     "the weights that scored best")  # fmt: skip
    sub.add_argument("--skew", type=float, help="skewed_kl: how much of the teacher is mixed into the student")
    training(sub)

    sub = command("ablate", run_ablate, "compare the methods: one start, the same rows and time, several seeds")
    sub.add_argument("--teacher", help="a model name (data/teacher)")
    sub.add_argument("--tasks", nargs="+", help="default: nli qa")
    sub.add_argument("--name", help="what the results call the one task of data that are your own")
    sub.add_argument("--methods", nargs="+", help="default: start (no training), labels and every method of distill")
    sub.add_argument("--seeds", nargs="+", type=int, help="default: 0 1 2")
    sub.add_argument("--untuned", nargs="+", default=[], metavar="TASK=FOLDER", help="what the students start from; "
                     "carved out of the teacher where none is named")  # fmt: skip
    sub.add_argument("--layers", type=int, help="how many a carved start keeps (6)")
    sub.add_argument("--rule", choices=("early", "even", "influence"), help="which those are (early)")
    for name in ("train", "answered", "validation", "test"):
        sub.add_argument(f"--{name}", metavar="PATTERN", help="records; {task} stands for the task's name")
    sub.add_argument("--seconds", type=float, help="how long each run trains (120); with --max-steps, steps decide")
    sub.add_argument("--max-steps", type=int)
    sub.add_argument("--batch-size", type=int)
    sub.add_argument("--learning-rate", type=float)
    sub.add_argument("--limit", type=int, help="only the first so many rows of validation and test")
    sub.add_argument(
        "--shard", default="1/1", metavar="I/N", help="only every n-th run from the i-th on, for n processes"
    )
    sub.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")
    sub.add_argument("--out", type=Path, help="one JSON file a run; those that are there are not run again")
    sub.add_argument("--work", type=Path, help="for soft targets and checkpoints (build/ablate)")

    sub = command("evaluate", run_evaluate, "score models on the same test rows, with intervals and costs")
    for role in ("teacher", "untuned", "baseline", "student"):
        sub.add_argument(f"--{role}", help="a model name")
    sub.add_argument("--test", type=Path, required=True)
    sub.add_argument("--train", type=Path, nargs="*", help="labelled records, for the reference rows and the shots")
    sub.add_argument("--shots", type=int, default=0, help="solved examples put before every question")
    sub.add_argument("--limit", type=int, help="only the first so many test rows")
    sub.add_argument("--no-costs", action="store_true", help="scores only, no latency or memory")
    sub.add_argument("--no-answers", action="store_true", help="do not keep the answers beside the results")
    sub.add_argument("--price-per-hour", type=float, help="US dollars an hour for this machine")
    sub.add_argument(
        "--price-per-token", type=float, nargs=2, metavar=("IN", "OUT"), help="US dollars per million tokens"
    )
    sub.add_argument("--within", type=float, default=2.0, help="seconds in which concurrent users are to be answered")
    sub.add_argument("--also", nargs="+", default=[], metavar="LABEL=MODEL", help="further models, such as "
                     "q8_0=endpoint:student@http://127.0.0.1:8080/v1")  # fmt: skip
    sub.add_argument(
        "--file", nargs="+", default=[], metavar="LABEL=PATH", help="what an endpoint serves, to be weighed"
    )
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", type=Path)

    sub = command(
        "study", run_study, "measure what gates, reasons or a committee do to the student; resumable, in shards"
    )
    sub.add_argument("study", choices=("gates", "rationale", "committee"))
    sub.add_argument("--name", help="what the results call the task of data that are your own")
    sub.add_argument("--out", type=Path, default=Path("data/results"), help="one JSON a run goes to OUT/STUDY/")
    sub.add_argument(
        "--work", type=Path, default=Path("build/study"), help="the teacher's answers and the untuned students"
    )
    sub.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    sub.add_argument("--shard", default="1/1", help="i/n: every n-th run, to share the work among n processes")
    sub.add_argument("--tasks", nargs="+", default=["nli", "math"])
    sub.add_argument("--show", action="store_true", help="print what is recorded and run nothing")
    sub.add_argument("--teacher", help="default: data/teacher")
    sub.add_argument(
        "--member", nargs="*", default=[], help="committee: the teachers (default: three are corrected first)"
    )
    sub.add_argument("--data", help="the folder of the course's data sets")
    for option, of in (("rows", int), ("test_rows", int), ("epochs", float), ("batch_size", int), ("learning_rate", float),
                       ("layers", int), ("answer_batch", int), ("math_layers", int)):  # fmt: skip
        sub.add_argument(f"--{option.replace('_', '-')}", type=of)

    sub = command("report", run_report, "write a report card: one HTML file that needs no network to be read")
    sub.add_argument("--results", type=Path, nargs="+", required=True, help="what evaluate wrote with --out")
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--title", default="Report card")
    sub.add_argument("--curve", nargs="+", default=[], metavar="ROWS=RESULTS", help="results of students trained on so many "
                     "synthetic rows: a learning curve, kept in the first of --results")  # fmt: skip

    sub = command("curve", run_curve, "measure how small a student can be: size, choice of layers, healing; resumable")
    sub.add_argument("--tasks", nargs="+", default=["nli", "qa", "math", "conversation", "summarization"])
    sub.add_argument("--sizes", type=int, nargs="+", default=[4, 6, 10, 16, 24], help="layers to keep")
    sub.add_argument("--rules", nargs="+", default=["even", "early", "influence"], help="the first one is also healed")
    sub.add_argument("--final", action="store_true", help="the chosen size of each task: untuned, baseline, student")
    sub.add_argument("--keep", type=float, default=0.92, help="share of the teacher's validation score to keep")
    sub.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    sub.add_argument("--teacher", help="a model name (default: data/teacher)")
    for name, kind in (("data", Path), ("work", Path), ("results", Path), ("steps", int), ("heal_steps", int),
                       ("batch_size", int), ("learning_rate", float)):  # fmt: skip
        sub.add_argument(f"--{name.replace('_', '-')}", type=kind)
    sub.add_argument(
        "--shard", default="1/1", help="i/n: every n-th run from the i-th on, for n processes side by side"
    )

    sub = command("export", run_export, "write a model as GGUF (llama.cpp) or ONNX (ONNX Runtime GenAI)")
    sub.add_argument("--model", required=True)
    sub.add_argument("--format", default="gguf", help="gguf or onnx")
    sub.add_argument("--precision", default="q8_0", help="gguf: f16, q8_0, q4_0; onnx: fp32, int8, int4")
    sub.add_argument("--out", type=Path, required=True, help="a .gguf file, or for onnx a folder")
    sub.add_argument("--test", type=Path, help="labelled records: compare the export with the model on them")
    sub.add_argument("--limit", type=int, default=100, help="of those, the first so many")

    sub = command("serve", run_serve, "serve a model with llama.cpp as an OpenAI-compatible endpoint on this machine")
    sub.add_argument("--model", required=True, help="a .gguf file, or a model name (exported to GGUF q8_0 first)")
    sub.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    sub.add_argument("--slots", type=int, default=8, help="requests answered at the same time")
    sub.add_argument("--context", type=int, default=1024, help="tokens of prompt and answer, for each slot")
    sub.add_argument("--threads", type=int, help="that compute (default: one for each core but one)")
    sub.add_argument("--until-stdin-closes", action="store_true", help=argparse.SUPPRESS)

    sub = command("course", run_course, "execute the notebooks headless and write build/course/")
    sub.add_argument("--notebooks", type=Path, default=Path("notebooks"))
    sub.add_argument("--out", type=Path, default=Path("build/course"))
    sub.add_argument("--short", action="store_true", help="shrink them as notebooks/overrides.yaml says")
    sub.add_argument("--only", nargs="*", default=[], help="names of notebooks")
    return parser


def main(arguments: list[str] | None = None) -> int:
    args = build_parser().parse_args(arguments)
    try:
        return args.run(args)
    except (ValueError, OSError, RuntimeError) as error:
        # what went wrong is in the message; a traceback would only bury it
        print(f"{args.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
