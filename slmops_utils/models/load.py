"""Load a model by name.

A name is `embedded` (SmolLM2-135M-Instruct, no network), a folder (a full model, or a LoRA adapter whose base is
itself a name), or `hub:org/model`.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .embedded import embedded_folder, sha256_of
from .hardware import choose_device, choose_dtype


@dataclass
class LoadedModel:
    """A causal language model, its tokenizer, and where they came from."""

    name: str
    model: Any  # transformers.PreTrainedModel
    tokenizer: Any  # transformers.PreTrainedTokenizerBase
    dtype: str
    dtype_reason: str

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


class ModelNotFound(FileNotFoundError):
    """No model goes by that name; the message says which names there are."""


def resolve(name: str) -> tuple[str, Path | None]:
    """A name as (what `from_pretrained` takes, adapter folder or None)."""
    if name == "embedded":
        return str(embedded_folder()), None
    if name.startswith("hub:"):
        return name.removeprefix("hub:"), None
    folder = Path(name)
    if (folder / "adapter_config.json").exists():
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        return resolve(base)[0], folder
    if (folder / "config.json").exists():
        return str(folder), None
    raise ModelNotFound(
        f"no model {name!r}: it may be 'embedded', a folder with a config.json or adapter_config.json, or 'hub:org/model'"
    )


def load_model(name: str, dtype: str | None = None, device: str | None = None) -> LoadedModel:
    """Load a model in the dtype and on the device that suit this machine (or those given), ready to answer.

    An adapter is merged into its base, so every name gives an ordinary model. Raises ModelNotFound for an unknown
    name and EmbeddedModelError when the embedded model cannot be prepared.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    device = device or choose_device()
    choice = choose_dtype(device)
    reason = choice.reason if dtype in (None, choice.value) else "asked for"
    dtype = dtype or choice.value
    source, adapter = resolve(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype), trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except OSError as error:
        if not name.startswith("hub:"):
            raise
        raise ModelNotFound(
            f"cannot load {source!r} from the Hugging Face Hub: {str(error).splitlines()[0]}\n"
            "Without a network, download it once elsewhere and give its folder, or use 'embedded'."
        ) from error
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model.float(), str(adapter)).merge_and_unload().to(getattr(torch, dtype))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LoadedModel(name, model.to(device).eval(), tokenizer, dtype, reason)


def bytes_on_disk(name: str) -> int:
    """Bytes of the weight files a name loads (base and adapter together)."""
    source, adapter = resolve(name)
    folders = [Path(source)] + ([adapter] if adapter else [])
    return sum(f.stat().st_size for folder in folders for f in folder.glob("*.safetensors"))


def fingerprint(name: str) -> str:
    """A short hash of the weights a name loads, so that a changed model is never taken for the same one."""
    source, adapter = resolve(name)
    if not Path(source).is_dir():
        return hashlib.sha256(name.encode()).hexdigest()[:16]  # on the Hub: the name is all we know before loading
    files = sorted(Path(source).glob("*.safetensors")) + sorted(adapter.glob("*.safetensors") if adapter else [])
    return hashlib.sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()[:16]
