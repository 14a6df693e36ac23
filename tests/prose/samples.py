"""Code blocks of Markdown files: what a reader copies has to exist.

Python blocks are checked against the public API's signatures. Shell blocks and the README's table
of commands are checked against the command line's tree and the Makefile.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from tests.prose.names import command_problem, make_problem, problem_with

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```[ \t]*$", re.M | re.S)
_COMMAND = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?=(?:usageledger|make) )")
_COMMAND_TABLE = re.compile(r"^## The command line$(.*?)^## ", re.M | re.S)
_SPAN = re.compile(r"`([^`]+)`")


def blocks_of(text: str, *languages: str) -> list[str]:
    """Return the contents of the code blocks in any of these languages, in order."""
    return [code for language, code in _BLOCK.findall(text) if language in languages]


def python_problems(text: str) -> list[str]:
    """Say what the Python blocks of one document use that the public API does not have.

    The blocks are read in order, and a later block knows the names of those before it.
    """
    found: list[str] = []
    names: dict[str, object] = {}
    types: dict[str, type] = {}
    for code in blocks_of(text, "python"):
        try:
            tree = ast.parse(code)
        except SyntaxError as error:
            found.append(f"{error.text}: {error.msg}")
            continue
        for statement in tree.body:
            found += _problems_in(statement, names, types)
    return found


def shell_problems(text: str) -> list[str]:
    """Say which commands, options and targets of one document's shell blocks do not exist."""
    found = []
    for code in blocks_of(text, "sh", "bash", "shell", "console"):
        for line in code.replace("\\\n", " ").splitlines():
            if start := _COMMAND.match(line):
                command = line[start.end() :].partition(" # ")[0]
                check = make_problem if command.startswith("make ") else command_problem
                if problem := check(command):
                    found.append(f"{command.strip()}: {problem}")
    return found


def command_table_problems(readme: str) -> list[str]:
    """Say which commands in the first column of the README's table of commands do not exist."""
    section = _COMMAND_TABLE.search(readme)
    if section is None:
        return ["there is no section “The command line”"]
    spans = [
        span
        for row in section[1].splitlines()
        if row.startswith("| `")
        for span in _SPAN.findall(row.split(" | ")[0])
    ]
    found = [] if spans else ["there is no table of commands"]
    for span in spans:
        problem = problem_with(span, Path(span)) if " · " in span else command_problem(f"_ {span}")
        if problem:
            found.append(f"{span}: {problem}")
    return found


def _problems_in(
    statement: ast.stmt, names: dict[str, object], types: dict[str, type]
) -> Iterator[str]:
    for node in ast.walk(statement):
        match node:
            case ast.Import(names=aliases):
                for alias in aliases:
                    try:
                        importlib.import_module(alias.name)
                    except ImportError:
                        yield f"there is no module {alias.name}"
            case ast.ImportFrom(module=str(module), names=aliases):
                yield from _import_problems(module, aliases, names)
            case ast.Call():
                yield from _call_problems(node, names, types)
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if owner in types:
                if not hasattr(types[owner], attribute):
                    yield f"{types[owner].__name__} has no {attribute}"
            case ast.Assign(
                targets=[ast.Name(id=target)], value=ast.Call(func=ast.Name(id=made))
            ) if isinstance(kind := names.get(made), type):
                types[target] = kind


def _import_problems(
    module: str, aliases: list[ast.alias], names: dict[str, object]
) -> Iterator[str]:
    try:
        imported = importlib.import_module(module)
    except ImportError:
        yield f"there is no module {module}"
        return
    for alias in aliases:
        if not hasattr(imported, alias.name):
            yield f"{module} has no {alias.name}"
        elif module.partition(".")[0] == "usageledger":
            names[alias.asname or alias.name] = getattr(imported, alias.name)


def _call_problems(
    call: ast.Call, names: dict[str, object], types: dict[str, type]
) -> Iterator[str]:
    match call.func:
        case ast.Name(id=name) if name in names:
            called, before = names[name], 0
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in types:
            called, before = getattr(types[owner], name, None), 1  # self
        case _:
            return
    if not callable(called):
        return  # the attribute that is missing is reported by itself
    arguments = [None] * (before + len(call.args))
    keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg is not None}
    try:
        inspect.signature(called).bind(*arguments, **keywords)
    except TypeError as error:
        yield f"{ast.unparse(call)}: {error}"
