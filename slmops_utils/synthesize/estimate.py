"""What a run would take, before it is paid for: requests, tokens, dollars, hours."""

from collections.abc import Mapping, Sequence
from typing import Any

from .answer import Prompt, Sampling
from .budget import most_tokens
from .endpoint import Network
from .presets import PRESETS, PRICES, Price

BYTES_PER_TOKEN = 4.0  # English in today's tokenizers
SECONDS_PER_TOKEN = 0.02  # a hosted model writes about 50 tokens a second
SECONDS_TO_FIRST = 0.7


def estimate(
    prompts: Sequence[Prompt],
    sampling: Sampling,
    price: Price | None,
    network: Network | None = None,
    book: Mapping[str, dict[str, Any]] | None = None,
    keys: Sequence[str] = (),
    local: bool = False,
) -> dict[str, Any]:
    """Requests, tokens, dollars and hours of asking `prompts`; those whose key the journal holds cost nothing more.

    What the journal's earlier calls took is measured; without any, prompts are taken at four bytes a token and answers
    at their full length. `sample` says how many calls were measured. `most_dollars` is what no run without failed
    calls can pass; None where no price is known. The hours of a `local` teacher are None until some were measured here: they
    hang on the machine.
    """
    at_once = 1 if local else (network or Network()).concurrency
    count = most = size = 0
    for i, prompt in enumerate(prompts):
        if not (book is not None and i < len(keys) and keys[i] in book):
            count, most, size = count + 1, most + most_tokens(prompt), size + _bytes(prompt)
    tokens_in, tokens_out = size / max(count, 1) / BYTES_PER_TOKEN, float(sampling.max_new_tokens)
    seconds, attempts = SECONDS_TO_FIRST + SECONDS_PER_TOKEN * tokens_out, 1.0
    calls, took, good, used_in, used_out = 0, 0.0, 0, 0, 0
    for entry in book.values() if book is not None else ():
        if "batch_seconds" in entry:  # a local teacher's, which answers one batch after the other
            calls, took, good = calls + 1, took + entry["batch_seconds"] / entry["batch_rows"], good + 1
            used_in, used_out = used_in + entry["prompt_tokens"], used_out + entry["completion_tokens"]
        elif "settles" in entry:
            calls, took = calls + 1, took + entry["seconds"]
            if "text" in entry:
                good += 1
                used_in, used_out = used_in + entry["prompt_tokens"], used_out + entry["completion_tokens"]
    if good:
        tokens_in, tokens_out, seconds, attempts = used_in / good, used_out / good, took / calls, calls / good

    def dollars(prompt_tokens: float, completion_tokens: float) -> float | None:
        return (
            None if price is None else round((price.input * prompt_tokens + price.output * completion_tokens) / 1e6, 4)
        )

    return {
        "sample": good,
        "requests": round(count * attempts),
        "prompt_tokens": round(count * tokens_in),
        "completion_tokens": round(count * tokens_out),
        "dollars": dollars(count * tokens_in, count * tokens_out),
        "most_dollars": dollars(most, count * sampling.max_new_tokens),
        "hours": None if local and not good else round(count * attempts * seconds / at_once / 3600, 3),
        "tokens_per_row": [round(tokens_in, 1), round(tokens_out, 1)],
    }


def at_list_prices(tokens_per_row: Sequence[float], rows: int = 50_000) -> dict[str, float]:
    """US dollars for so many rows of this length, at each listed model's price."""
    return {name: round(rows * price.cost(1, 0) * tokens_per_row[0] + rows * price.cost(0, 1) * tokens_per_row[1], 2)
            for name, price in PRICES.items()}  # fmt: skip


def bill_by_preset(tokens_per_row: Sequence[float], rows: int = 50_000) -> list[dict[str, Any]]:
    """What so many rows of this length would cost at every preset: {"preset", "model", "dollars", "read", "allowed", "duty"}.

    `tokens_per_row`: mean tokens in and out. A preset without a list price (its prices are each customer's own) has model and
    dollars None.
    """
    dollars = at_list_prices(tokens_per_row, rows)
    return [
        {"preset": name, "model": model, "dollars": dollars[model] if model else None, "read": PRICES[model].read if model else "",
         "allowed": preset.terms.allowed, "duty": preset.terms.duty}
        for name, preset in PRESETS.items() for model in (preset.listed or (None,))
    ]  # fmt: skip


def estimate_table(report: dict[str, Any], rows: int = 50_000) -> str:
    """The estimate and the bill for `rows` conversations at each list price, for a terminal."""
    measured = f"measured on {report['sample']:,} calls of the journal" if report["sample"] else (
        "assumed: 4 bytes a token, answers of full length. Ask a few with --limit 20 first to measure them"
    )  # fmt: skip
    cost = "no price known, state yours with --price" if report["dollars"] is None else (
        f"${report['dollars']:,.2f} (at most ${report['most_dollars']:,.2f} if no call fails)"
    )  # fmt: skip
    hours = "hours unknown" if report["hours"] is None else f"{report['hours']:,.2f} hours"
    lines = [
        f"{report['requests']:,} requests, {report['prompt_tokens']:,} tokens in, {report['completion_tokens']:,} out, "
        f"{cost}, {hours}. Lengths and seconds are {measured}.",
        f"{rows:,} conversations of this length at list prices (they change; see presets.py for their dates):",
    ]
    lines += [f"  {name:<20} ${dollars:>10,.2f}   {PRICES[name].read}"
              for name, dollars in at_list_prices(report["tokens_per_row"], rows).items()]  # fmt: skip
    return "\n".join(lines)


def _bytes(prompt: Prompt) -> int:
    return sum(len(message["content"].encode()) + 16 for message in prompt)
