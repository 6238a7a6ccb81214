"""Searchers `milvus` over stored codes, in folders of Milvus Lite and on a server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from instsearch_cli.data import Hits, Image, Query, SparseVectors, Vectors
from instsearch_cli.errors import InstsearchError
from instsearch_cli.options import make_config
from instsearch_cli.progress import Quiet
from instsearch_cli.storage import Origin
from instsearch_plugins.searchers import milvus_server
from instsearch_plugins.searchers.faiss_index import Faiss
from instsearch_plugins.searchers.inverted import Inverted
from instsearch_plugins.searchers.milvus import Milvus
from states import load
from stored_codes import StoredCodes

CPU = torch.device("cpu")
SERVER = os.environ.get("INSTSEARCH_TEST_MILVUS", "")


class Sparse(StoredCodes):
    """The same rows as csr."""

    def encoded(self, rows, pointers):
        indptr = np.cumsum([0, *(rows != 0).sum(1)])
        i, j = np.nonzero(rows)
        return {"rows": pointers, "indices": j, "data": rows[i, j], "indptr": indptr, "dim": rows.shape[1]}


def origin(data, place="/a/folder", pictures="p", names=None):
    """What the engine says of an index: a digest of its pictures for every number of rows."""
    named = (lambda row: f"{row}.jpg") if names is None else names
    return Origin(
        Path(place),
        f"{'0' * 12}_{uuid.uuid5(uuid.NAMESPACE_URL, str(id(data))).hex[:12]}",
        lambda stop: f"{pictures}{stop}",
        lambda span: [named(row) for row in span],
    )


@pytest.fixture(params=["lite", "server"])
def options(request: pytest.FixtureRequest, shared: str) -> Iterator[dict[str, str]]:
    """Options of a searcher with collections of its own, which are dropped in the end."""
    uri, prefix = shared, f"test_{uuid.uuid4().hex[:8]}"
    if request.param == "server":
        uri = SERVER or pytest.skip("no server is named by INSTSEARCH_TEST_MILVUS")
    try:
        server = milvus_server.connected(uri, "")
    except InstsearchError as error:
        pytest.skip(str(error))
    yield {"uri": uri, "collection": prefix}
    for name in server.client.list_collections():
        if name.startswith(prefix):
            server.client.drop_collection(name)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder of Milvus Lite that stays open."""
    folder = str(tmp_path_factory.mktemp("milvus") / "test.db")
    server = milvus_server.connected(folder, "", create=True)
    yield folder
    del server


def searcher(options, cls=Milvus, **more):
    return cls(make_config(cls, {**options, **more}, "searcher"))


def filled(data, options, of=None, **more):
    """A searcher whose copy is filled, as the engine has it for a query."""
    of, made = of or origin(data), searcher(options, **more)
    load(made, made.fill(data, of, Quiet()).state, data.span)
    return made, of


def by_hand(cls, data, folder, **options):
    made = cls(make_config(cls, options, "searcher"), CPU)
    data.folder = folder
    load(made, made.fit(data, Quiet()), data.span)
    return made


def asked(codes, exclude=(), per_image=1):
    picture = Image(np.zeros((4, 4, 3), np.uint8), (4, 4))
    return Query("q", picture, None, None, None, codes, frozenset(exclude), per_image)


def dense(rows):
    rows = torch.as_tensor(np.atleast_2d(rows), dtype=torch.float32)
    return Vectors(rows, torch.zeros(len(rows), 4))


def sparse(rows):
    rows = np.atleast_2d(rows)
    i, j = np.nonzero(rows)
    indptr = np.cumsum([0, *(rows != 0).sum(1)])
    return SparseVectors(j, rows[i, j].astype(np.float32), indptr, rows.shape[1], np.zeros((len(rows), 4)))


def assert_same(mine: Hits, theirs: Hits) -> None:
    np.testing.assert_array_equal(mine.images, theirs.images)
    np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-5)
    np.testing.assert_array_equal(mine.boxes, theirs.boxes)


def rows_of(kind, n, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "sparse":
        return np.where(rng.random((n, 40)) < 0.15, rng.random((n, 40)), 0).astype(np.float32)
    x = rng.standard_normal((n, 8)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


KINDS = {"dense": (StoredCodes, dense, Faiss), "sparse": (Sparse, sparse, Inverted)}
