"""What the pages have from the program itself: the stage table, a component's facts and options, presets; formulas as
MathML; docstrings whose columns become lists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from instsearch_cli.engine.listing import presets
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.stages import ROWS, Row
from instsearch_cli.options import documented, written
from instsearch_cli.report import schemas
from instsearch_cli.report.schemas import SCHEMAS, schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sphinx.application import Sphinx

PREFIX = {"rerank": "rerank.{}", "dataset": "dataset"}
FLAG = {"dataset": "--dataset"}


# -- small trees of nodes -------------------------------------------------------------------------------


def said(text: str) -> list[nodes.Node]:
    """Text whose `words` in single or double backticks are code."""
    pieces = re.split(r"``(.+?)``|`(.+?)`", text)
    found: list[nodes.Node] = []
    for i, piece in enumerate(pieces):
        if piece:
            found.append(nodes.literal(text=piece) if i % 3 else nodes.Text(piece))
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[list[nodes.Node]]]) -> nodes.table:
    """A table of a line of headings and rows of inline nodes."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    top, body = nodes.thead(), nodes.tbody()
    for part, lines in ((top, [[said(title) for title in head]]), (body, rows)):
        for line in lines:
            row = nodes.row()
            for cell in line:
                row += nodes.entry("", nodes.paragraph("", "", *cell))
            part += row
    group += [top, body]
    whole = nodes.table()
    whole += group
    return whole


def facts(pairs: Iterable[tuple[str, list[nodes.Node]]]) -> nodes.definition_list:
    """A list of terms, each with a line about it."""
    found = nodes.definition_list(classes=["facts"])
    for term, line in pairs:
        definition = nodes.definition("", nodes.paragraph("", "", *line))
        found += nodes.definition_list_item("", nodes.term(text=term), definition)
    return found


def code(words: Iterable[str]) -> list[nodes.Node]:
    """Words as code, with commas between them; a dash for none."""
    found: list[nodes.Node] = []
    for word in words:
        found += [nodes.Text(", ")] if found else []
        found.append(nodes.literal(text=word))
    return found or [nodes.Text("–")]


# -- directives -------------------------------------------------------------------------------------------


class StageTable(SphinxDirective):
    """``{stage-table}``: engine/stages.py, a row a layer."""

    def run(self) -> list[nodes.Node]:
        head = ("layer", "stage", "made by", "several at once", "stored as", "reads", "decided up to")
        return [table(head, map(self.row, ROWS))]

    def row(self, row: Row) -> list[list[nodes.Node]]:
        classes = [offer.load() for offer in load_registry().offers[row.stage].values()]
        stored = sorted({e for e in map(row.encoded, classes) if isinstance(e, str)})
        reads = [*row.reads, *(f"({kind})" for kind in dict.fromkeys((*row.declared, *row.if_made)))]
        return [
            code([row.kind]),
            code([row.stage]),
            code(called(row.make) or ["fit" if row.reads else "search"]),
            code(called(row.make_many)),
            code(stored),
            code(reads),
            code([row.rank]),
        ]


def called(make: Any) -> list[str]:
    """The names of the methods that a row of the stage table calls."""
    if make is None:
        return []
    component = MagicMock()
    make(component, MagicMock())
    return [name for name, _, _ in component.method_calls if "." not in name]


class ComponentFacts(SphinxDirective):
    """``{component} KIND NAME``: what its spec says, the formula that is the directive's content, its options."""

    required_arguments = 2
    has_content = True

    def run(self) -> list[nodes.Node]:
        kind, name = self.arguments
        spec, component = load_registry().get(kind, name).spec, load_registry().get(kind, name).load()
        pairs = [("what", said(spec.summary))]
        if spec.reference:
            pairs.append(("after", said(spec.reference)))
        pairs.append(("choose it", code([f"{FLAG.get(kind, '--' + kind)} {name}"])))
        if spec.needs:
            pairs.append(("reads", code(spec.needs)))
        if spec.trainer:
            pairs.append(("train it", code([f"instsearch train {name} --data DIR"])))
        found: list[nodes.Node] = [facts(pairs), *self.parse_content_to_nodes()]
        if options := documented(component):
            prefix = PREFIX.get(kind, kind).format(name)
            rows = [[code([f"--set {prefix}.{o.name}={written(o.default)}"]), said(o.text)] for o in options]
            found.append(table(("option and default", "meaning"), rows))
        return found


class PresetList(SphinxDirective):
    """``{preset-list}``: the named pipelines, and what each is for."""

    def run(self) -> list[nodes.Node]:
        return [table(("preset", "what for"), [[code([n]), said(text)] for n, text in presets().items()])]


