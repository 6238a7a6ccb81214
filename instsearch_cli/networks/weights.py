"""Network weights from disk: where they lie, what they are, and reading them without trusting them.

torch is imported on use, torchvision only where its cache or its download is asked for.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks.checkpoints import load_checkpoint
from instsearch_cli.networks.safe import SUFFIX as SAFE
from instsearch_cli.networks.safe import load_tensors
from instsearch_cli.specs import NAMES
from instsearch_formats.errors import writing
from instsearch_formats.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch
    from torch import Tensor, nn

SUFFIXES = (".pth", ".pt", ".bin", SAFE)
MOST = 20_000  # tensors; the largest network here has some 1,000
PATIENCE = 20.0  # seconds without a byte before a download is given up


class Official(NamedTuple):
    """The file that torchvision publishes for a network."""

    url: str
    name: str
    cached: Path

    @property
    def digest(self) -> str | None:
        """The beginning of the file's sha256, which torchvision writes into its name."""
        match = re.search(r"-([0-9a-f]{8,})\.", self.name)
        return match[1] if match else None


class WeightsRow(NamedTuple):
    """One network in `instsearch weights`: where its file is, or what is missing."""

    network: str
    found: Path | None
    source: str
    sha256: str


def official(network: str) -> Official | None:
    """torchvision's weights of ``network`` (the first published, as the papers used), of ImageNet or COCO, if any."""
    import torch.hub
    from torchvision.models import get_model_weights

    try:
        weights = get_model_weights(network).__members__
    except ValueError:
        return None
    first = weights.get("IMAGENET1K_V1") or weights.get("COCO_V1")
    if first is None:
        return None
    url: str = first.url
    name = url.rsplit("/", 1)[-1]
    return Official(url, name, Path(torch.hub.get_dir()) / "checkpoints" / name)


def find_weights(network: str, explicit: str | os.PathLike[str] | None = None, published: str = "") -> Path:
    """The weights file of ``network``: the explicit one, INSTSEARCH_WEIGHTS, the imported one, torchvision's.

    INSTSEARCH_WEIGHTS names a folder, or several; a file there is the network's when it is called NETWORK.pth or,
    where none is, NETWORK-ANYTHING.pth (.pt, .bin, .safetensors), and so in :func:`user_folder`. torchvision's
    comes from its cache or a download, which INSTSEARCH_OFFLINE=1 forbids. ``published`` says which file of
    which project to fetch and import, for a network that is not torchvision's.

    Raises InstsearchError that says what to fetch, from where, and how to have it found.
    """
    if placed := placed_weights(network, explicit):
        return placed
    if published:
        raise InstsearchError(
            f"no weights for {network}. Published: {published}.\n"
            f"Fetch that file and run `instsearch weights import {network} FILE`."
        )
    source = official(network)
    if source is None:
        raise InstsearchError(
            f"no weights for {network}, and torchvision publishes none.\n"
            f"Give its file with --weights FILE, or name it {network}.pth and point INSTSEARCH_WEIGHTS there."
        )
    if not source.cached.is_file():
        _fetch(network, source)
    elif source.digest and not sha256(source.cached).startswith(source.digest):
        raise InstsearchError(
            f"{source.cached}: damaged, its contents are not those of the published file.\n"
            "Delete it and run the command again."
        )
    return source.cached


def placed_weights(network: str, explicit: str | os.PathLike[str] | None = None) -> Path | None:
    """The explicit file, or the network's in INSTSEARCH_WEIGHTS or among the imported; None if there is none.

    Raises InstsearchError for an explicit one that is not there, or several in one folder.
    """
    if not explicit:
        placed = _in_folders(network)
        return placed[0] if placed else None
    path = Path(explicit).expanduser()
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        what = "is no file, but a FIFO, a socket or a device" if path.exists() and not path.is_dir() else what
        raise InstsearchError(f"{path}: the weights file {what}.")
    return path


