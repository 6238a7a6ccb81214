"""What the crash tests run in a process of its own: python writing_driver.py TASK INDEX"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from instsearch_formats import FormatError, ImageRecord, Index


def values(row: int) -> np.ndarray:
    return np.random.default_rng(row).standard_normal((12, 64)).astype(np.float32)


def item(row: int) -> dict:
    x = values(row)
    return {"values": x, "cam": x[:, :5], "logits": x[0], "grid": [3, 4], "transform": [1, 1, 0, row]}


def work(index: Index) -> None:
    """Make what is missing, then more and more, until killed."""
    layer = index.layer("features", "net", "dense-map", {"k": 1})
    with index.lock():
        print("ready", flush=True)
        while True:
            for span in index.images.ranges():
                if not layer.has(span):
                    with layer.writer(span) as writer:
                        for row in span:
                            writer.append(item(row))
                    index.write_model("m", {"upto": span.stop}, {"a": values(span.stop)}, {})
                    index.write_text("pipelines/p.toml", f"stop = {span.stop}\n" * 50)
                    index.images.remove([span.start], "because")
            n = len(index.images)
            index.images.add_root(f"/pictures/{n}")
            index.images.append([ImageRecord(b"%d" % (n + i), 0, 1, 1, 1, 1, bytes(32)) for i in range(5)])


def full(index: Index) -> None:
    """Meet a full disk at every size that a part passes through."""
    import resource

    layer = index.layer("features", "net", "dense-map", {"k": 1})
    index.images.add_root("/x")
    before = {path for path in index.path.rglob("*") if path.is_file()}
    rng = np.random.default_rng(0)
    big = rng.standard_normal((1200, 512)).astype(np.float32)
    for limit in [0, 1, 511, 512, 513, 600, 1000, 2048, 4096, 10_000, *range(400_000, 4_200_000, 400_000)]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for attempt in range(4):
            try:
                if attempt == 0:
                    with layer.writer(range(2)) as writer:
                        for _ in range(2):
                            writer.append({"values": big, "grid": [30, 40], "transform": [1, 1, 0, 0]})
                elif attempt == 1:
                    index.write_model("m", {}, {"a": big, "b": big}, {})
                elif attempt == 2 and limit < 1000:
                    index.images.append([ImageRecord(b"x", 0, 1, 1, 1, 1, bytes(32))])
                elif attempt == 3 and limit < 100:
                    index.write_text("pipelines/p.toml", "x" * 1000)
                else:
                    continue
            except FormatError as error:
                said = str(error)
            else:
                raise SystemExit(f"limit {limit}, attempt {attempt}: written all the same")
            after = {path for path in index.path.rglob("*") if path.is_file()}
            if "no space left on" not in said or "nothing is lost" not in said:
                raise SystemExit(f"limit {limit}, attempt {attempt}: {said}")
            if after - before - {index.path / "lock"}:
                raise SystemExit(f"limit {limit}, attempt {attempt}: left {after - before}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    index.images.append([ImageRecord(b"x", 0, 1, 1, 1, 1, bytes(32)) for _ in range(2)])
    with layer.writer(range(2)) as writer:
        for _ in range(2):
            writer.append({"values": big, "grid": [30, 40], "transform": [1, 1, 0, 0]})
    print("done", flush=True)


def hold(index: Index) -> None:
    """Hold the lock until killed."""
    with index.lock():
        print("ready", flush=True)
        time.sleep(60)


def fork(index: Index) -> None:
    """Hold the lock, and leave a child behind that lives longer."""
    with index.lock():
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
        time.sleep(60)


if __name__ == "__main__":
    {"work": work, "full": full, "hold": hold, "fork": fork}[sys.argv[1]](Index.open(Path(sys.argv[2])))
