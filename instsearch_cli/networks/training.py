"""Training a plugin's network: a loop that a kill does not spoil, its log, and the weights file it ends in.

OUT, OUT with .json      the weights and the card that says how they were made
OUT.training/run.json    what was asked for
OUT.training/log.csv     losses of every step, numbers of every epoch
OUT.training/checkpoint.pt    everything the next step depends on; gone when the run is finished
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime
import json
import math
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import BadImage, Reader
from instsearch_cli.networks.checkpoints import load_checkpoint
from instsearch_cli.networks.trained import CHECKPOINT, card_of, data_digest, differs, load_json
from instsearch_cli.networks.weights import sha256, write_tensors
from instsearch_cli.progress import duration
from instsearch_formats.errors import writing
from instsearch_formats.files import make_folder, replacing, version, write_text
from instsearch_formats.lock import WriterLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from io import TextIOWrapper
    from pathlib import Path
    from types import FrameType, TracebackType

    from instsearch_cli.progress import Quiet

J = TypeVar("J")
B = TypeVar("B")

REQUEST, LOG = "run.json", "log.csv"


class Trainer:
    """What a spec's ``trainer`` names: a nested ``Config`` as components have, a constructor ``(config, device)``.

    An option that decides nothing is made by ``option(..., touches="query")``. Its networks start from
    ``config.seed``.
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Its options."""

    def __init__(self, config: Any, device: torch.device) -> None:
        self.config, self.device = config, device

    def identity(self) -> dict[str, Any]:
        """Facts beside the options that decide its output."""
        return {}

    def digest(self, data: Path, progress: Quiet) -> Any:
        """What the data are: all that the folder holds."""
        return data_digest(data, progress)

    def train(self, data: Path, run: Run) -> Mapping[str, Tensor]:
        """The trained weights by the names that the component reads; ``data`` is the user's folder.

        The loop is ``for epoch in run.stage(...): for batch in run.steps(...): run.log(...)``.
        """
        raise NotImplementedError


@runtime_checkable
class Part(Protocol):
    """What a checkpoint keeps: networks, optimisers, and whatever else has a state of tensors and numbers."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Best:
    """A network's weights at its lowest loss so far."""

    def __init__(self) -> None:
        self.loss, self.weights = math.inf, dict[str, Tensor]()

    def offer(self, loss: float, network: nn.Module) -> None:
        """Keep the weights if the loss is lower than any before."""
        if loss < self.loss:
            self.loss = loss
            self.weights = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.loss, self.weights = state_dict["loss"], state_dict["weights"]


