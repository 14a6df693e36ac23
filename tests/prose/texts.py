"""Every sentence that people read in this repository: comments, docstrings and Markdown."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

# The mark of a comment, by the suffix or the name of its file. Python and Markdown have
# readers of their own.
_COMMENT_MARKS = {
    ".lua": "--",
    ".js": "//",
    ".sh": "#",
    ".toml": "#",
    ".yaml": "#",
    "Makefile": "#",
    "run": "#",
}
_FOLDERS = ("services", "tests", "examples", "docs", "infra", ".ci")
_NOT_OURS = {"node_modules", "__pycache__", "corpus", "data"}

_FENCE = re.compile(r"^\s*(```|~~~)")
_CODE = re.compile(r"``.+?``|`[^`]+`")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')*_”]*\s+(?=[\"'(*_“]*[A-Z0-9`¤])")
_ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|etc|cf|vs|No)\.")
# Notation: a scenario's line (`use … => entry`), and what a Lua script is called with.
_SCENARIO_LINE = re.compile(r"^(\+\d\S*|\d{4}-\d\d-\d\dT\S*) +\S.* => \S")
_LUA_TABLE_LINE = re.compile(r"^(KEYS|ARGV)(\[\d+\])?:")
_PYTHON_DIRECTIVES = re.compile(r"#\s*(type:|noqa|pragma|!|fmt:|nosec|ruff:)")


@dataclass(frozen=True, slots=True)
class Passage:
    """A run of prose: a comment block, a docstring's paragraph, or one of Markdown.

    ``text`` has its lines joined, and ``¤`` in place of code in backquotes.
    """

    path: Path
    line: int
    text: str
    is_summary: bool = False

    def sentences(self) -> list[str]:
        """Return the sentences in order, each with its punctuation."""
        text = _ABBREVIATIONS.sub(lambda match: match.group().replace(".", "·"), self.text)
        return [sentence for sentence in _SENTENCE_END.split(text) if sentence]


def files_of_prose(root: Path = ROOT) -> list[Path]:
    """Return every file below ``root`` that has prose of ours, sorted."""
    tops = [path for path in root.iterdir() if path.is_file() and _is_read(path)]
    below = [
        path
        for folder in _FOLDERS
        for path in (root / folder).rglob("*")
        if _is_read(path) and _NOT_OURS.isdisjoint(path.parts) and path.is_file()
    ]
    return sorted(tops + below)


def passages_of(path: Path, text: str) -> Iterator[Passage]:
    """Yield the passages of one file, whose contents are ``text``."""
    if path.suffix == ".py":
        yield from _python_passages(path, text)
    elif path.suffix == ".md":
        yield from _markdown_passages(path, text)
    else:
        yield from _commented_passages(path, text, _COMMENT_MARKS[path.suffix or path.name])


def _is_read(path: Path) -> bool:
    return path.suffix in {".py", ".md"} or (path.suffix or path.name) in _COMMENT_MARKS


def _python_passages(path: Path, text: str) -> Iterator[Passage]:
    tree = ast.parse(text)
    yield from _docstring_passages(path, tree)
    lines = text.splitlines()
    strings = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        or (isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)))
    ]
    inside_strings = {
        line
        for node in strings
        for line in range(node.lineno + 1, (node.end_lineno or node.lineno) + 1)
    }
    ends: dict[int, int] = {}
    for node in strings:
        last = node.end_lineno or node.lineno
        ends[last] = max(ends.get(last, 0), node.end_col_offset or 0)
    block: list[str] = []
    for number, line in enumerate([*lines, ""], 1):
        stripped = line.strip()
        if stripped.startswith("#") and number not in inside_strings:
            if not _PYTHON_DIRECTIVES.match(stripped):
                block.append(stripped.lstrip("#").strip())
            continue
        if block:
            yield from _paragraphs(path, number - len(block), block)
            block = []
        # A trailing comment begins behind the last string that ends on its line.
        code_ends = len(line.encode()[: ends.get(number, 0)].decode(errors="ignore"))
        at = line.find("  # ", code_ends)
        if at >= 0 and not _PYTHON_DIRECTIVES.match(line[at:].strip()):
            yield from _paragraphs(path, number, [line[at:].strip().lstrip("# ")])


def _docstring_passages(path: Path, tree: ast.Module) -> Iterator[Passage]:
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        docstring = ast.get_docstring(node)
        if docstring is None:
            continue
        line = node.body[0].lineno
        lines = ["" if _SCENARIO_LINE.match(text) else text for text in docstring.splitlines()]
        for at, passage in enumerate(_paragraphs(path, line, lines)):
            yield Passage(path, passage.line, passage.text, is_summary=at == 0)


def _markdown_passages(path: Path, text: str) -> Iterator[Passage]:
    yield from _paragraphs(path, 1, text.splitlines())


def _commented_passages(path: Path, text: str, mark: str) -> Iterator[Passage]:
    block: list[str] = []
    in_block_comment = False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        stripped = line.strip()
        if mark == "//" and (stripped.startswith("/*") or in_block_comment):
            in_block_comment = "*/" not in stripped
            block.append(_comment_text(stripped.removeprefix("/*").lstrip("*").removesuffix("*/")))
        elif stripped.startswith(mark) and not stripped.startswith("#!"):
            block.append(_comment_text(stripped.removeprefix(mark)))
        elif block:
            yield from _paragraphs(path, number - len(block), _PROSE_OF.get(mark, list)(block))
            block = []


def _comment_text(line: str) -> str:
    """The prose of a comment's line: none if it is indented, as commands and tables are."""
    return "" if line.startswith("   ") else line.strip()


def _without_tags(block: list[str]) -> list[str]:
    """Blank the tags of JSDoc, which are for a type checker: from the first one to the end."""
    at = next((at for at, line in enumerate(block) if line.startswith("@")), len(block))
    return block[:at] + [""] * (len(block) - at)


def _without_call_table(block: list[str]) -> list[str]:
    """Blank a Lua script's table of keys and arguments, up to an empty line or ``Reply:``."""
    lines = []
    is_table = False
    for line in block:
        begins = _LUA_TABLE_LINE.match(line) is not None
        is_table = begins or (is_table and line != "" and not line.startswith("Reply:"))
        lines.append("" if is_table else line)
    return lines


_PROSE_OF = {"//": _without_tags, "--": _without_call_table}


def _paragraphs(path: Path, first_line: int, lines: list[str]) -> Iterator[Passage]:
    """Join lines into passages; code blocks are left out, table cells and items stand alone."""
    held: list[str] = []
    began = first_line
    fenced = False
    for number, line in enumerate([*lines, ""], first_line):
        if _FENCE.match(line):
            fenced = not fenced
            line = ""
        elif fenced or line.startswith("    "):
            line = ""
        is_alone = line.lstrip().startswith(("|", "#"))
        begins_an_item = re.match(r"\s*([-*]|\d+\.)\s", line) is not None
        if held and (not line.strip() or is_alone or begins_an_item):
            yield Passage(path, began, _plain(" ".join(held)))
            held = []
        if is_alone:
            for cell in line.strip("|# ").split("|"):
                if cell.strip(" -:#"):
                    yield Passage(path, number, _plain(cell))
        elif line.strip():
            if not held:
                began = number
            held.append(re.sub(r"^\s*([-*]|\d+\.)\s+", "", line).strip())
    if held:
        yield Passage(path, began, _plain(" ".join(held)))


def _plain(text: str) -> str:
    """Replace code with a sign, and links with their texts."""
    return _CODE.sub("¤", _LINK.sub(r"\1", text)).replace("**", "").strip()
