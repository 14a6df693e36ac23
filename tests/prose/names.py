"""Names in backquotes: each one in a Markdown file has to be the name of something that exists.

A name resolves as a path, a make target, a command line or an environment variable. It also does
as a class's attribute, or as words that the code uses outside its comments and docstrings.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import get_args

from tests.prose.texts import ROOT

_PACKAGE = ROOT / "services" / "usageledger"

# Spans that name nothing of ours, by the reason why they are right as they are.
ALLOWED: Mapping[str, frozenset[str]] = {
    "settings of nginx": frozenset({"client_header_timeout", "client_body_timeout"}),
    "written by `make sbom`": frozenset({"build/sbom.json"}),
    "commands of Redis": frozenset({"+cluster|slots +cluster|shards +command"}),
}

_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)
_FENCED = re.compile(r"^( *)(```|~~~).*?^ *\2[ \t]*$", re.M | re.S)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENVIRONMENT = re.compile(r"\bUSAGELEDGER_[A-Z0-9_]+")
_PATH = re.compile(
    r"^[\w.@*{}-]*(/[\w.@*{}-]*)+$|^[\w*-]+\.(py|md|js|css|lua|tla|cfg|toml|json|yaml)$"
)
_ATTRIBUTE = re.compile(r"^(_?[A-Z]\w*)\.(\w+)(\(.*\))?$")
_MODULE = re.compile(r"^(?:python -m )?((?:usageledger|tests)(?:\.\w+)+)\b")
_TEST = re.compile(r"^(\S+\.py)::(\w+)(?:::(\w+))?$")
_CODE_SUFFIXES = {".js", ".css", ".html", ".lua", ".tla", ".cfg", ".json", ".toml", ".yaml", ".sh"}
_COMMENTS = {
    ".js": re.compile(r"^\s*//[^\n]*|/\*.*?\*/", re.M | re.S),
    ".css": re.compile(r"/\*.*?\*/", re.S),
    ".lua": re.compile(r"--[^\n]*"),
    ".tla": re.compile(r"\\\*[^\n]*|\(\*.*?\*\)", re.S),
}
_OTHER_COMMENTS = re.compile(r"^\s*#[^\n]*", re.M)


def unresolved_names(document: Path, text: str) -> list[str]:
    """Return ``line: name: what is wrong`` for each span of one Markdown text."""
    found = []
    for line, span in spans_of(text):
        problem = problem_with(span, document)
        if problem:
            found.append(f"{line}: `{span}`: {problem}")
    return found


def spans_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the contents of each span in backquotes outside code blocks."""
    prose = _FENCED.sub(lambda match: "\n" * match.group().count("\n"), text)
    for match in _SPAN.finditer(prose):
        line = prose.count("\n", 0, match.start()) + 1
        yield line, " ".join(match.group(2).split())


def problem_with(span: str, document: Path) -> str | None:
    """Say what is wrong with a name, or None where it resolves."""
    if any(span in spans for spans in ALLOWED.values()):
        return None
    if missing := sorted(set(_ENVIRONMENT.findall(span)) - _code().environment):
        return f"no setting is called {missing[0]}"
    if span.startswith("make "):
        return make_problem(span)
    command_line = span.removeprefix(".venv/bin/")
    if command_line.startswith("usageledger "):
        return command_problem(command_line)
    if " · " in span and span.split()[0] in _program().commands:
        return _alternatives_problem(span)
    if match := _TEST.match(span):
        return _test_problem(*match.groups())
    if _PATH.match(span):
        return _path_problem(span, document)
    if match := _ATTRIBUTE.match(span):
        owner, name = match.group(1), match.group(2)
        if owner not in _code().members and owner not in _code().words_of_pages:
            return f"there is no class {owner}"
        is_known = _has_member(owner, name) or {owner, name} <= _code().words_of_pages
        return None if is_known else f"{owner} has no {name}"
    if match := _MODULE.match(span):
        return _module_problem(match.group(1))
    words = {word for word in _WORD.findall(span) if len(word) > 2}
    unknown = sorted(words - _code().words)
    return f"the code knows no {unknown[0]}" if unknown else None


