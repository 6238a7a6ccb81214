"""Files that others could have written, changed at random, read by what the program reads them with.

python benchmarks/fuzz_inputs.py [--count N] [--seed N] [--kind KIND]... [--jobs N] [--keep DIR]

KIND is mat, pickle, npz, csv, json, toml or checkpoint; all of them without it. Small files are made on the spot, and
bits flipped, bytes lost, repeated or put in, numbers made to lie, also inside what is compressed. Each is read in a
process of its own kind under a limit of time and memory. It survives if an answer comes, or an error of the project's.
Prints a line a kind, and one for each file that did not survive; --keep writes these files to a folder.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from arguments import Parser
from instsearch_cli.errors import InstsearchError
from instsearch_formats import FormatError
from outside_files import valid_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

SECONDS = 10.0  #: that reading one file may take
MEMORY = 2 << 30  #: bytes of addresses that it may take beside what the process has
LIES = (
    0,
    1,
    2,
    7,
    0x7F,
    0xFF,
    0xFFFF,
    1 << 20,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 33,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
HUGE = b"\xff" * 7 + b"\0"
WORDS = {
    "json": (b"NaN", b"-Infinity", b"1e999", b"null", b'"\\ud800"', b'"\\u0000"', b"1" * 5000, b"[" * 3000),
    "csv": (
        b"nan",
        b"inf",
        b"-1",
        b"\0",
        b'"',
        b"\xff",
        b"\xef\xbb\xbf",
        b",",
        b"\r",
        b"1" * 5000,
        b"a" * 200_000,
    ),
    "toml": (
        b"nan",
        b"true",
        b"[[rerank]]\n",
        b'"\\ud800"',
        b"1" * 5000,
        b"[" * 3000,
        b"a." * 3000,
        b"{a=" * 500,
    ),
    "pickle": (b"2", b"]", b"}", b"(", b"t", b"R", b"s", b"0", b"2\x86" * 40, b"\x95" + HUGE, b"\x8e" + HUGE),
}
"""What is put in besides bytes: words that a reader of text or of opcodes takes for something."""


class Mutation(NamedTuple):
    """A changed file, and the function of a path that reads it as the program does."""

    kind: str
    data: bytes
    read: Callable[[Path], Any]


def mutations(seed: int, kinds: tuple[str, ...] = ()) -> Iterator[Mutation]:
    """Changed files without end, the same for the same seed: one of each kind in turn."""
    number = 0
    while True:
        for kind in kinds or tuple(valid_files()):
            yield mutation(seed, kind, number)
        number += 1


def mutation(seed: int, kind: str, number: int) -> Mutation:
    """The changed file of a number, as a report names it."""
    chance = random.Random(f"{seed} {kind} {number}")
    suffix, data, read = chance.choice(valid_files()[kind])
    return Mutation(kind, mutated(data, suffix, chance), read)


def mutated(data: bytes, suffix: str, chance: random.Random) -> bytes:
    """A file with one to four changes, half of the time inside what its container holds."""
    inner = chance.random() < 0.5
    if inner and data[:4] == b"PK\x03\x04":
        return _within_zip(data, suffix, chance)
    if inner and suffix == "mat" and data[:6] == b"MATLAB" and data[126:128] == b"IM":
        return _within_mat(data, chance)
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        chance.choice((_flip, _flip, _cut, _drop, _repeat, _splice, _lie, _lie, _word))(
            changed, suffix, chance
        )
    return bytes(changed)


def _flip(data: bytearray, suffix: str, chance: random.Random) -> None:
    for _ in range(min(len(data), chance.choice((1, 1, 3, 20)))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _cut(data: bytearray, suffix: str, chance: random.Random) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _drop(data: bytearray, suffix: str, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    del data[at : at + chance.choice((1, 4, 8, 64))]


def _repeat(data: bytearray, suffix: str, chance: random.Random) -> None:
    at, n = chance.randrange(len(data) + 1), chance.choice((1, 8, 64, 500))
    data[at:at] = data[at : at + n] * chance.choice((1, 2, 50, 1000))


def _splice(data: bytearray, suffix: str, chance: random.Random) -> None:
    a, b, n = (chance.randrange(len(data) + 1) for _ in range(3))
    data[a : a + n % 64] = data[b : b + n % 64]


def _lie(data: bytearray, suffix: str, chance: random.Random) -> None:
    """Another length, offset or count: a number in text, four or eight bytes elsewhere."""
    if found := list(re.finditer(rb"\d+(\.\d+)?", data)) if suffix in ("json", "csv", "toml", "npy") else []:
        match = chance.choice(found)
        data[match.start() : match.end()] = str(chance.choice((*LIES, -1, -0.5))).encode()
        return
    width, order = chance.choice((1, 4, 4, 8)), chance.choice(("little", "little", "big"))
    at = chance.randrange(len(data) + 1)
    data[at : at + width] = (chance.choice(LIES) % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]


def _word(data: bytearray, suffix: str, chance: random.Random) -> None:
    words = WORDS.get(suffix, WORDS["pickle"])
    at = chance.randrange(len(data) + 1)
    data[at : at + chance.choice((0, 0, 1, 4))] = chance.choice(words) * chance.choice((1, 1, 1, 30))


def _within_zip(data: bytes, suffix: str, chance: random.Random) -> bytes:
    """One entry changed and packed anew, with a checksum that fits."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, warnings.catch_warnings(action="ignore"):
        names, how = before.namelist(), chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        pickled = [name for name in names if name.endswith("data.pkl")]
        victim = chance.choice(pickled if pickled and chance.random() < 0.8 else names)
        with zipfile.ZipFile(packed, "w", how) as after:
            for name in names:
                content = bytearray(before.read(name))
                if name == victim:
                    kind = "pickle" if name.endswith("pkl") else "npy"
                    for _ in range(chance.choice((1, 1, 3))):
                        chance.choice((_flip, _cut, _drop, _repeat, _splice, _lie, _lie, _word))(
                            content, kind, chance
                        )
                    name = chance.choice((name, name, name, names[0], "arr_7.npy"))
                after.writestr(name, bytes(content))
                if chance.random() < 0.02:
                    after.writestr("archive/data/9", bytes(50_000_000))
    return packed.getvalue()


