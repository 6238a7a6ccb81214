"""Results for people: a table, a page, a contact sheet, JSON and its schemas; and drawings of what the stages see."""

from instsearch_cli.report.beside import show_beside
from instsearch_cli.report.page import write_page
from instsearch_cli.report.results import copy_hits, to_csv, to_json
from instsearch_cli.report.schemas import schema
from instsearch_cli.report.sheet import write_sheet
from instsearch_cli.report.stages import draw_stages, show
from instsearch_cli.report.table import print_table
from instsearch_cli.report.takeaway import to_annotations, to_trec, to_zip

__all__ = [
    "copy_hits",
    "draw_stages",
    "print_table",
    "schema",
    "show",
    "show_beside",
    "to_annotations",
    "to_csv",
    "to_json",
    "to_trec",
    "to_zip",
    "write_page",
    "write_sheet",
]
