"""The number format follows the machine, unless the user says otherwise."""

import pytest

from slmops_utils.models import hardware
from slmops_utils.models.hardware import choose_dtype, core_count, cpu_features, describe, memory_bytes


@pytest.fixture(autouse=True)
def _no_choice_of_the_users_own(monkeypatch):
    monkeypatch.delenv("SLMOPS_DTYPE", raising=False)


@pytest.mark.parametrize(
    ("features", "dtype"),
    [
        (set(), "float32"),
        ({"avx2"}, "float32"),
        ({"avx2", "avx512f", "avx512_vnni"}, "float32"),  # wide vectors, but bfloat16 would be emulated
        ({"avx2", "avx512f", "avx512_bf16"}, "bfloat16"),
        ({"amx_bf16"}, "bfloat16"),
    ],
)
def test_a_cpu_gets_bfloat16_only_with_instructions_for_it(features, dtype, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_features", lambda: features)
    choice = choose_dtype("cpu")
    assert choice.value == dtype
    assert "bf16" in choice.reason


@pytest.mark.parametrize(("supported", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_gets_bfloat16_where_it_computes_in_it(supported, dtype, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert choose_dtype("cuda:0").value == dtype


@pytest.mark.parametrize("asked", ["bfloat16", "float32"])
@pytest.mark.parametrize("features", [set(), {"amx_bf16"}])
def test_the_users_choice_wins(asked, features, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_features", lambda: features)
    monkeypatch.setenv("SLMOPS_DTYPE", asked)
    assert choose_dtype() == hardware.Choice(asked, "SLMOPS_DTYPE asks for it")


def test_a_choice_that_does_not_exist_is_named(monkeypatch):
    monkeypatch.setenv("SLMOPS_DTYPE", "float16")
    with pytest.raises(ValueError, match=r"'float16'.*bfloat16 or float32"):
        choose_dtype()


def test_an_empty_choice_is_none(monkeypatch):
    monkeypatch.setattr(hardware, "cpu_features", set)
    monkeypatch.setenv("SLMOPS_DTYPE", "")
    assert choose_dtype().value == "float32"


def test_features_are_found_where_there_is_no_cpuinfo(monkeypatch):
    here = cpu_features()

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    # PyTorch asks the processor itself; it may know fewer of them, never others
    assert cpu_features() <= {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"}
    assert ("avx2" in cpu_features()) == ("avx2" in here)


def test_the_description_says_what_a_timing_depends_on():
    found = describe()
    assert found["cores"] == core_count() >= 1
    assert found["memory_gib"] == round(memory_bytes() / 2**30, 1) > 0
    assert found["dtype"] in ("bfloat16", "float32") and found["dtype_reason"]
