"""Finding and reading pictures: the only code that does."""

from instsearch_cli.errors import printable
from instsearch_cli.images.discovery import Discovery, Found, discover, suffixes
from instsearch_cli.images.opening import (
    MAX_PIXELS,
    BadImage,
    Header,
    content_digest,
    examine,
    passing,
    read_header,
)
from instsearch_cli.images.prefetch import Reader
from instsearch_cli.images.reading import Photograph, read_image, read_stream, shrink

__all__ = [
    "MAX_PIXELS",
    "BadImage",
    "Discovery",
    "Found",
    "Header",
    "Photograph",
    "Reader",
    "content_digest",
    "discover",
    "examine",
    "passing",
    "printable",
    "read_header",
    "read_image",
    "read_stream",
    "shrink",
    "suffixes",
]
