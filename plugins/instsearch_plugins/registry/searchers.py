"""Searchers of this package."""

from __future__ import annotations

from instsearch_cli import SearcherSpec, hookimpl
from instsearch_plugins.registry.papers import CAM, HERE


@hookimpl
def instsearch_searchers() -> list[SearcherSpec]:
    """Exact and approximate search."""
    return [
        SearcherSpec(
            "inverted",
            f"{HERE}.searchers.inverted:Inverted",
            "exact, over a memory-mapped inverted file of sparse codes",
            "Sivic & Zisserman, 2003",
            ("codes",),
            default_for=("csr",),
        ),
        SearcherSpec(
            "faiss",
            f"{HERE}.searchers.faiss_index:Faiss",
            "dense codes; exact, or any faiss index_factory string",
            "Johnson et al., 2019",
            ("codes",),
            default_for=("vectors",),
        ),
        SearcherSpec(
            "diffusion",
            f"{HERE}.searchers.diffusion:Diffusion",
            "dense codes; similarity diffused over the graph of mutual neighbours",
            "Iscen et al., 2017",
            ("codes",),
        ),
        SearcherSpec(
            "regional-diffusion",
            f"{HERE}.searchers.regional_diffusion:RegionalDiffusion",
            "diffusion with the setting for several regions an image: k = kq = 200",
            "Iscen et al., 2017",
            ("codes",),
        ),
        SearcherSpec(
            "offline-diffusion",
            f"{HERE}.searchers.offline_diffusion:OfflineDiffusion",
            "diffusion worked out beforehand: a query is a sum of a few sparse columns",
            "Yang et al., Efficient image retrieval via decoupling diffusion, AAAI 2019",
            ("codes",),
        ),
        SearcherSpec(
            "hamming",
            f"{HERE}.searchers.hamming:HammingEmbedding",
            "sparse codes of keypoints; Hamming signatures vote, the best are verified, with boxes",
            "Jégou et al., Hamming embedding and weak geometric consistency, 2008; burstiness, 2009",
            ("local", "codes"),
        ),
        SearcherSpec(
            "asmk",
            f"{HERE}.searchers.asmk:SelectiveMatch",
            "codes of encoder asmk, word by word under a selectivity function; signs or vectors",
            "Tolias et al., To aggregate or not to aggregate, ICCV 2013",
            ("codes",),
        ),
        SearcherSpec(
            "milvus",
            f"{HERE}.searchers.milvus:Milvus",
            "sparse or dense codes in a copy that a Milvus server keeps, or a folder of Milvus Lite",
            "Wang et al., Milvus: a purpose-built vector data management system, SIGMOD 2021",
            ("codes",),
        ),
        SearcherSpec(
            "milvus-hamming",
            f"{HERE}.searchers.milvus_hamming:MilvusHamming",
            "candidates by words from Milvus; Hamming signatures vote, the best are verified, with boxes",
            "Jégou et al., Hamming embedding and weak geometric consistency, 2008",
            ("local", "codes"),
        ),
        SearcherSpec(
            "cam-online",
            f"{HERE}.searchers.cam_online:CamOnline",
            "describes every image anew for the query's classes, from stored features; keeps what it computed",
            CAM,
            ("features", "codes"),
        ),
    ]
