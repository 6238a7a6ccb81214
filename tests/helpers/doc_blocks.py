"""The examples of the documentation: found in its pages, and run as a reader would run them.

A page's examples run one after the other in a folder of the page's own:

    ```console     lines with `$ ` are commands, those below what they print: numbers may differ, ... is anything
    ```python      is executed, all of a page in one namespace; ```pycon is, and its output compared
    :caption: X    a code block of that caption is written to the file X
    <!-- run: X -->  a command that readers do not see; <!-- not run: why --> leaves out the block below
    <!-- with: X --> the index that was made beforehand
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli import main
from instsearch_cli.engine.registry import load_registry

FENCE = re.compile(r"^( *)(`{3,}|:{3,})(\{[\w-]+\})? *(.*)$")
COMMENT = re.compile(r"^<!-- (run|not run|with): (.+) -->$")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w]|\.[A-Za-z])")


@dataclass
class Block:
    """A code block, or a command in a comment: ``kind`` is its language, "run" or "with"."""

    kind: str
    text: str
    line: int
    caption: str = ""
    skipped: str = ""


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in order, those within other directives too."""
    return list(_blocks(page.read_text("utf-8").splitlines(), 1))


def _blocks(lines: list[str], first: int) -> Iterator[Block]:
    skipped, i = "", 0
    while i < len(lines):
        comment, fence = COMMENT.match(lines[i].strip()), FENCE.match(lines[i])
        if comment and comment[1] == "not run":
            skipped = comment[2]
        elif comment:
            yield Block(comment[1], comment[2], first + i)
        if not fence or not (fence[3] or fence[2][0] == "`"):
            skipped = skipped if comment or not lines[i].strip() else ""
            i += 1
            continue
        mark = fence[2]
        end = next((j for j in range(i + 1, len(lines)) if lines[j].strip() == mark), None)
        assert end is not None, f"line {first + i}: the fence has no end"
        inside, caption, kind = lines[i + 1 : end], "", fence[4].strip()
        if fence[3] in (None, "{code-block}"):
            while fence[3] and inside and (inside[0].startswith(":") or not inside[0].strip()):
                caption = inside[0].removeprefix(":caption:").strip() or caption
                inside = inside[1:]
            indent = len(fence[1])
            text = "\n".join(line[indent:] for line in inside) + "\n"
            yield Block(kind, text, first + i, caption, skipped)
        else:
            yield from _blocks(inside, first + i + 1)
        skipped, i = "", end + 1


def agrees(expected: str, actual: str) -> bool:
    """Whether output is what the page says: numbers and white space may differ, ... stands for anything."""
    pieces = [" ".join(NUMBER.sub("#", piece).split()) for piece in expected.split("...")]
    pattern = ".*".join(re.escape(piece).replace(r"\ ", r"\s+") for piece in pieces)
    return re.fullmatch(rf"\s*{pattern}\s*", " ".join(NUMBER.sub("#", actual).split()), re.DOTALL) is not None


@dataclass
class Done:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str = ""


