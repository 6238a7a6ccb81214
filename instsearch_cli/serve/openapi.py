"""The HTTP interface as an OpenAPI 3.1 document; answers have the schema of `query --json`."""

from __future__ import annotations

import json
from typing import Any

from instsearch_cli import __version__
from instsearch_cli.report.schemas import schema
from instsearch_cli.serve.problems import MEDIA_TYPE
from instsearch_cli.serve.questions import MOST_HITS, MOST_PARTS
from instsearch_cli.serve.work import NDJSON

JSON = "application/json"
FILE = {"type": "string", "format": "binary"}
BOX = {
    "description": "x, y, width and height in pixels of the upright picture; null: the whole picture",
    "type": ["array", "null"],
    "items": {"type": "number"},
    "minItems": 4,
    "maxItems": 4,
}
PICTURE = {
    "description": "a picture that was handed in, an image of an index, or a file in base64",
    "oneOf": [
        {"type": "object", "required": ["upload"], "properties": {"upload": {"type": "string"}}},
        {
            "type": "object",
            "required": ["index", "row"],
            "properties": {"index": {"type": "integer"}, "row": {"type": "integer"}},
        },
        {
            "type": "object",
            "required": ["data"],
            "properties": {"data": {"type": "string", "format": "byte"}, "name": {"type": "string"}},
        },
    ],
}
QUESTION = {
    "type": "object",
    "required": ["views"],
    "additionalProperties": False,
    "properties": {
        "views": {
            "description": "the object",
            "type": "array",
            "minItems": 1,
            "maxItems": MOST_PARTS,
            "items": {"$ref": "#/components/schemas/Part"},
        },
        "against": {
            "description": "what it is not",
            "type": "array",
            "items": {"$ref": "#/components/schemas/Part"},
        },
        "indexes": {"description": "ids; all where left out", "type": "array", "items": {"type": "integer"}},
        "pipeline": {"type": ["string", "null"]},
        "rerank": {"type": ["array", "null"], "items": {"type": "string"}},
        "refine": {"type": "boolean"},
        "k": {"type": "integer", "minimum": 1, "maximum": MOST_HITS, "default": 40},
        "per_image": {"type": "integer", "minimum": 0, "default": 1},
        "min_score": {"type": ["number", "null"]},
    },
}
PART = {
    "type": "object",
    "required": ["picture"],
    "properties": {"picture": {"$ref": "#/components/schemas/Picture"}, "box": BOX},
}
PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {name: {"type": "string"} for name in ("type", "title", "detail")}
    | {"status": {"type": "integer"}},
}
FAILED = {
    "description": "what was wrong, in place of an answer",
    "type": "object",
    "required": ["problem"],
    "additionalProperties": False,
    "properties": {"problem": {"$ref": "#/components/schemas/Problem"}},
}


def _answers() -> dict[str, Any]:
    """Answers, and steps to them, with references as they are within the document."""
    text = json.dumps(schema("query")).replace('"#/$defs/', '"#/components/schemas/Answer/$defs/')
    answer = json.loads(text)
    more = {
        "final": {"description": "whether it is the answer", "type": "boolean"},
        "step": {
            "description": "the component after which these are the hits; empty at last",
            "type": "string",
        },
    }
    step = {key: answer[key] for key in ("type", "additionalProperties")}
    step |= {"properties": {**answer["properties"], **more}, "required": [*answer["required"], *more]}
    return {"Answer": answer, "Step": step}


