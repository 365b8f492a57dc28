"""Hidden-state transfer: the student's layers learn to hold what the teacher's hold (DistilBERT, arXiv 1910.01108;
TinyBERT, arXiv 1909.10351).

A layer map says which layer of the student answers to which of the teacher. Where their widths differ, or their bases
do, a learned projection stands between them; it is trained with the student and thrown away with the run.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from ..models.align import teacher_ids
from ..models.load import LoadedModel, model_fingerprint
from .losses import cross_entropy, mix, softened
from .supervised import Method, next_tokens, only_supervised, plain
from .train import TrainSettings

Pairs = list[tuple[int, int]]


def even_map(student_layers: int, teacher_layers: int) -> Pairs:
    """(student's layer, teacher's layer) for every layer of the student: equal shares of both depths, last on last."""
    return [(i, round((i + 1) * teacher_layers / student_layers) - 1) for i in range(student_layers)]


def read_map(text: str, student_layers: int, teacher_layers: int) -> Pairs:
    """ "0:0,5:29" as [(0, 0), (5, 29)]. Raises ValueError for another form, or a layer that is not there."""
    try:
        pairs = [(int(a), int(b)) for a, b in (pair.split(":") for pair in text.split(","))]
    except ValueError:
        raise ValueError(f"layer_map {text!r} is not a list of student:teacher layers such as 0:0,5:29") from None
    for pair in pairs:
        if not (0 <= pair[0] < student_layers and 0 <= pair[1] < teacher_layers):
            raise ValueError(f"layer_map {text!r}: the student has layers 0 to {student_layers - 1}, the teacher 0 to "
                             f"{teacher_layers - 1}; there is no {pair[0]}:{pair[1]}")  # fmt: skip
    return pairs


def cosine_distance(teacher: Any, student: Any) -> Any:
    """1 - cosine, (N, width), (N, width) -> (N,). A few channels of a language model are far larger than all others;
    lengths of states grow with depth. This distance minds neither."""
    import torch

    return 1 - torch.nn.functional.cosine_similarity(teacher, student, dim=-1)


def squared_error(teacher: Any, student: Any) -> Any:
    """Squared difference averaged over the width, (N, width), (N, width) -> (N,)."""
    return (teacher - student).square().mean(-1)


HIDDEN_LOSSES = {"cosine": cosine_distance, "mse": squared_error}


@contextlib.contextmanager
def layer_outputs(model: Any, layers: Sequence[int]) -> Iterator[dict[int, Any]]:
    """Yields a dict that a forward pass within fills: layer -> what it hands on, (batch, length, width).

    Hooks, not `output_hidden_states`: that keeps every layer, and puts the final norm into the last one.
    """
    found: dict[int, Any] = {}
    decoder = plain(model).get_decoder()

    def keep(number: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            found[number] = output[0] if isinstance(output, tuple) else output

        return hook

    hooks = [decoder.layers[number].register_forward_hook(keep(number)) for number in set(layers)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class InsideMethod(Method):
    """What hidden-state and attention transfer share: a teacher that runs beside the student, and pairs of layers.

    The loss is averaged over the pairs, and counted at the positions that predict a supervised token, as every other
    method's; `settings.alpha` mixes in the text, without which the output layer would learn nothing.
    """

    def __init__(self, teacher: LoadedModel, student: LoadedModel, settings: TrainSettings, pairs: Pairs):
        """Raises DifferentTokenizers when positions of the one are not positions of the other."""
        import torch

        if teacher.model is student.model:
            raise ValueError("teacher and student are one model, which would learn from itself; load it twice")
        self.name, self.teacher, self.settings, self.pairs = settings.method, teacher, settings, pairs
        self.identity = f"{model_fingerprint(teacher)}-{teacher.dtype}"
        ids = teacher_ids(teacher.tokenizer, student.tokenizer)
        self.mapping = torch.tensor(ids, device=teacher.model.device)

    def watch(self, model: Any, layers: Sequence[int]) -> contextlib.AbstractContextManager[dict[int, Any]]:
        """Yields a dict that a forward pass fills with what `distance` compares, by layer."""
        raise NotImplementedError

    def distance(self, number: int, ours: Any, theirs: Any, batch: dict[str, Any]) -> Any:
        """Of pair `number`, at the N positions that predict a supervised token: (N,)."""
        raise NotImplementedError

    def loss(self, model: Any, batch: dict[str, Any]) -> tuple[Any, int]:
        import torch

        ids, mask = batch["input_ids"], batch["attention_mask"]
        with torch.no_grad(), self.watch(self.teacher.model, [t for _, t in self.pairs]) as theirs:
            # the decoder alone: nobody asks for the teacher's logits
            self.teacher.model.get_decoder()(input_ids=self.mapping[ids], attention_mask=mask, use_cache=False)
        with self.watch(model, [s for s, _ in self.pairs]) as ours, only_supervised(model, batch["labels"]) as targets:
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        distances = [self.distance(i, ours[s], theirs[t], batch) for i, (s, t) in enumerate(self.pairs)]
        inside = torch.stack(distances).mean(0)
        text = cross_entropy(softened(logits, 1), targets)
        return mix(text, inside, self.settings.alpha).sum(), targets.numel()


class HiddenMethod(InsideMethod):
    """A distance between projected hidden states of the student and hidden states of the teacher."""

    def __init__(self, teacher: LoadedModel, student: LoadedModel, settings: TrainSettings):
        import torch

        if settings.hidden_loss not in HIDDEN_LOSSES:
            raise ValueError(f"no hidden_loss {settings.hidden_loss!r}; there are {', '.join(HIDDEN_LOSSES)}")
        ours, theirs = student.model.config, teacher.model.config
        depths = ours.num_hidden_layers, theirs.num_hidden_layers
        super().__init__(
            teacher,
            student,
            settings,
            read_map(settings.layer_map, *depths) if settings.layer_map else even_map(*depths),
        )
        self.learned = torch.nn.ModuleList(
            torch.nn.Linear(ours.hidden_size, theirs.hidden_size, bias=False) for _ in self.pairs
        )
        generator = torch.Generator().manual_seed(settings.seed)
        for projection in self.learned:
            if ours.hidden_size == theirs.hidden_size:
                torch.nn.init.eye_(projection.weight)  # a carved student starts in its teacher's own basis
            else:
                torch.nn.init.orthogonal_(projection.weight, generator=generator)

    def watch(self, model: Any, layers: Sequence[int]) -> contextlib.AbstractContextManager[dict[int, Any]]:
        return layer_outputs(model, layers)

    def distance(self, number: int, ours: Any, theirs: Any, batch: dict[str, Any]) -> Any:
        keep, _ = next_tokens(batch["labels"])
        projected = self.learned[number](ours[keep].float())
        return HIDDEN_LOSSES[self.settings.hidden_loss](theirs[keep].float(), projected)
