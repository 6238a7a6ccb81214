"""A function that may crash or hang, called in a process of its own."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any


class Died(Exception):  # noqa: N818
    """The process ended, or was ended for its time; the message says which."""


class Isolated:
    """``module:function`` of this folder in a process that is started again where it dies.

    Arguments and results are what JSON can hold. ``peak`` is the most memory that a process took, in bytes.
    """

    def __init__(self, function: str, seconds: float = 60.0) -> None:
        self.function, self.seconds, self.peak = function, seconds, 0
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """What the function gives. Raises :class:`Died`."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()
        timer = threading.Timer(self.seconds, lambda: (late.set(), process.kill()))
        timer.start()
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(arguments) + "\n")
                process.stdin.flush()
            line = process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            code = process.wait()
            self.close()
            if late.is_set():
                raise Died(f"hang: more than {self.seconds:g} s")
            raise Died(f"crash: {signal.Signals(-code).name if code < 0 else f'exit status {code}'}")
        result, peak = json.loads(line)
        self.peak = max(self.peak, peak)
        return result

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, __file__, self.function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self._process

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def peak_memory() -> int:
    """The most bytes that this process held."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def serve(name: str) -> None:
    """Call a function for each line of standard input; decoders may print what they like."""
    module, _, function = name.partition(":")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    work = getattr(importlib.import_module(module), function)
    for line in sys.stdin:
        print(json.dumps([work(*json.loads(line)), peak_memory()]), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
