"""A loss curve that grows while a student trains, in a notebook; plain lines elsewhere."""

from typing import Any

from ..progress import in_notebook


class LiveCurve:
    """Give it to `distill(..., on_log=LiveCurve())`."""

    def __init__(self, every: int = 4):
        self.losses: list[dict[str, float]] = []
        self.every, self.handle = every, None

    def __call__(self, values: dict[str, float]) -> None:
        self.losses.append(values)
        if len(self.losses) % self.every:
            return
        if not in_notebook():
            print("  ".join(f"{key} {value:.4g}" for key, value in values.items()), flush=True)
            return
        self._draw()

    def _draw(self) -> None:
        import matplotlib.pyplot as plt
        from IPython.display import display

        from .plots import loss_curves

        figure: Any = loss_curves({"student": self.losses}, f"step {self.losses[-1]['step']:.0f}")
        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)
        plt.close(figure)
