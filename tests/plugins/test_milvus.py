"""Searchers `milvus` and `milvus-hamming`, in folders of Milvus Lite: what they find is what local searchers find.

With INSTSEARCH_TEST_MILVUS=http://host:19530 a server is asked as well; INSTSEARCH_MILVUS has its login.
"""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from hamming_collection import Collection, Weighed, fitted, query, random_words
from instsearch_cli.data import Hits, Image, Query, SparseVectors, Vectors
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import make_config
from instsearch_cli.progress import Quiet
from instsearch_cli.storage import Origin
from instsearch_plugins.searchers import milvus_asking, milvus_copy, milvus_server
from instsearch_plugins.searchers.faiss_index import Faiss
from instsearch_plugins.searchers.hamming import among
from instsearch_plugins.searchers.inverted import Inverted
from instsearch_plugins.searchers.milvus import Milvus
from instsearch_plugins.searchers.milvus_hamming import MilvusHamming
from instsearch_plugins.searchers.postings import inverted, inverted_of
from states import load
from stored_codes import StoredCodes

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("regions", [False, True])
def test_what_is_found_is_what_the_local_searcher_finds(
    kind: str, regions: bool, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed and excluded images, several regions an image, and more than one time asked."""
    stored, codes, cls = KINDS[kind]
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 7, 40).tolist() if regions else None
    rows = rows_of(kind, sum(counts) if counts else 40)
    data = stored(rows, counts, removed=(3, 4, 17), part=11)
    made, other = filled(data, options)[0], by_hand(cls, data, tmp_path)
    few, most = [0, 5, 9], [i for i in range(40) if i % 5]
    for most_at_once in (16384, 8):
        monkeypatch.setattr(milvus_asking, "MOST", most_at_once)
        monkeypatch.setattr(milvus_asking, "SOME", 2)
        for k in (1, 7, 50):
            for each in (1, 2, 0) if regions else (1,):
                q = [asked(codes(row), gone, each) for row in rows[:3] for gone in ((), few, most)]
                assert_same(made.search(q, data, k), other.search(q, data, k))


@pytest.mark.parametrize("kind", KINDS)
def test_queries_of_several_rows(kind: str, options: dict[str, str], tmp_path: Path) -> None:
    """R-Match of dense ones, exact however deep it must look; the best of sparse ones."""
    stored, codes, cls = KINDS[kind]
    counts = np.random.default_rng(2).integers(1, 6, 30).tolist()
    rows = rows_of(kind, sum(counts), 3)
    data = stored(rows, counts, removed=(8,))
    made, other = filled(data, options)[0], by_hand(cls, data, tmp_path)
    q = [asked(codes(rows[a : a + 3]), (a,)) for a in (0, 20, 40)]
    for k in (1, 4, 30):
        assert_same(made.search(q, data, k), other.search(q, data, k))
    if kind == "dense":
        with pytest.raises(UsageError, match="per-image"):
            made.search([asked(codes(rows[:2]), per_image=2)], data, 3)


def test_an_approximate_index_of_the_server(options: dict[str, str], tmp_path: Path) -> None:
    rows = rows_of("dense", 60)
    data = StoredCodes(rows, removed=(1,))
    made, _ = filled(data, options, index="HNSW", build="M=16,efConstruction=100", search="ef=80")
    q = [asked(dense(row)) for row in rows[2:5]]
    assert_same(made.search(q, data, 5), by_hand(Faiss, data, tmp_path).search(q, data, 5))


def test_a_query_without_a_word_finds_nothing(options: dict[str, str]) -> None:
    data = Sparse(rows_of("sparse", 9))
    made, _ = filled(data, options)
    assert made.search([asked(sparse(np.zeros(40)))], data, 3).valid(0) == 0


# -- the copy -------------------------------------------------------------------------------------------


def test_a_fill_that_was_killed_goes_on(options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    data = Sparse(rows_of("sparse", 20), part=4)
    of, made, mend, blocks = origin(data), searcher(options), milvus_copy.Copy.mend, []

    def killed(self, found):
        if len(blocks) == 3:
            raise KeyboardInterrupt
        blocks.append(found)
        return mend(self, found)

    with monkeypatch.context() as patch:
        patch.setattr(milvus_copy.Copy, "mend", killed)
        with pytest.raises(KeyboardInterrupt):
            made.fill(data, of, Quiet())
    assert len(made.differences(data, of, Quiet())) == 1
    again = made.fill(data, of, Quiet())
    assert again.changed == 20 - 3 * 4
    assert made.differences(data, of, Quiet()) == []
    assert made.fill(data, of, Quiet()).changed == 0


def test_what_differs_is_named_and_the_next_fill_mends_it(options: dict[str, str]) -> None:
    rows = rows_of("dense", 12)
    data = StoredCodes(rows, [2] * 6)
    made, of = filled(data, options)
    copy, _ = made._copy(made._name(of))
    client, per = copy.server.client, milvus_copy.REGIONS
    (one,) = client.get(copy.name, [2 * per])
    (two,) = client.get(copy.name, [3 * per + 1])
    (three,) = client.get(copy.name, [4 * per])
    client.delete(copy.name, ids=[per, per + 1])
    wrong = {**dict(one), "code": rows[7]}
    turned = {**dict(two), "x1": 3.5}
    lied = {**dict(three), "sum": 7}
    client.upsert(copy.name, [wrong, turned, lied, {**dict(one), "id": 99 * per, "row": 99}])
    said = made.differences(data, of, Quiet())
    assert [line.partition(": ")[2] for line in said] == [
        "2 missing: 1.jpg, 1.jpg (region 1)",
        "1 with other codes: 2.jpg",
        "1 with other boxes: 3.jpg (region 1)",
        "1 with other checksums: 4.jpg",
        "1 of nothing in the index: row 99",
    ]
    assert made.fill(data, of, Quiet()).changed == 5
    assert made.differences(data, of, Quiet()) == []


def test_what_is_there_twice_is_written_anew(options: dict[str, str]) -> None:
    """Milvus Lite that is killed at the wrong moment has what was in its log twice."""
    data = Sparse(rows_of("sparse", 5))
    blocks = list(data.blocks("codes"))
    own = milvus_copy.entities(blocks[0], ["a.jpg", "b.jpg", "c.jpg"])
    there = [{"id": number, "sum": total} for number, total in zip(own.ids, own.sums, strict=True)]
    assert not any(milvus_copy._differences(own, None, there).named())
    found = milvus_copy._differences(own, None, [*there, there[1]])
    assert list(found.named()) == [("there more than once", milvus_copy.REGIONS, "b.jpg")]
    made, of = filled(data, options)
    copy, _ = made._copy(made._name(of))
    assert copy.mend(found) == 1
    assert copy.count() == 5


def test_pictures_are_renamed_and_added(options: dict[str, str]) -> None:
    rows = rows_of("sparse", 9)
    data = Sparse(rows[:6])
    _, of = filled(data, options)
    other = of._replace(names=lambda span: ["neu/é.jpg" if row == 2 else f"{row}.jpg" for row in span])
    more = Sparse(rows)
    made, _ = filled(more, options, of=other)
    copy, _ = made._copy(made._name(other))
    assert copy.count() == 9
    (entity,) = copy._query(f"id == {2 * milvus_copy.REGIONS}", ["name"])
    assert entity["name"] == "neu/é.jpg"
    assert made.differences(more, other, Quiet()) == []
    (said,) = made.differences(more, of, Quiet())
    assert "1 named otherwise: 2.jpg" in said
    q = asked(sparse(rows[8]))
    assert made.search([q], more, 1).images[0, 0] == 8


def test_a_copy_that_is_gone_or_not_whole_is_not_asked(options: dict[str, str]) -> None:
    data = Sparse(rows_of("sparse", 9))
    made, of = filled(data, options)
    state = made.fill(data, of, Quiet()).state
    (copy, _), q = made._copy(made._name(of)), [asked(sparse(rows_of("sparse", 9)[0]))]
    copy.server.client.delete(copy.name, ids=[0])
    with pytest.raises(InstsearchError, match="is not whole: run `instsearch index`"):
        made.search(q, data, 3)
    copy.server.client.drop_collection(copy.name)
    with pytest.raises(InstsearchError, match=r"is not at .*: run `instsearch index`"):
        made.search(q, data, 3)
    assert "is not there" in made.differences(data, of, Quiet())[0]
    load(made, made.fill(data, of, Quiet()).state, data.span)
    assert made.search(q, data, 1).images[0, 0] == 0
    assert {k: v.tolist() for k, v in state.items()} == {
        k: v.tolist() for k, v in made.fill(data, of, Quiet()).state.items()
    }


def test_the_mirror_of_another_index_is_refused(options: dict[str, str]) -> None:
    rows = rows_of("sparse", 9)
    data = Sparse(rows)
    made, of = filled(data, options)
    copied = of._replace(place=Path("/another/folder"))
    assert made.fill(data, copied, Quiet()).changed == 0  # a copy of the index, or the index moved
    other = of._replace(place=Path("/third"), pictures=lambda stop: f"others{stop}")
    for call in (made.fill, made.differences):
        try:
            said = "".join(call(data, other, Quiet()))
        except InstsearchError as error:
            said = str(error)
        assert "is the mirror of another index, /another/folder" in said
        assert "searcher.collection=NAME" in said
    state = {**made.fill(data, copied, Quiet()).state, "pictures": np.frombuffer(b"others9", np.uint8)}
    load(made, state, data.span)
    with pytest.raises(InstsearchError, match="is the mirror of another index"):
        made.search([asked(sparse(rows[0]))], data, 1)
    fewer = Sparse(rows[:5])  # the index put back from an older copy: it is the truth
    assert made.fill(fewer, copied, Quiet()).changed == 4
    assert made.differences(fewer, copied, Quiet()) == []


def test_only_the_index_s_own_unused_collections_are_dropped(options: dict[str, str]) -> None:
    data = [Sparse(rows_of("sparse", 4, seed)) for seed in range(3)]
    origins = [origin(one) for one in data]
    origins[2] = origins[2]._replace(place=Path("/elsewhere"))
    for one, of in zip(data, origins, strict=True):
        made, _ = filled(one, options, of=of)
    names = [made._name(of) for of in origins]
    said = made.sweep(origins[0], {origins[0].key}, dry_run=True)
    assert [line.split()[1] for line in said] == [names[1]]
    client = made._connected().client
    assert set(names) <= set(client.list_collections())
    made.sweep(origins[0], {origins[0].key}, dry_run=False)
    assert set(names) & set(client.list_collections()) == {names[0], names[2]}


def test_other_widths_take_a_new_collection(options: dict[str, str]) -> None:
    rows = rows_of("dense", 6)
    data = StoredCodes(rows)
    of = origin(data)
    filled(data, options, of=of)
    made, _ = filled(StoredCodes(rows[:, :5]), options, of=of)
    assert made.differences(StoredCodes(rows[:, :5]), of, Quiet()) == []


# -- what is wrong is said ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"uri": "milvus"}, "http://host:19530, or a folder NAME.db"),
        ({"uri": "ftp://x:1"}, "uri is http://"),
        ({"uri": "http://root:secret@x:1"}, "set INSTSEARCH_MILVUS=http://user"),
        ({"collection": "a b"}, "letters, digits and _"),
        ({"build": "M16"}, "build is NAME=VALUE"),
        ({"search": "=2"}, "search is NAME=VALUE"),
    ],
)
def test_options_that_cannot_be(bad: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_config(Milvus, bad, "searcher")


def test_a_folder_s_path_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_config(Milvus, {"uri": "m.db"}, "searcher").uri == str(tmp_path / "m.db")


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("http://root:a%40b@host:19530", "root:a@b"),
        ("http://:key@host:19530", "key"),
        ("http://root:a@other:19530", ""),
        ("http://root:a@host:19531", ""),
        ("https://root:a@host:19530", ""),
        ("http://root:a@host:x", ""),
        ("", ""),
    ],
)
def test_a_password_is_told_to_the_server_that_it_is_for_alone(
    named: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTSEARCH_MILVUS", named)
    assert milvus_server.login("http://host:19530") == told


def test_asking_makes_no_folder(tmp_path: Path) -> None:
    """An index from elsewhere may name any."""
    data = Sparse(rows_of("sparse", 3))
    made, of = searcher({"uri": str(tmp_path / "m.db")}), origin(data)
    load(made, {"collection": np.zeros(1, "u1"), "pictures": np.zeros(1, "u1"), "filled": np.zeros(2, int)})
    with pytest.raises(InstsearchError, match=r"is not at .*: run `instsearch index`"):
        made.search([asked(sparse(rows_of("sparse", 1)))], data, 3)
    assert "is not there" in made.differences(data, of, Quiet())[0]
    assert made.sweep(of, (), dry_run=False) == []
    assert list(tmp_path.iterdir()) == []


def test_no_server_and_no_folder(tmp_path: Path) -> None:
    data = Sparse(rows_of("sparse", 3))
    for uri, said in (
        ("http://127.0.0.1:1", "no Milvus answers at http://127.0.0.1:1: start it"),
        (str(tmp_path / "no" / "m.db"), "there is no folder"),
        (str(tmp_path / "file.db"), "is a file"),
        (str(tmp_path / "full.db"), "has other files in it"),
    ):
        (tmp_path / "file.db").write_text("x")
        (tmp_path / "full.db").mkdir(exist_ok=True)
        (tmp_path / "full.db" / "x").write_text("x")
        with pytest.raises(InstsearchError, match=said) as caught:
            searcher({"uri": uri}).fill(data, origin(data), Quiet())
        assert len(str(caught.value).splitlines()) <= 2


def test_a_folder_that_another_program_has_open(tmp_path: Path) -> None:
    from milvus_lite import MilvusLite

    with (
        MilvusLite(str(tmp_path / "m.db")),
        pytest.raises(InstsearchError, match=r"is open in another program: Milvus Lite is for one at a time"),
    ):
        milvus_server.connected(str(tmp_path / "m.db"), "", create=True)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InstsearchError, match=r"pip install 'instsearch\[milvus\]'"):
        milvus_server.connected(str(tmp_path / "m.db"), "", create=True)


@pytest.mark.parametrize(
    ("method", "answer", "said"),
    [
        (
            "Connect",
            "auth check failure, please check username and password",
            "refuses the login: set INSTSEARCH_MILVUS=h",
        ),
        ("GetVersion", "v2.2.9", "is Milvus v2.2.9: its mirror needs 2.4 or later"),
    ],
)
def test_a_wrong_password_and_another_version(tmp_path: Path, method: str, answer: str, said: str) -> None:
    """A server of Milvus's protocol that answers one call in its own way."""
    import grpc
    from milvus_lite import MilvusLite
    from milvus_lite.adapter.grpc.servicer import MilvusServicer
    from pymilvus.grpc_gen import milvus_pb2, milvus_pb2_grpc

    class Stubborn(MilvusServicer):
        pass

    def call(self, request, context):
        if method == "Connect":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, answer)
        return milvus_pb2.GetVersionResponse(version=answer)

    setattr(Stubborn, method, call)
    with MilvusLite(str(tmp_path / "m.db")) as database:
        server = grpc.server(ThreadPoolExecutor(2))
        milvus_pb2_grpc.add_MilvusServiceServicer_to_server(Stubborn(database), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with pytest.raises(InstsearchError, match=said):
                milvus_server.connected(f"http://127.0.0.1:{port}", "")
        finally:
            server.stop(None).wait()


# -- keypoints ------------------------------------------------------------------------------------------


def keypoint_images(n=9, seed=0):
    rng = np.random.default_rng(seed)
    return [random_words(rng, int(rng.integers(0, 40))) for _ in range(n)]


@pytest.mark.parametrize("idf", [None, np.linspace(0.5, 2, 6)])
def test_postings_of_some_images_are_those_of_a_collection_of_them(tmp_path: Path, idf) -> None:
    images = keypoint_images()
    data = Collection(tmp_path, images)
    mine, theirs = inverted_of(images, idf), inverted(data, idf, tmp_path, Quiet())
    assert mine.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_allclose(mine[name], array, rtol=1e-6)


def test_candidates_are_ranked_as_hamming_ranks_them(tmp_path: Path) -> None:
    images = keypoint_images(seed=3)
    some, one = images[2:7], keypoint_images(1, seed=9)[0]
    data = Collection(tmp_path, some, idf=np.ones(6))
    whole = fitted(data)
    config = whole.config
    numbers, scores, boxes = among(config, query(one), data, some)
    hits = whole.search([query(one)], data, 9)
    n = hits.valid(0)
    assert n
    np.testing.assert_array_equal(numbers, hits.images[0, :n])
    np.testing.assert_allclose(scores, hits.scores[0, :n], rtol=1e-5)
    np.testing.assert_array_equal(boxes, hits.boxes[0, :n])
    assert isinstance(data.encoder, Weighed)


def test_keypoint_options() -> None:
    config = make_config(MilvusHamming, {"uri": "http://x:1", "ht": "20", "candidates": "7"}, "searcher")
    assert (config.uri, config.ht, config.candidates) == ("http://x:1", 20, 7)
    for bad in ({"candidates": 0}, {"ht": 65}, {"uri": "x"}):
        with pytest.raises(UsageError):
            make_config(MilvusHamming, bad, "searcher")
