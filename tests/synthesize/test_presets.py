"""Names of endpoints: what they stand for, what is said before the first call, and what no name may hold."""

import pytest

from slmops_utils.synthesize.presets import PRESETS, PRICES, EndpointError, find_endpoint

KEY = "sk-planted-7f3a"


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for preset in PRESETS.values():
        monkeypatch.setenv(preset.key_variable, KEY)
    monkeypatch.setenv("AZURE_AI_ENDPOINT", "https://mine.services.ai.azure.com/openai/v1/")


AZURE = "https://mine.services.ai.azure.com/openai/v1"


@pytest.mark.parametrize(
    ("name", "address", "variable", "allowed"),
    [
        ("endpoint:deepseek-chat@deepseek", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "yes"),
        ("endpoint:gpt-4.1@openai", "https://api.openai.com/v1", "OPENAI_API_KEY", "restricted"),
        ("endpoint:o3@openai", "https://api.openai.com/v1", "OPENAI_API_KEY", "restricted"),
        ("endpoint:claude-sonnet-4-6@anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", "restricted"),
        ("endpoint:DeepSeek-V3@azure", AZURE, "AZURE_AI_API_KEY", "yes"),
        ("endpoint:gpt-4o@azure", AZURE, "AZURE_AI_API_KEY", "restricted"),
        ("endpoint:claude-sonnet-4-6@azure", AZURE, "AZURE_AI_API_KEY", "restricted"),
        ("endpoint:mistral-large@azure", AZURE, "AZURE_AI_API_KEY", "check"),
        ("endpoint:qwen@http://127.0.0.1:8080/v1/", "http://127.0.0.1:8080/v1", "SLMOPS_ENDPOINT_KEY", "check"),
        ("endpoint:a@b/c@https://host.example/v1", "https://host.example/v1", "SLMOPS_ENDPOINT_KEY", "check"),
    ],
)
def test_a_name_gives_address_key_and_terms(name, address, variable, allowed, monkeypatch):
    monkeypatch.setenv(variable, "sk-of-this-place")
    endpoint = find_endpoint(name)
    assert (endpoint.base_url, endpoint.key_variable, endpoint.terms.allowed) == (address, variable, allowed)
    assert endpoint.key() == "sk-of-this-place" and endpoint.local == ("127.0.0.1" in name)
    assert allowed in endpoint.notice() and endpoint.terms.duty in endpoint.notice()


@pytest.mark.parametrize("address", ["http://localhost:1/v1", "http://127.0.0.1/v1", "http://[::1]:8080/v1"])
def test_a_server_on_this_machine_is_ones_own(address):
    assert "Your own server" in find_endpoint(f"endpoint:qwen@{address}").terms.duty


def test_a_student_of_llama_must_be_named_so():
    endpoint = find_endpoint("endpoint:Llama-3.1-405B-Instruct@azure")
    assert endpoint.terms.name_starts_with == "Llama" and "Built with Llama" in endpoint.notice()


def test_list_prices_are_dated_and_yours_come_first():
    listed = find_endpoint("endpoint:gpt-4.1@openai")
    assert "$2 / $8 per million tokens" in listed.notice() and "2026" in listed.notice()
    assert "$3 / $15 per million tokens" in find_endpoint("endpoint:claude-sonnet-4-6@anthropic").notice()
    assert all(any(year in price.read for year in ("2025", "2026")) for price in PRICES.values())
    assert "$1 / $3" in find_endpoint("endpoint:gpt-4.1@openai", (1.0, 3.0)).notice()
    assert "state yours with --price" in find_endpoint("endpoint:new@openai").notice()
    own = find_endpoint("endpoint:gpt-4.1@http://localhost:1/v1")
    assert own.price.cost(10**6, 10**6) == 0.0
    assert listed.price.cost(2_000_000, 500_000) == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("endpoint:deepseek", "write endpoint:MODEL@WHERE"),
        ("endpoint:@openai", "write endpoint:MODEL@WHERE"),
        ("endpoint:m@", "write endpoint:MODEL@WHERE"),
        ("endpoint:m@nowhere", "no preset 'nowhere'"),
        ("endpoint:m@ftp://host/v1", "no preset"),
        (f"endpoint:m@https://{KEY}@host/v1", "no password, key or query"),
        (f"endpoint:m@https://user:{KEY}@host/v1", "no password, key or query"),
        (f"endpoint:m@https://host/v1?api-key={KEY}", "no password, key or query"),
    ],
)
def test_a_name_that_cannot_be_used_is_told_without_a_secret_in_it(name, told):
    with pytest.raises(EndpointError, match=told) as error:
        find_endpoint(name)
    assert KEY not in str(error.value)


def test_azure_wants_its_address(monkeypatch):
    monkeypatch.delenv("AZURE_AI_ENDPOINT")
    with pytest.raises(EndpointError, match="AZURE_AI_ENDPOINT"):
        find_endpoint("endpoint:gpt-4o@azure")


def test_the_key_comes_from_the_environment_when_it_is_needed(monkeypatch):
    endpoint = find_endpoint("endpoint:gpt-4o@openai")
    assert endpoint.key() == KEY and KEY not in repr(endpoint) + endpoint.notice() + endpoint.name
    monkeypatch.setenv("OPENAI_API_KEY", " \n")
    with pytest.raises(EndpointError, match="OPENAI_API_KEY"):
        endpoint.key()
    assert find_endpoint("endpoint:m@http://localhost:8080/v1").key() == "none"


@pytest.mark.parametrize("broken", [f"{KEY}\nX-Evil: 1", f"two {KEY}", f"“{KEY}”", f"{KEY}\x00"[:-1] + "\x07"])
def test_a_key_that_cannot_be_one_is_refused_unshown(broken, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", broken)
    with pytest.raises(EndpointError, match="set it again") as error:
        find_endpoint("endpoint:gpt-4o@openai").key()
    assert KEY not in str(error.value)


def test_a_key_never_leaves_for_another_machine_unencrypted(monkeypatch):
    endpoint = find_endpoint("endpoint:m@http://api.example.com/v1")
    assert endpoint.key() == "none"
    monkeypatch.setenv("SLMOPS_ENDPOINT_KEY", KEY)
    assert find_endpoint("endpoint:m@http://127.0.0.1:1/v1").key() == KEY
    with pytest.raises(EndpointError, match="give an https address") as error:
        endpoint.key()
    assert KEY not in str(error.value)