@dataclass
class Page:
    """A page whose examples run in ``folder``."""

    path: Path
    folder: Path
    patch: pytest.MonkeyPatch
    prepared: Path
    executed: int = 0
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    modules: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Run every example in order."""
        self.patch.chdir(self.folder)
        try:
            for block in blocks(self.path):
                if not block.skipped:
                    self._run(block, f"{self.path.name}:{block.line}")
        finally:
            for name in self.modules:
                sys.modules.pop(name, None)
            load_registry.cache_clear()

    def _run(self, block: Block, where: str) -> None:
        if block.caption:
            file = self.folder / block.caption
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, "utf-8")
            if block.caption.startswith("plugins/instsearch_plugins/"):
                self.build_in(file)
            self.executed += 1
        elif block.kind == "with":
            self.prepare(block.text)
        elif block.kind == "run":
            done = self.command(block.text)
            assert done.status == 0, (where, done)
        elif block.kind == "console":
            self.console(block.text, where)
        elif block.kind == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, where, "exec"), self.namespace)
            self.executed += 1
        elif block.kind == "pycon":
            self.session(block.text, where)

    def prepare(self, name: str) -> None:
        """The index that was made beforehand, over the photographs of this page's folder."""
        import json
        import shutil

        shutil.copytree(self.prepared / name, self.folder / name)
        (self.folder / name / "roots.json").write_text(json.dumps({"roots": [str(self.folder / "photos")]}))

    def session(self, text: str, where: str) -> None:
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        test = doctest.DocTestParser().get_doctest(text, self.namespace, where, where, 0)
        report = io.StringIO()
        runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
        failed = runner.run(test, out=report.write, clear_globs=False).failed
        self.namespace = test.globs
        assert not failed, report.getvalue()
        self.executed += 1

    def console(self, text: str, where: str) -> None:
        """Commands with what they print; `$ echo $?` below one says its exit status, else it is 0."""
        steps = [step for step in re.split(r"(?m)^\$ ", text) if step]
        for i, step in enumerate(steps):
            command, said = _taken_apart(step)
            if command == "echo $?":
                continue
            after = steps[i + 1] if i + 1 < len(steps) else ""
            status = int(after.partition("\n")[2]) if after.startswith("echo $?") else 0
            done = self.command(command)
            assert done.status == status, (where, command, done)
            if said.strip():
                found = any(agrees(said, all_of) for all_of in (done.out, done.err, done.err + done.out))
                assert found, (
                    f"{where}: {command}\n-- the page:\n{said}\n-- the program:\n{done.out}{done.err}"
                )
            self.executed += 1

    def command(self, line: str) -> Done:
        """One command: of the program in this process, of others by the shell."""
        words = shlex.split(line)
        if words[0] == "export":
            for word in words[1:]:
                name, _, value = word.partition("=")
                self.patch.setenv(name, value)
            return Done(0, "")
        if words[:2] == ["pip", "install"]:
            return self.install(self.folder / words[-1])
        if words[0] == "pytest":
            return self.contract(self.folder / words[-1])
        if words[0] == "instsearch" and not set(line) & set("|<$*;&"):
            arguments, _, file = line.partition(" > ")
            done = program(shlex.split(arguments)[1:])
            if file:
                (self.folder / file.strip()).write_text(done.out, "utf-8")
                return Done(done.status, "", done.err)
            return done
        env = {**os.environ, "PATH": f"{self.prepared / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        shell = ["bash", "-o", "pipefail", "-c", line]
        ran = subprocess.run(shell, capture_output=True, text=True, check=False, env=env)
        return Done(ran.returncode, ran.stdout, ran.stderr)

    def install(self, place: Path) -> Done:
        """What `pip install -e` does for a plugin: its folder on the path, its entry points beside it."""
        project = tomllib.loads((place / "pyproject.toml").read_text("utf-8"))["project"]
        info = place / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (info / "METADATA").write_text(about)
        points = project["entry-points"]["instsearch"]
        text = "".join(f"{name} = {module}\n" for name, module in points.items())
        (info / "entry_points.txt").write_text(f"[instsearch]\n{text}")
        self.modules += points.values()
        self.patch.syspath_prepend(str(place))
        self.patch.setenv("PYTHONPATH", f"{place}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        importlib.invalidate_caches()
        load_registry.cache_clear()
        return Done(0, "")

    def build_in(self, file: Path) -> None:
        """A file of the built-in methods, found where it would be if it were in the repository."""
        package = importlib.import_module(f"instsearch_plugins.{file.parent.name}")
        self.patch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
        self.modules.append(f"{package.__name__}.{file.stem}")

    def contract(self, file: Path) -> Done:
        """What `pytest FILE` does for tests without fixtures."""
        spec = importlib.util.spec_from_file_location(f"page_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        tests = [value for name, value in vars(module).items() if name.startswith("test_")]
        classes = [
            value
            for name, value in vars(module).items()
            if name.startswith("Test") and getattr(value, "__test__", True)
        ]
        for cls in classes:
            tests += [getattr(cls(), name) for name in dir(cls) if name.startswith("test_")]
        for test in tests:
            test()
        assert tests, f"{file.name} has no test"
        return Done(0, f"{len(tests)} passed\n")


def _taken_apart(step: str) -> tuple[str, str]:
    """The command of a step, over several lines where these end in a backslash, and what is below."""
    lines, command = step.splitlines(), ""
    while lines:
        line = lines.pop(0)
        command += line.removesuffix("\\").strip() + " "
        if not line.endswith("\\"):
            break
    return command.strip(), "\n".join(lines)


def program(arguments: list[str]) -> Done:
    """`instsearch ARGUMENTS` in this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main.run(arguments)
    out.flush()
    return Done(status, out.buffer.getvalue().decode("utf-8"), err.getvalue())