class JsonSchemas(SphinxDirective):
    """``{json-schemas}``: what every verb prints with --json, a section a schema, a line a key."""

    def run(self) -> list[nodes.Node]:
        names = dict.fromkeys(name for names in SCHEMAS.values() for name in names)
        there = {file.stem for file in Path(schemas.__file__).parent.glob("schemas/*.json")}
        return [self.section(schema(name)) for name in [*names, "error"] if name in there]

    def section(self, whole: dict[str, Any]) -> nodes.section:
        title = whole["title"]
        found = nodes.section(ids=[nodes.make_id(title)], names=[nodes.fully_normalize_name(title)])
        found += [nodes.title(text=title), nodes.paragraph("", "", *said(whole["description"]))]
        rows = [[code([key]), said(kind), said(text)] for key, kind, text in keys(whole, whole, "")]
        found += table(("key", "type", "is"), rows)
        self.state.document.note_implicit_target(found)
        return found


def keys(form: dict[str, Any], whole: dict[str, Any], above: str) -> Iterator[tuple[str, str, str]]:
    """(key, type, description) of everything in a schema that has a description."""
    form = resolved(form, whole)
    for one in form.get("oneOf", []):
        yield from keys(one, whole, above)
    for name, below in form.get("properties", {}).items():
        key = f"{above}.{name}" if above else name
        yield key, kind(below, whole), below.get("description", "")
        yield from keys(below, whole, key)
    for one in form.get("anyOf", []):
        yield from keys(one, whole, above)
    if isinstance(form.get("items"), dict):
        yield from keys(form["items"], whole, f"{above}[]")
    if isinstance(form.get("additionalProperties"), dict):
        yield from keys(form["additionalProperties"], whole, f"{above}.*" if above else "*")


def resolved(form: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """A form, or the one of the schema's own that it refers to."""
    name: str = form.get("$ref", "").rpartition("/")[2]
    return form | whole["$defs"][name] if name else form


def kind(form: dict[str, Any], whole: dict[str, Any]) -> str:
    """The type of a value, in words."""
    form = resolved(form, whole)
    if "const" in form:
        return str(form["const"])
    if "enum" in form:
        return ", ".join(map(str, form["enum"]))
    if "anyOf" in form:
        return " or ".join(dict.fromkeys(kind(one, whole) for one in form["anyOf"]))
    types = form.get("type", "any")
    text = " or ".join(types) if isinstance(types, list) else str(types)
    if isinstance(form.get("items"), dict):
        text = text.replace("array", f"array of {kind(form['items'], whole)}")
    return text


# -- formulas ---------------------------------------------------------------------------------------------


def formula(node: nodes.Element, as_block: bool) -> str:
    """MathML of a formula; a warning where it cannot be made."""
    try:
        return str(tex2mathml(node.astext(), as_block=as_block))
    except (MathError, SyntaxError) as error:
        logging.getLogger(__name__).warning("formula %r: %s", node.astext(), error, location=node)
        return ""


def inline_formula(translator: Any, node: nodes.math) -> None:
    translator.body.append(formula(node, as_block=False))
    raise nodes.SkipNode


def block_formula(translator: Any, node: nodes.math_block) -> None:
    div = translator.starttag(node, "div", CLASS="math")
    translator.body.append(f"{div}{formula(node, as_block=True)}</div>\n")
    raise nodes.SkipNode


# -- docstrings -------------------------------------------------------------------------------------------

COLUMNS = re.compile(r"(\S(?:.*?\S)?) {2,}(\S.*)")


def paragraphs(lines: Iterable[str]) -> list[list[str]]:
    """Lines as paragraphs, without the empty ones between these."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [paragraph for paragraph in found if paragraph]


def columns(paragraph: list[str]) -> dict[str, str]:
    """A paragraph of names, two spaces or more and a text each, with its continuations; {} where it is none."""
    found: dict[str, str] = {}
    if paragraph[0].startswith(" ") or not COLUMNS.fullmatch(paragraph[0]):
        return found
    term = ""
    for line in paragraph:
        pair = COLUMNS.fullmatch(line)
        if pair:
            term = pair[1]
            found[term] = pair[2]
        else:
            found[term] += f" {line.strip()}"
    return found


def docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written to be read in a terminal; here their columns become lists, what is indented is code."""
    shown: list[str] = []
    for paragraph in paragraphs(lines):
        if paragraph[0].startswith("Alias for field number"):
            continue
        if paragraph[0].startswith("    "):
            shown += ["::", "", *paragraph, ""]
            continue
        listed = columns(paragraph)
        for term, text in listed.items():
            shown += [f"``{term}``", f"    {text}", ""]
        shown += [] if listed else [*paragraph, ""]
    lines[:] = shown


def help_text(app: Sphinx, context: Any, lines: list[str]) -> None:
    """Help texts are no reStructuredText: `words` are code, and a star is a star."""
    lines[:] = [re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line).replace("*", r"\*") for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("stage-table", StageTable)
    app.add_directive("component", ComponentFacts)
    app.add_directive("preset-list", PresetList)
    app.add_directive("json-schemas", JsonSchemas)
    app.add_html_math_renderer("mathml", (inline_formula, None), (block_formula, None))
    app.connect("autodoc-process-docstring", docstring)
    for part in ("description", "options", "epilog"):
        app.connect(f"sphinx-click-process-{part}", help_text)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
