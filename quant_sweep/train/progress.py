"""How far a training is: a bar on a terminal, one logged line per epoch elsewhere."""

import logging
from types import TracebackType
from typing import Self, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from quant_sweep.train.state import EpochResult

__all__ = ["EpochBar"]

log = logging.getLogger(__name__)


@final
class EpochBar:
    """A context manager; `step` after some steps, `epoch` after each epoch."""

    def __init__(self, epochs: int, steps_per_epoch: int, finished: int) -> None:
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        total, done = epochs * steps_per_epoch, finished * steps_per_epoch
        self.task = self.progress.add_task(f"epoch {finished}/{epochs}", total=total, completed=done, state="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """`step` from 1 within the epoch; loss and accuracy (percent) over the epoch so far."""
        self.progress.update(
            self.task,
            completed=(epoch - 1) * self.steps_per_epoch + step,
            description=f"epoch {epoch}/{self.epochs}",
            state=f"loss {loss:.3f}  train {accuracy:.2f} %  {images_per_second:.0f} images/s",
        )

    def epoch(self, result: EpochResult) -> None:
        line = (
            f"epoch {result.epoch}/{self.epochs}: loss {result.train_loss:.3f}, train {result.train_accuracy:.2f} %, "
            f"test {result.test_accuracy:.2f} %, {result.images_per_second:.0f} images/s, {result.seconds:.1f} s"
        )
        if self.console.is_terminal:
            self.console.print(line, highlight=False)
        else:
            log.info(line)