def _within_mat(data: bytes, chance: random.Random) -> bytes:
    """The first variable, decompressed if it is, changed and put back."""
    kind, length = (int.from_bytes(data[at : at + 4], "little") for at in (128, 132))
    body = data[136 : 136 + length]
    content = bytearray(zlib.decompress(body) if kind == 15 else data[128:])
    for _ in range(chance.choice((1, 1, 3))):
        at = chance.randrange(0, len(content), 4)  # elements lie at multiples of 4
        content[at : at + 4] = (chance.choice((*LIES, 14, 15, 5, 6, 9)) % (1 << 32)).to_bytes(4, "little")
    if chance.random() < 0.1:
        content += bytes(100_000_000)
    if kind != 15:
        return data[:128] + bytes(content)
    body = zlib.compress(content, 1)
    return data[:132] + len(body).to_bytes(4, "little") + body + data[136 + length :]


# -- reading them in processes of their own ---------------------------------------------------------------


class Outcome(NamedTuple):
    """What became of a file: "answer", "error", or what it must not be, and why; its time and memory."""

    number: int
    what: str
    why: str = ""
    seconds: float = 0.0
    peak: int = 0  #: bytes, above what the process had before


def serve(kind: str, numbers: range, seed: int, pipe: Connection) -> None:
    """Read the files of these numbers one after the other, and say what becomes of each."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    had = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (had + MEMORY, had + MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            changed, path = mutation(seed, kind, number), Path(folder, str(number), "file")
            path.parent.mkdir()
            path.write_bytes(changed.data)
            pipe.send(outcome(number, changed.read, path))
            shutil.rmtree(path.parent)


def outcome(number: int, read: Callable[[Path], Any], path: Path) -> Outcome:
    """What becomes of one file."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, began, what, why = _peak(), time.perf_counter(), "answer", ""
    try:
        read(path)
    except (InstsearchError, FormatError) as error:
        what = "error" if len(str(error).splitlines()) <= 2 else "long error"
        why = str(error)
    except BaseException as error:
        what, why = "no error of ours", f"{type(error).__name__}: {error}"
    return Outcome(number, what, why, time.perf_counter() - began, _peak() - before)


def _peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def run(kind: str, numbers: range, seed: int) -> Iterator[Outcome]:
    """The outcome of each file, those among them at which the process died or went on for too long."""
    context = multiprocessing.get_context("fork")
    at = numbers.start
    while at < numbers.stop:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=serve, args=(kind, range(at, numbers.stop), seed, theirs))
        process.start()
        theirs.close()
        while at < numbers.stop:
            if not ours.poll(SECONDS):
                process.kill()
                yield Outcome(at, "no end", seconds=SECONDS)
                break
            try:
                yield ours.recv()
            except EOFError:
                process.join()
                code = process.exitcode or 0
                yield Outcome(at, "death", signal.Signals(-code).name if code < 0 else f"exit {code}")
                break
            at += 1
        else:
            process.join()
            return
        at += 1


def shares(job: tuple[str, range, int]) -> list[Outcome]:
    """All of :func:`run`, for a process that a pool has."""
    return list(run(*job))


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="files in all (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kind", action="append", choices=["mat", "pickle", "npz", "csv", "json", "toml", "checkpoint"]
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder for the files that did not survive")
    options = parser.parse_args()
    kinds = options.kind or list(valid_files())
    each = -(-options.count // len(kinds))
    step = -(-each // options.jobs)
    failed = 0
    for kind in kinds:
        jobs = [(kind, range(a, min(a + step, each)), options.seed) for a in range(0, each, step)]
        with ThreadPoolExecutor(options.jobs) as threads:
            outcomes = [one for part in threads.map(shares, jobs) for one in part]
        counts = Counter(one.what for one in outcomes)
        slowest, largest = max(one.seconds for one in outcomes), max(one.peak for one in outcomes)
        said = ", ".join(f"{n:,} {what}" for what, n in sorted(counts.items()))
        print(
            f"{kind:<11} {len(outcomes):>6,} files: {said}; slowest {slowest:.2f} s, "
            f"at most {largest / 1e6:,.0f} MB more"
        )
        for one in outcomes:
            if one.what not in ("answer", "error"):
                failed += 1
                print(f"  {kind} {one.number} (seed {options.seed}): {one.what}: {one.why[:200]!r}")
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{kind}-{one.number}").write_bytes(
                        mutation(options.seed, kind, one.number).data
                    )
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