def make_problem(line: str) -> str | None:
    """Say which target or variable of a ``make`` command line does not exist."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in shlex.split(line)[1:]:
        name, is_variable, _ = word.partition("=")
        known = rf"\b{name}\b" if is_variable else rf"^{re.escape(name)}:"
        if word != "…" and not word.startswith("-") and not re.search(known, makefile, re.M):
            return f"make knows no {name}"
    return None


def command_problem(line: str) -> str | None:
    """Say which command or option of a ``usageledger`` command line does not exist."""
    words = shlex.split(re.sub(r"[\[\]…]|\.\.\.", " ", line), comments=True)[1:]
    command = _program()
    while words and command.commands and not words[0].startswith("-"):
        if words[0] == "COMMAND":
            return None
        if words[0] not in command.commands:
            return f"{command.name} has no command {words[0]}"
        command = command.commands[words.pop(0)]
    if words and command.choices and not {words[0], words[0].lower()} & command.choices:
        return f"{command.name} does not know {words[0]}"
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("-") and name not in {*command.options, "-", "--help"}:
            return f"{command.name} has no option {name}"
    return None


def _alternatives_problem(span: str) -> str | None:
    first, *others = span.split(" · ")
    group = first.split()[0]
    command = _program().commands[group]
    continues = command.commands or command.choices or others[0].startswith("-")
    lines = [first, *(f"{group} {other}" if continues else other for other in others)]
    return next(
        (problem for line in lines if (problem := command_problem(f"usageledger {line}"))), None
    )


def _test_problem(path: str, first: str, second: str | None) -> str | None:
    file = ROOT / path
    if not file.is_file():
        return f"there is no file {path}"
    defined = {
        node.name
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }
    missing = {first, second or first} - defined
    return f"{path} has no {missing.pop()}" if missing else None


def _module_problem(dotted: str) -> str | None:
    first, *parts = dotted.split(".")
    place = _PACKAGE if first == "usageledger" else ROOT / first
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    if parts and (place / f"{parts[0]}.py").is_file():
        place /= f"{parts.pop(0)}.py"
    file = place / "__init__.py" if place.is_dir() else place
    known = _WORD.findall(file.read_text(encoding="utf-8")) if file.is_file() else []
    missing = next((part for part in parts if part not in known), None)
    return f"{file.relative_to(ROOT)} has no {missing}" if missing else None


def _path_problem(span: str, document: Path) -> str | None:
    if span.startswith("/"):
        known = {re.sub(r"\{.*?\}", "{}", path) for path in _code().paths}
        wanted = re.sub(r"\{.*?\}|\b[A-Z]+\b", "{}", span.partition("?")[0])
        return None if wanted in known else "the gateway has no path like this"
    for place in (document.parent, ROOT, _PACKAGE, ROOT / "tests"):
        if (place / span).exists() or ("*" in span and any(place.glob(span))):
            return None
    if "/" not in span and any(path.name == span for path in _code().files):
        return None
    return "there is no file or folder of this name"


def _has_member(owner: str, name: str) -> bool:
    members = _code().members
    seen = set()
    waiting = [owner]
    while waiting:
        current = waiting.pop()
        if current in seen or current not in members:
            continue
        seen.add(current)
        if name in members[current].names:
            return True
        waiting += members[current].bases
    return False


@dataclass(slots=True)
class _Members:
    names: set[str] = field(default_factory=set)
    bases: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Code:
    """Every name that the repository's code has, comments and docstrings aside."""

    words: set[str] = field(default_factory=set)
    words_of_pages: set[str] = field(default_factory=set)
    environment: set[str] = field(default_factory=set)
    members: dict[str, _Members] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)
    files: list[Path] = field(default_factory=list)


@cache
def _code() -> _Code:
    code = _Code()
    folders = [ROOT / name for name in ("services", "tests", "examples", "schemas", "infra")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files += [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run"]
    ours = [path for path in files if not {"corpus", "prose", "__pycache__"} & set(path.parts)]
    code.files = ours
    for path in ours:
        if path.suffix == ".py":
            _read_python(code, path.read_text(encoding="utf-8"))
        elif path.suffix in _CODE_SUFFIXES or path.name in {"Makefile", "run", "Dockerfile"}:
            comments = _COMMENTS.get(path.suffix, _OTHER_COMMENTS)
            words = _WORD.findall(comments.sub("", path.read_text(encoding="utf-8")))
            code.words.update(words)
            if path.suffix == ".js":
                code.words_of_pages.update(words)
        code.words.update(path.parts[len(ROOT.parts) :])
        code.words.add(path.stem)
    code.words |= code.environment
    code.environment |= {word for word in code.words if word.startswith("USAGELEDGER_")}
    openapi = json.loads((ROOT / "schemas" / "openapi.json").read_text(encoding="utf-8"))
    code.paths |= set(openapi["paths"])
    code.words |= {word for name in _program().commands for word in _WORD.findall(name)}
    return code


def _read_python(code: _Code, text: str) -> None:
    tree = ast.parse(text)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(value)) if id(node) not in docstrings:
                code.words.update(_WORD.findall(value))
                if value.startswith("/"):
                    code.paths.add(value)
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                code.words.add(name)
            case ast.keyword(arg=str(name)):
                code.words.add(name)
            case ast.alias(name=name):
                code.words.update(name.split("."))
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                code.words.add(name)
            case ast.ClassDef(name=name):
                code.words.add(name)
                members = code.members.setdefault(name, _Members())
                members.names |= _names_defined_in(node)
                code.environment |= _settings_of(node)
                members.bases += [base.id for base in node.bases if isinstance(base, ast.Name)]


def _names_defined_in(definition: ast.ClassDef) -> set[str]:
    names = set()
    for node in ast.walk(definition):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    return names


def _settings_of(definition: ast.ClassDef) -> set[str]:
    """Return the environment variables that a settings class reads."""
    prefixes = [
        str(node.value.value)
        for node in ast.walk(definition)
        if isinstance(node, ast.keyword)
        and node.arg == "env_prefix"
        and isinstance(node.value, ast.Constant)
    ]
    return {
        f"{prefix}{statement.target.id.upper()}"
        for prefix in prefixes
        for statement in definition.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


@dataclass(frozen=True, slots=True)
class _Command:
    name: str
    options: frozenset[str]
    choices: frozenset[str]
    commands: Mapping[str, _Command]


@cache
def _program() -> _Command:
    """Return the command line's tree. Only this imports the built package."""
    import typer.main

    from usageledger.cli import app

    return _command_of("usageledger", typer.main.get_command(app))


def _command_of(name: str, command: object) -> _Command:
    options: set[str] = set()
    choices: set[object] = set()
    for parameter in getattr(command, "params", ()):
        if parameter.param_type_name == "argument":
            descriptor = getattr(parameter, "type_descriptor", None)
            choices |= set(get_args(getattr(descriptor, "annotation", None)))
        else:
            options |= {*parameter.opts, *parameter.secondary_opts}
    below = getattr(command, "commands", {})
    return _Command(
        name,
        frozenset(options),
        frozenset(choice for choice in choices if isinstance(choice, str)),
        {key: _command_of(key, value) for key, value in below.items()},
    )
