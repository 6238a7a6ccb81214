"""The arguments that benchmarks share: where the photographs and a network's weights are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose errors say what ``--data`` and ``--weights`` must be."""

    def __init__(self, doc: str | None) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.needs: dict[str, str] = {}

    def add_data(self, *files: str, required: bool = True) -> None:
        """``--data DIR``: a folder with ``files``, such as a manifest, and the photographs in images/."""
        self.needs["--data"] = " and ".join(part for part in (", ".join(files), "images/") if part)
        self.needs["--data"] = f"a folder with {self.needs['--data']}"

        def folder(text: str) -> Path:
            for name in (*files, "images"):
                if not (Path(text) / name).exists():
                    raise argparse.ArgumentTypeError(f"there is no {Path(text) / name}")
            return Path(text)

        self.add_argument("--data", type=folder, required=required, metavar="DIR", help=self.needs["--data"])

    def add_weights(self, network: str = "squeezenet1_0", required: bool = True) -> None:
        """``--weights FILE`` of a network."""
        self.needs["--weights"] = f"the file of {network}'s weights"

        def file(text: str) -> Path:
            if not Path(text).is_file():
                raise argparse.ArgumentTypeError(f"there is no file {text}")
            return Path(text)

        help = self.needs["--weights"]
        self.add_argument("--weights", type=file, required=required, metavar="FILE", help=help)

    def error(self, message: str) -> NoReturn:
        """Exit with 2 after a message that says what the arguments it names must be."""
        needs = [f"{option} is {what}" for option, what in self.needs.items() if option in message]
        super().error("; ".join([message, *needs]))


def photographs(data: Path, n: int | None = None) -> list[Path]:
    """The JPEG files of ``--data``, sorted: all, or n spread over them evenly."""
    every = sorted((data / "images").rglob("*.jpg"))
    return every if n is None else every[:: max(1, len(every) // n)][:n]
