"""Load a model by name.

A name is `embedded` (SmolLM2-135M-Instruct, no network), a folder (a full model, or a LoRA adapter whose base is
itself a name), an ONNX Runtime GenAI export, or `hub:org/model`.
"""

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .embedded import embedded_folder, sha256_of
from .hardware import choose_device, choose_dtype
from .onnx import OnnxModel, is_onnx

WEIGHTS = ("*.safetensors", "*.onnx", "*.onnx.data")

# peft asks for an attribute that transformers has renamed; nobody who loads an adapter can do anything about it
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


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

    @property
    def answer_batch(self) -> int:
        """How many rows to answer at once where nothing else decides: a GPU is idle with fewer."""
        return 32 if self.model.device.type == "cpu" else 256


class ModelNotFound(FileNotFoundError):
    """No model goes by that name; the message says which names there are."""


def resolve(name: str) -> tuple[str, list[Path]]:
    """A name as (what `from_pretrained` takes, the adapter folders to merge into it, in this order)."""
    if name == "embedded":
        return str(embedded_folder()), []
    if name.startswith("hub:"):
        return name.removeprefix("hub:"), []
    folder = Path(name)
    if (folder / "adapter_config.json").exists():
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        source, adapters = resolve(base)
        return source, [*adapters, folder]
    if (folder / "config.json").exists() or is_onnx(folder):
        return str(folder), []
    raise ModelNotFound(
        f"no model {name!r}: it may be 'embedded', a folder with a config.json, adapter_config.json or genai_config.json, "
        "or 'hub:org/model'"
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
    source, adapters = resolve(name)
    if is_onnx(source):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return LoadedModel(name, OnnxModel(source), tokenizer, "onnx", "as it was exported")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype), trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except OSError as error:
        if not name.startswith("hub:"):
            raise
        raise ModelNotFound(
            f"cannot load {source!r} from the Hugging Face Hub: {str(error).splitlines()[0]}\n"
            "Without a network, download it once elsewhere and give its folder, or use 'embedded'."
        ) from error
    for adapter in adapters:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model.float(), str(adapter)).merge_and_unload().to(getattr(torch, dtype))
        model.requires_grad_(True)  # peft leaves the base frozen, and a student carved from it would not learn
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LoadedModel(name, model.to(device).eval(), tokenizer, dtype, reason)


def bytes_on_disk(name: str) -> int:
    """Bytes of the weight files a name loads (base and adapter together)."""
    source, adapters = resolve(name)
    return sum(f.stat().st_size for folder in [Path(source), *adapters] for end in WEIGHTS for f in folder.glob(end))


def fingerprint(name: str) -> str:
    """A short hash of what decides a model's answers (weights, tokenizer, chat template), so that a changed model is
    never taken for the same one."""
    source, adapters = resolve(name)
    if not Path(source).is_dir():
        return hashlib.sha256(name.encode()).hexdigest()[:16]  # on the Hub: the name is all we know before loading
    decides = (*WEIGHTS, "tokenizer.json", "chat_template.jinja", "adapter_config.json")
    folders = [Path(source), *adapters]
    files = [file for folder in folders for pattern in decides for file in sorted(folder.glob(pattern))]
    return hashlib.sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()[:16]


def model_fingerprint(loaded: LoadedModel) -> str:
    """The same for a model in memory, which may have been carved or trained since it was loaded."""
    tokenizer = loaded.tokenizer
    text = json.dumps(
        [weights_fingerprint(loaded.model), sorted(tokenizer.get_vocab().items()), tokenizer.chat_template]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def weights_fingerprint(model: Any) -> str:
    """A short hash of the weights a model holds now."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def eos_ids(named: Any) -> list[int]:
    """The ids that end an answer, of which a config names none, one or several, and a tokenizer at most one."""
    ends = named.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]
