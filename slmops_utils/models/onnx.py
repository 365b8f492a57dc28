"""An ONNX Runtime GenAI folder as a model that answers like any other."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CONFIG = "genai_config.json"


def is_onnx(folder: str | Path) -> bool:
    return (Path(folder) / CONFIG).is_file()


class OnnxModel:
    """What the course asks of a `transformers` causal model: `generate`, logits, its device. It runs on the CPU."""

    def __init__(self, folder: str | Path):
        """Raises RuntimeError when ONNX Runtime GenAI is missing or cannot read the folder."""
        try:
            import onnxruntime_genai
        except ImportError as error:
            raise RuntimeError(
                f"ONNX Runtime GenAI is missing ({error}): python -m pip install onnxruntime-genai"
            ) from error
        import torch

        self.genai: Any = onnxruntime_genai
        self.session = onnxruntime_genai.Model(str(folder))
        settings = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))["model"]
        self.most = settings["context_length"]
        self.generation_config = SimpleNamespace(eos_token_id=settings["eos_token_id"])
        self.config = SimpleNamespace(vocab_size=settings["vocab_size"])
        self.device = torch.device("cpu")

    def parameters(self) -> list[Any]:
        return []  # the file holds packed blocks, and does not say of how many weights

    def _started(self, rows: Any, length: int, **search: Any) -> Any:
        params = self.genai.GeneratorParams(self.session)
        params.set_search_options(batch_size=len(rows), max_length=min(length, self.most), **search)
        generator = self.genai.Generator(self.session, params)
        generator.append_tokens(rows.to("cpu").int().numpy())
        return generator

    def logits(self, ids: Any) -> Any:
        """(1, n) token ids -> (n, vocabulary) logits of what follows each."""
        import torch

        generator = self._started(ids, ids.shape[1] + 1)
        return torch.from_numpy(generator.get_output("logits").copy()).float()[0]

    def generate(
        self,
        input_ids: Any,
        attention_mask: Any,
        max_new_tokens: int,
        pad_token_id: int,
        do_sample: bool = False,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
    ) -> Any:
        """(rows, width) ids, padded on the left -> (rows, width + longest answer), answers padded on the right.

        One row after the other: GenAI takes a token for padding by its id, and in many chat templates that token also
        ends a message.
        """
        import torch

        seed = int(torch.randint(2**31 - 1, (1,))) if do_sample else 0  # so that torch.manual_seed decides here as well
        answers = []
        for i, (row, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            prompt = row[mask.bool()]
            search: dict[str, Any] = {"do_sample": do_sample}
            if do_sample:
                search |= {"temperature": temperature, "top_p": top_p, "top_k": top_k or 0, "random_seed": seed + i}
            generator = self._started(prompt[None], len(prompt) + max_new_tokens, **search)
            tokens: list[int] = []
            while not generator.is_done() and len(tokens) < max_new_tokens:
                generator.generate_next_token()
                tokens.append(int(generator.get_next_tokens()[0]))
            answers.append(tokens)
        longest = max(map(len, answers))
        filled = [answer + [pad_token_id] * (longest - len(answer)) for answer in answers]
        return torch.cat([input_ids, torch.tensor(filled, dtype=input_ids.dtype)], 1)