def list_weights(networks: Mapping[str, str], cached: Mapping[str, Path] | None = None) -> list[WeightsRow]:
    """Where the weights of networks are, for people, or why it is not known which; nothing is fetched.

    networks: name -> what is published of it, "" for what torchvision has; cached: files in others' caches
    """
    named_folders()  # all are there
    rows = []
    for network, published in networks.items():
        try:
            path, where = _in_folders(network) or (None, f"missing: {published}" if published else "missing")
        except InstsearchError as error:  # of several files nobody knows which is meant
            rows.append(WeightsRow(network, None, str(error).splitlines()[0], ""))
            continue
        if path is None and cached and network in cached:
            path, where = cached[network], f"cached; {published}"
        if path is None and not published and (source := official(network)):
            if source.cached.is_file():
                path, where = source.cached, "torchvision's cache"
            else:
                where = f"missing: {source.name} of torchvision"
        rows.append(WeightsRow(network, path, where, sha256(path)[:12] if path else ""))
    return rows


def user_folder() -> Path:
    """Where imported weights lie: $XDG_DATA_HOME/instsearch/weights, ~/.local/share without it."""
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path("~/.local/share").expanduser()) / "instsearch" / "weights"


def named_folders() -> list[Path]:
    """The folders of INSTSEARCH_WEIGHTS. Raises InstsearchError for one that is not there."""
    folders = []
    for name in filter(None, os.environ.get("INSTSEARCH_WEIGHTS", "").split(os.pathsep)):
        if not (folder := Path(name).expanduser()).is_dir():
            raise InstsearchError(f"INSTSEARCH_WEIGHTS: {name} is not a folder.")
        folders.append(folder)
    return folders


def weights_in(folder: Path, network: str) -> list[Path]:
    """The files of a folder that are called like the network's weights and no longer-named one's, sorted."""
    # vgg16_bn.pth is another network than vgg16, and so is vgg16-cam.pth; torchvision calls files NETWORK_coco-HASH.pth
    others = "|".join(re.escape(name) for name in sorted(NAMES) if name.startswith(f"{network}-"))
    other = rf"(?!({others})[-.])" if others else ""
    mine = re.compile(rf"{other}{re.escape(network)}(_coco)?(-.*)?({'|'.join(map(re.escape, SUFFIXES))})")
    return sorted(path for path in folder.iterdir() if mine.fullmatch(path.name) and path.is_file())


def sha256(path: Path) -> str:
    """The file's sha256 in hex, remembered while its size and time of change stay."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, mapped from the file where its format allows.

    A dict under "state_dict" or "model", and names that all begin with "module.", are unwrapped.

    Raises InstsearchError for a file that is too large, damaged, not a checkpoint, or has code in it.
    """
    import torch

    loaded: Any = load_tensors(path) if path.suffix == SAFE else load_checkpoint(path, mapped=True)
    if isinstance(loaded, dict):
        inner = (loaded[key] for key in ("state_dict", "model") if isinstance(loaded.get(key), dict))
        loaded = next(inner, loaded)
    if not isinstance(loaded, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in loaded.items()
    ):
        raise InstsearchError(f"{path}: not a state dict (names and tensors).")
    if len(loaded) > MOST:
        raise InstsearchError(f"{path}: {len(loaded):,} tensors, too many for a network's weights.")
    prefix = "module." if all(key.startswith("module.") for key in loaded) else ""
    return {key.removeprefix(prefix): value for key, value in loaded.items()}


def write_tensors(path: Path, content: Any) -> None:
    """Write a checkpoint as a new file, and see it on the disk. Raises FormatError for what the disk says."""
    import torch

    with writing(path), closing(Sink(path)) as file:  # by a path, its name would be in the bytes
        torch.save(content, cast("IO[bytes]", file))
        file.sync()


def needed(network: nn.Module) -> list[str]:
    """Names of the tensors that ``network`` computes with: all but the counters that only training reads."""
    return [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]