class Run:
    """One training in a folder of its own; a context manager.

    A second process with the same folder is refused. Going on after a kill gives, on the CPU, the weights
    that an undisturbed run gives: a checkpoint holds the stage's parts, torch's generators, and the place in
    the run, and the caller derives the order of samples from the epoch. Ctrl-C ends the run after the step
    under way, with a checkpoint; a second one ends it at once.

    request  JSON values that decide the result. A folder in which work was begun with others is a UsageError.
    """

    every: ClassVar[float] = 60.0  #: seconds between checkpoints, if writing one takes less than a twentieth

    def __init__(self, folder: Path, request: Mapping[str, Any], progress: Quiet) -> None:
        self.folder, self.request, self.progress = folder, dict(request), progress
        #: what the trainer has to say about the weights; "component options" are those to use them with
        self.card: dict[str, Any] = {}
        self.step = 0  #: steps done in this stage
        self._steps_before = self._epoch = self._batch = 0
        self._announced = False
        self._stage = ""
        self._epochs: dict[str, int] = {}
        self._sums: dict[str, tuple[float, int]] = {}
        self._parts: dict[str, Part] = {}
        self._before = 0.0
        self._stopping = False
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Run:
        make_folder(self.folder)
        with self._cleanup as cleanup:
            cleanup.enter_context(WriterLock(self.folder / "lock").hold())
            self._check_asked()
            self._saved = self._read()
            self._began = self._wrote = time.monotonic()
            self._log: TextIOWrapper = cleanup.enter_context(self._open_log())
            cleanup.enter_context(self._gently())
            cleanup.callback(self.progress.close)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self.folder / LOG):
            self._cleanup.close()

    def stage(self, name: str, epochs: int, **parts: Part) -> Iterator[int]:
        """The epochs that are still to do, 0 to ``epochs`` - 1; ``parts`` are put as the checkpoint has them.

        A stage that was finished before the checkpoint yields nothing and touches nothing: what the next
        one needs of it must be among that one's parts.
        """
        self._epochs[name] = epochs
        saved = self._saved
        if saved is not None and name in saved["past"]:
            return
        self._steps_before += self.step
        self._stage, self._parts, self._sums, self._announced = name, dict(parts), {}, False
        self.step = self._epoch = self._batch = 0
        if saved is not None:
            self._restore(saved)
        while self._epoch < epochs:
            yield self._epoch
            self._say(epochs)
            self._epoch, self._batch, self._sums = self._epoch + 1, 0, {}
        self.progress.close()
        if self._wrote_at != self._place():
            self.save()

    def steps(
        self, batches: Sequence[Sequence[J]], load: Callable[[Sequence[J]], B], workers: int = 2
    ) -> Iterator[B]:
        """What ``load`` makes of the epoch's batches, those done before the checkpoint left out.

        ``workers`` threads read ahead. A batch for which ``load`` raises BadImage is no step; InstsearchError
        if the epoch has no other.
        """
        done, before, reason = self._batch, self.step, ""
        if not self._announced:
            left = self._epochs[self._stage] - self._epoch
            self.progress.start(self._stage, left * sum(map(len, batches)) - sum(map(len, batches[:done])))
            self._announced = True
        with Reader(batches[done:], load, workers, workers + 1) as reader:
            for batch, loaded in reader:
                if isinstance(loaded, BadImage):
                    reason = loaded.reason
                else:
                    yield loaded
                    self.step += 1
                self._batch += 1
                self.progress.advance(len(batch))
                if self._stopping or time.monotonic() - self._wrote >= self._interval():
                    self.save()
                self.check()
        if reason and not done and self.step == before:
            raise InstsearchError(f"nothing of the data can be trained on: {reason}")

    def log(self, **losses: Tensor | float) -> None:
        """Write down the losses of the step under way. Raises InstsearchError unless they are finite."""
        for name, loss in losses.items():
            value = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
            self._write(name, value, self.step + 1)
            if not math.isfinite(value):
                raise self._diverged(f"the loss '{name}' is {value}")
            total, n = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, n + 1

    def measured(self, **numbers: float) -> None:
        """Write down numbers of the epoch that has just ended. Raises InstsearchError unless they are finite."""
        for name, value in numbers.items():
            self._write(name, value, self.step)
            if not math.isfinite(value):
                raise self._diverged(f"'{name}' is {value}")
            self._sums[name] = value, 1

    def check(self) -> None:
        """Stop here, with a checkpoint, if Ctrl-C was pressed: for long work between steps."""
        if self._stopping:
            if self._wrote_at != self._place():
                self.save()
            raise KeyboardInterrupt

    def save(self) -> None:
        """Write a checkpoint. Raises InstsearchError, and leaves the last one, if a weight is not finite."""
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        state = self._place() | {
            "steps before": self._steps_before,
            "past": [name for name in self._epochs if name != self._stage],
            "sums": self._sums,
            "log": self._logged(),
            "seconds": self.seconds,
            "parts": parts,
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if _uses_cuda() else [],
        }
        for name, part in parts.items():
            if not _finite(part):
                raise self._diverged(f"'{name}' holds numbers that are not finite")
        began = time.monotonic()
        with replacing(self.folder / CHECKPOINT) as aside:
            write_tensors(aside, state)
        self._wrote, self._took = time.monotonic(), time.monotonic() - began
        self._wrote_at = self._place()

    @property
    def seconds(self) -> float:
        """Time spent, that before interruptions included."""
        return self._before + time.monotonic() - self._began

    def finish(self, out: Path, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Any]:
        """Write the weights and their card, and drop the checkpoint; returns the card."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        if not _finite(state):
            raise self._diverged("the weights hold numbers that are not finite")
        with replacing(out) as aside:
            write_tensors(aside, state)
        card = {
            **self.request,
            "sha256": sha256(out),
            **self.card,
            "epochs": self._epochs,
            "steps": self._steps_before + self.step,
            "seconds": round(self.seconds, 1),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            "made with": {"instsearch": version(), "torch": torch.__version__},
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        write_text(card_of(out), json.dumps(card, indent=1) + "\n")
        with writing(self.folder / CHECKPOINT):
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return card

    _took = 0.0
    _wrote_at: Mapping[str, Any] | None = None

    def _interval(self) -> float:
        return max(self.every, 20 * self._took) if self.every else 0.0

    def _place(self) -> dict[str, Any]:
        return {"stage": self._stage, "epoch": self._epoch, "batch": self._batch, "step": self.step}

    def _check_asked(self) -> None:
        path, log = self.folder / REQUEST, self.folder / LOG
        begun = {file.name for file in self.folder.iterdir()} > {"lock", REQUEST, LOG}  # maps, a checkpoint
        if not (path.exists() and (begun or (log.exists() and log.read_bytes().count(b"\n") > 1))):
            write_text(path, json.dumps(self.request, indent=1) + "\n")
        elif difference := differs(self.request, load_json(path)):
            raise UsageError(
                f"{self.folder} was begun with {difference}.\nChoose another --out, or delete that folder."
            )

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        try:
            saved: dict[str, Any] = load_checkpoint(path)
            self._before, at = float(saved["seconds"]), int(saved["step"])
            _ = int(saved["log"]), list(saved["past"]), str(saved["stage"]), dict(saved["parts"])
        except Exception as error:  # as many as there are ways to be broken
            raise self._unfit(f"{type(error).__name__}: {str(error)[:100]}") from error
        place = f"{saved['stage']}, epoch {saved['epoch'] + 1}, step {at:,}"
        self.progress.say(f"going on from {path}: {place}, after {duration(self._before)}")
        return saved

    def _restore(self, saved: dict[str, Any]) -> None:
        self._saved = None
        try:
            if saved["stage"] != self._stage:
                raise ValueError(f"it is of stage {saved['stage']!r}")
            self.step, self._steps_before = saved["step"], saved["steps before"]
            self._epoch, self._batch, self._sums = saved["epoch"], saved["batch"], dict(saved["sums"])
            self._wrote_at = self._place()
            for name, part in self._parts.items():
                part.load_state_dict(saved["parts"][name])
            torch.set_rng_state(saved["torch"])
            if saved["cuda"] and len(saved["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(saved["cuda"])
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise self._unfit(f"{type(error).__name__}: {str(error)[:100]}") from error

    def _unfit(self, why: str) -> InstsearchError:
        return InstsearchError(
            f"{self.folder / CHECKPOINT} is damaged, or no checkpoint of this training ({why}).\n"
            f"Delete {self.folder} to train from the start."
        )

    def _diverged(self, what: str) -> InstsearchError:
        at = self._wrote_at or self._saved
        last = (
            f"the last good checkpoint is of {at['stage']}, step {at['step']:,}"
            if at
            else "no checkpoint yet"
        )
        return InstsearchError(
            f"training diverged in {self._stage}, epoch {self._epoch + 1}, step {self.step + 1:,}: {what}; {last}.\n"
            "Train with a lower learning rate and another --out."
        )

    def _open_log(self) -> TextIOWrapper:
        """The log, cut to where it was when the checkpoint was written."""
        path = self.folder / LOG
        with writing(path):
            file = path.open("a+", encoding="utf-8", newline="", buffering=1)
            file.truncate(min(int(self._saved["log"]) if self._saved else 0, os.fstat(file.fileno()).st_size))
            file.seek(0, os.SEEK_END)
            if not file.tell():
                csv.writer(file).writerow(("stage", "epoch", "step", "name", "value"))
        return file

    def _logged(self) -> int:
        with writing(self.folder / LOG):
            self._log.flush()
            os.fsync(self._log.fileno())
            return os.fstat(self._log.fileno()).st_size

    def _write(self, name: str, value: float, step: int) -> None:
        with writing(self.folder / LOG):
            csv.writer(self._log).writerow((self._stage, self._epoch + 1, step, name, f"{value:.9g}"))

    def _say(self, epochs: int) -> None:
        means = (f"{name} {total / n:.4f}" for name, (total, n) in self._sums.items())
        self.progress.say(f"{self._stage}, epoch {self._epoch + 1} of {epochs}: {', '.join(means)}")

    @contextlib.contextmanager
    def _gently(self) -> Iterator[None]:
        """Let the first Ctrl-C wait for the end of the step."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, before)
            self._stopping = True
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _uses_cuda() -> bool:
    """Whether this process has touched a GPU; asking one that it has not would cost memory there."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call,unused-ignore]


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    inner = value.values() if isinstance(value, dict) else value
    return not isinstance(value, (dict, list, tuple)) or all(map(_finite, inner))
