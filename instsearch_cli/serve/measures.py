"""What is counted of the service, for Prometheus."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from instsearch_cli.serve.service import Service

SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

MEDIA_TYPE = CONTENT_TYPE_LATEST


class Measures:
    """Requests by path and status, seconds to the first and to the last answer of a question, what is kept."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "path", "status"]
        self.requests = Counter("instsearch_requests", "Requests.", labels, registry=self.registry)
        self.first = Histogram(
            "instsearch_first_hits_seconds", "To the first hits.", registry=self.registry, buckets=SECONDS
        )
        self.last = Histogram(
            "instsearch_answer_seconds", "To the answer.", registry=self.registry, buckets=SECONDS
        )
        self.asking = Gauge("instsearch_questions_in_progress", "Questions.", registry=self.registry)
        kept = Gauge("instsearch_uploads", "Pictures that were handed in.", registry=self.registry)
        kept.set_function(lambda: len(service.uploads))

    def count(self, method: str, path: str, status: int) -> None:
        """A request that was answered; paths that there are not count as one, and so do other methods."""
        path = (
            "-" if status in (401, 403, 404, 405, 413) else re.sub(r"/(\d+|[0-9a-f]{32})(?=/|$)", "/*", path)
        )
        self.requests.labels(method if method in METHODS else "other", path, str(status)).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