def check_state_dict(network: nn.Module, names: Iterable[str], state: dict[str, Tensor], path: Path) -> None:
    """Compare the tensors that ``network`` needs, by ``names``, with those of ``state``.

    Raises InstsearchError for the first that is missing, has another shape, or other than real numbers.
    """
    expected = network.state_dict()
    for name in names:
        shape = tuple(expected[name].shape)
        if name not in state:
            first = next(iter(state), "nothing")
            raise InstsearchError(
                f"{path}: no tensor {name!r} of shape {shape}; the first one is {first!r}.\n"
                "Give the weights file of this very network; `instsearch weights import` converts published ones."
            )
        if (found := tuple(state[name].shape)) != shape:
            raise InstsearchError(f"{path}: tensor {name!r} has shape {found}, the network's has {shape}.")
        if expected[name].is_floating_point() and not state[name].is_floating_point():
            kind = str(state[name].dtype).removeprefix("torch.")
            raise InstsearchError(f"{path}: tensor {name!r} holds {kind}, the network's real numbers.")


def check_finite(name: str, values: Tensor, path: Path) -> None:
    """Raises InstsearchError that counts what is not finite in a tensor."""
    finite = values.isfinite()
    if not bool(finite.all()):
        count = int((~finite).sum())
        raise InstsearchError(
            f"{path}: damaged: {count} values of tensor {name!r} are not finite. Download it again."
        )


def put_weights(
    network: nn.Module,
    names: Iterable[str],
    state: dict[str, Tensor],
    path: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Give a network that has shapes alone the tensors of ``state``, by ``names``, on a device and in a type.

    They are copies, so that the file may go, laid out as convolutions run fastest, on the CPU too. Raises
    InstsearchError as :func:`check_state_dict` does, and for numbers that are not finite.
    """
    import torch

    names = list(names)
    check_state_dict(network, names, state, path)
    placed = {}
    for name in names:
        memory = torch.channels_last if state[name].ndim == 4 else torch.contiguous_format
        placed[name] = state[name].to(device, dtype, copy=True, memory_format=memory)
        check_finite(name, placed[name], path)
    network.load_state_dict(placed, strict=False, assign=True)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_folders(network: str) -> tuple[Path, str] | None:
    """The network's file in the folders that people fill, and how to call the place."""
    places = [(folder, "INSTSEARCH_WEIGHTS") for folder in named_folders()]
    if (imported := user_folder()).is_dir():
        places.append((imported, "imported"))
    for folder, place in places:
        found = weights_in(folder, network)
        found = [path for path in found if path.stem == network] or found
        if len(found) > 1:
            raise InstsearchError(
                f"{folder}: several weights for {network}: {', '.join(path.name for path in found)}.\n"
                "Keep one there, or choose with --weights FILE."
            )
        if found:
            return found[0], place
    return None


def _fetch(network: str, source: Official) -> None:
    """Download the official file into torchvision's cache; InstsearchError says what to do instead."""
    import torch.hub

    if os.environ.get("INSTSEARCH_OFFLINE", "0") not in ("", "0"):
        reason = "INSTSEARCH_OFFLINE is set"
    else:
        try:
            source.cached.parent.mkdir(parents=True, exist_ok=True)
            with _patience(PATIENCE):
                torch.hub.download_url_to_file(source.url, os.fspath(source.cached), source.digest)
            return
        except (OSError, RuntimeError) as error:  # no network, no disk; a hash that differs
            reason = f"the download failed: {error}"
    raise InstsearchError(
        f"no weights for {network} ({reason}).\n"
        f"Download {source.name} of torchvision (PyTorch model zoo) from {source.url}, and give it with "
        "--weights FILE, or put it in a folder and set INSTSEARCH_WEIGHTS to that folder."
    )


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """torch's download waits for ever on a network that swallows packets; sockets made in here do not."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