def document() -> dict[str, Any]:
    """The document."""
    index = _parameter("index", "path", {"type": "integer"})
    row = _parameter("row", "path", {"type": "integer"})
    side = _parameter("side", "query", {"type": "integer", "minimum": 16, "maximum": 4096})
    question: dict[str, Any] = {
        "type": "object",
        "required": ["question"],
        "properties": {"question": _of("Question")},
    }
    form = {
        "type": "object",
        "required": ["picture"],
        "properties": {
            "picture": FILE,
            "box": {"type": "array", "items": {"type": "string"}},
            "question": {"type": "string"},
        },
    }
    jpeg = _given("an upright JPEG", {"image/jpeg": FILE})
    image = "/v1/indexes/{index}/images/{row}"
    paths = {
        "/health": {"get": _operation("Whether it runs.", _given("it does"), open=True)},
        "/metrics": {
            "get": _operation("Counts, for Prometheus.", _given("text", {"text/plain": {"type": "string"}}))
        },
        "/v1/indexes": {"get": _operation("The indexes, their pipelines, and what is allowed.")},
        "/v1/indexes/{index}/images": {
            "get": _operation(
                "Images by name.",
                parameters=[
                    index,
                    _parameter("search", "query", {"type": "string"}),
                    _parameter("offset", "query", {"type": "integer", "minimum": 0}),
                    _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 500}),
                ],
            )
        },
        image: {"get": _operation("An image, small.", jpeg, parameters=[index, row, side])},
        f"{image}/file": {
            "get": _operation(
                "An image's file.", _given("the file", {"image/*": FILE}), parameters=[index, row]
            )
        },
        "/v1/pictures": {
            "post": _operation(
                "Hand in a picture.",
                body={"application/octet-stream": FILE, "multipart/form-data": form},
                parameters=[_parameter("name", "query", {"type": "string"})],
                status="201",
            )
        },
        "/v1/pictures/{id}": {
            "get": _operation(
                "A picture that was handed in.",
                jpeg,
                parameters=[_parameter("id", "path", {"type": "string"}), side],
            )
        },
        "/v1/query": {
            "post": _operation(
                "Ask. As lines the answer comes step by step, the last with final: true; or so many steps of it.",
                _given("the answer", {JSON: _of("Answer"), NDJSON: _lines("Step")}),
                parameters=[_parameter("steps", "query", {"type": "integer", "minimum": 0})],
                body={JSON: _of("Question"), "multipart/form-data": form},
            )
        },
        "/v1/batch": {
            "post": _operation(
                "Ask many questions; an answer or a problem a line, in their order.",
                _given("the answers", {NDJSON: _lines("Answer")}),
                body={
                    JSON: {
                        "type": "object",
                        "required": ["questions"],
                        "properties": {"questions": {"type": "array", "items": _of("Question")}},
                    }
                },
            )
        },
        "/v1/aligned": {
            "post": _operation(
                "A hit beside a view of the question: a JPEG as a data URI, or null, with a sentence.",
                body={
                    JSON: {
                        "type": "object",
                        "required": ["question", "hit"],
                        "properties": {
                            "question": _of("Question"),
                            "view": {"type": "integer"},
                            "hit": {
                                "type": "object",
                                "required": ["index", "row"],
                                "properties": {"index": {"type": "integer"}, "row": {"type": "integer"}},
                            },
                        },
                    }
                },
            )
        },
        "/v1/export": {
            "post": _operation(
                "An answer as a file.",
                _given("the file", {"*/*": FILE}),
                body={JSON: question},
                parameters=[_parameter("format", "query", {"type": "string"}, required=True)],
            )
        },
        "/v1/command": {"post": _operation("The command line that asks the same.", body={JSON: question})},
        "/v1/session": {
            "post": _operation(
                "A question with its pictures as a file, which `query --session` opens, too.",
                body={
                    JSON: {**question, "properties": {**question["properties"], "marks": {"type": "object"}}}
                },
            )
        },
        "/v1/session/open": {"post": _operation("What such a file asks.", body={JSON: {"type": "object"}})},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "instsearch",
            "version": __version__,
            "description": "Find the very object in a box, and where it is.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Question": QUESTION,
                "Part": PART,
                "Picture": PICTURE,
                "Problem": PROBLEM,
                "Failed": FAILED,
                **_answers(),
            },
        },
    }


def _of(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _lines(name: str) -> dict[str, Any]:
    return {"description": "a line each", "oneOf": [_of(name), _of("Failed")]}


def _given(text: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    table = content or {JSON: {"type": "object"}}
    return {"description": text, "content": {media: {"schema": each} for media, each in table.items()}}


def _parameter(name: str, where: str, kind: dict[str, Any], required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required or where == "path", "schema": kind}


def _operation(
    summary: str,
    given: dict[str, Any] | None = None,
    body: dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    status: str = "200",
    open: bool = False,
) -> dict[str, Any]:
    table: dict[str, Any] = {
        "summary": summary,
        "responses": {
            status: given or _given("what was asked for"),
            "default": _given("what was wrong", {MEDIA_TYPE: _of("Problem")}),
        },
    }
    if open:
        table["security"] = []
    if parameters:
        table["parameters"] = parameters
    if body:
        table["requestBody"] = {"content": {media: {"schema": each} for media, each in body.items()}}
    return table
