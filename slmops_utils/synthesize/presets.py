"""Teachers behind an OpenAI-compatible API: where they live, what they cost and what their terms ask.

A name is `endpoint:MODEL@WHERE`, where WHERE is a preset of this file or an address:
`endpoint:deepseek-chat@deepseek`, `endpoint:smollm2@http://127.0.0.1:8080/v1`.
"""

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

PREFIX = "endpoint:"


@dataclass(frozen=True)
class Terms:
    """What a licence or contract says about training on a model's answers; read it yourself before you ship."""

    allowed: str  # "yes", "restricted" or "check"
    duty: str
    name_starts_with: str = ""  # how a student trained on the answers must be named


@dataclass(frozen=True)
class Preset:
    """A provider. `base_url` may name an environment variable in braces; prices are per model, in list prices."""

    base_url: str
    key_variable: str
    terms: Terms
    listed: tuple[str, ...] = ()  # its models with a list price below


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens, and when and where they were read."""

    input: float
    output: float
    read: str

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6


DEEPSEEK = Terms(
    "yes", "A student is a derivative of the model: pass its use limits on. Later versions are MIT; check yours."
)
LLAMA = Terms("yes", "Name the student 'Llama...' and show 'Built with Llama' where you distribute it.", "Llama")
OPENAI = Terms("restricted", "No models that compete with OpenAI's; verify with the current terms.")
ANTHROPIC = Terms(
    "restricted", "Model training needs written permission; non-competing specialised tools are permitted."
)
OPEN = Terms(
    "yes", "Its licence (Apache-2.0 or MIT) asks nothing of answers; with weights made from it, ship the licence."
)
UNKNOWN = Terms("check", "Nothing is known here about this model's terms: read them before you train on its answers.")
OWN = Terms("check", "Your own server: the licence of the model it serves decides.")

# by a word of a model's name, wherever it is served; "o1" and the like are no words: other makers' names hold them too
BY_NAME = {"llama": LLAMA, "deepseek": DEEPSEEK, "smollm2": OPEN, "phi-3": OPEN, "phi-4": OPEN,
           "gpt-3": OPENAI, "gpt-4": OPENAI, "gpt-5": OPENAI, "claude": ANTHROPIC}  # fmt: skip

PRESETS = {
    "deepseek": Preset("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", DEEPSEEK, ("deepseek-chat",)),
    "azure": Preset("{AZURE_AI_ENDPOINT}", "AZURE_AI_API_KEY", UNKNOWN),
    "openai": Preset("https://api.openai.com/v1", "OPENAI_API_KEY", OPENAI, ("gpt-4.1", "gpt-4o")),
    "anthropic": Preset("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", ANTHROPIC, ("claude-sonnet-4-6",)),
}
LOCAL_KEY = "SLMOPS_ENDPOINT_KEY"  # for any address; may be unset

# lists as published then; they change, so what the user states comes first
PRICES = {
    "deepseek-chat": Price(0.56, 1.68, "api-docs.deepseek.com, list from 5 September 2025 (V3.1)"),
    "gpt-4.1": Price(2.00, 8.00, "tokenmath.io citing OpenAI, 21 June 2026"),
    "gpt-4o": Price(2.50, 10.00, "deploybase.ai, March 2026"),
    "claude-sonnet-4-6": Price(3.00, 15.00, "deploybase.ai, 21 March 2026"),
}


@dataclass(frozen=True)
class Endpoint:
    """One model at one address. The key is read from the environment when it is needed and kept nowhere."""

    model: str
    base_url: str
    key_variable: str
    price: Price | None
    local: bool

    @property
    def name(self) -> str:
        parts = urlsplit(self.base_url)
        return f"{self.model}@{parts.netloc}{parts.path}"

    @property
    def terms(self) -> Terms:
        """What a model card says of the same teacher."""
        return terms_of(self.name)

    def key(self) -> str:
        """The API key. Raises EndpointError naming the variable to set; an address may need none."""
        key = os.environ.get(self.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise EndpointError(
                f"{self.key_variable} holds a space, line break or sign that no API key has: set it again"
            )
        if not key and self.key_variable != LOCAL_KEY:  # a server of one's own often wants none
            raise EndpointError(f"no API key: set the environment variable {self.key_variable} to use {self.name}")
        if key and not self.local and self.base_url.startswith("http:"):
            raise EndpointError(f"{self.name} is not encrypted: give an https address, or unset {self.key_variable}")
        return key or "none"

    def notice(self) -> str:
        """What to know before the first call: address, price, terms."""
        price = "no list price known: state yours with --price"
        if self.price:
            price = f"${self.price.input:g} / ${self.price.output:g} per million tokens in / out ({self.price.read})"
        return f"{self.name}: {price}.\nTraining on its answers: {self.terms.allowed}. {self.terms.duty}"


class EndpointError(RuntimeError):
    """The endpoint cannot be used as asked; the message says what to mend."""


def find_endpoint(name: str, price: tuple[float, float] | None = None) -> Endpoint:
    """The endpoint a name stands for; `price` (input, output, dollars per million tokens) overrides the list.

    Raises EndpointError when the name is malformed, the preset unknown, or its address not set.
    """
    named = name.removeprefix(PREFIX)
    by_address = re.fullmatch(r"(.+?)(@)(https?://.+)", named)
    model, at, where = by_address.groups() if by_address else named.rpartition("@")
    if not at or not model or not where:
        raise EndpointError(
            f"{name!r} is no endpoint: write endpoint:MODEL@WHERE, WHERE being {', '.join(PRESETS)} or an http address"
        )
    stated = Price(*price, "stated by you") if price else PRICES.get(model)
    if where.startswith(("http://", "https://")):
        parts = urlsplit(where)
        if parts.username or parts.password or parts.query:
            raise EndpointError("an address holds no password, key or query: set the key in " + LOCAL_KEY)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        stated = stated if price or not local else Price(0.0, 0.0, "your own machine")
        return Endpoint(model, where.rstrip("/"), LOCAL_KEY, stated, local)
    if where not in PRESETS:
        raise EndpointError(f"no preset {where!r}; there are {', '.join(PRESETS)}, or give an http address")
    preset = PRESETS[where]
    base = preset.base_url
    if base.startswith("{"):
        variable = base.strip("{}")
        base = os.environ.get(variable, "").rstrip("/")
        if not base:
            raise EndpointError(f"set the environment variable {variable} to your endpoint's address (…/openai/v1)")
    return Endpoint(model, base, preset.key_variable, stated, False)


def terms_of(name: str) -> Terms:
    """What is known about training on the answers of a model as a record names it: "deepseek-chat@api.deepseek.com/v1",
    a Hub name. A server of one's own, and a name nobody here knows, are to be checked."""
    model, _, where = name.lower().rpartition("@") if "@" in name else (name.lower(), "", "")
    for word, terms in BY_NAME.items():
        if word in model:
            return terms
    host = re.sub(r":\d+$", "", where.split("/")[0])
    for preset in PRESETS.values():
        if host and urlsplit(preset.base_url).netloc == host:
            return preset.terms
    return OWN if host in ("localhost", "127.0.0.1", "[::1]") else UNKNOWN
