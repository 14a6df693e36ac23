"""The shape of the source tree: imports, sizes, names, and constructs that may not occur at all.

Each rule is a function from a source root to the breaches that it finds. One test applies it to
`services/`. Another applies it to a small made-up tree, to show that the rule can fail.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

SERVICES = Path(__file__).parents[3] / "services"
TESTS = Path(__file__).parents[2]
PACKAGE = "usageledger"

# Imports run from a higher layer to a lower one. Packages of one layer are siblings and do not know
# each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("domain",),
    ("contracts",),
    ("ledger",),
    # Knows no other room. Settings are read where a process begins (a service's entry point, local,
    # cli) and passed on as arguments.
    ("runtime",),
    ("log", "counters"),
    ("accounts",),
    ("sdk", "processor", "limits", "history", "audit"),
    # The package's public names, which load the SDKs on first use, and the in-memory SDKs for the
    # tests of the programs that use them.
    ("", "testing", "fastapi"),
    ("operations",),
    ("gateway",),
    ("migration", "local"),
    ("cli", "__main__"),
)
RANKS = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}

FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 700
TEST_NAME_MAX = 80
LINE_COLUMNS_MAX = 100
LINES_CHECKED_IN = {
    ".cfg", ".css", ".html", ".js", ".lua", ".py", ".sh", ".tla", ".toml", ".ts", ".yaml",
}  # fmt: skip

# A room is a folder of the package. None may grow into a second product.
ROOM_SHARE_MAX = 0.2
CODE_SUFFIXES = {".py", ".js", ".css", ".lua"}
SCRIPT_LINES_MAX = 550

VAGUE_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "manager",
    "managers",
    "base",
    "misc",
    "kafka",
    "redis",
}

KAFKA_CLIENTS = {
    "KafkaConsumer",
    "KafkaProducer",
    "KafkaAdminClient",
    "_Producer",
    "AIOKafkaConsumer",
    "AIOKafkaProducer",
    "AIOKafkaAdminClient",
    "AIOKafkaClient",
}

# Modules of domain/ that may name float, with the reason.
FLOATS_ALLOWED: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Module:
    """One source file, parsed. ``name`` is dotted and starts with the package."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def part(self) -> str:
        """The package's part that the module belongs to: "domain", "cli", … or "" for the package's
        own __init__.
        """
        return self.name.split(".")[1] if "." in self.name else ""


@cache
def modules_below(root: Path) -> list[Module]:
    """Every module below a source root, sorted by name."""
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path))))
    return found


def imports_of(module: Module, known: set[str]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a module imports, anywhere in the file.

    ``from a import b`` is a.b where that is a module.
    """
    yield from dict.fromkeys(_imports_of(module, known))


def _imports_of(module: Module, known: set[str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            for alias in node.names:
                yield (
                    node.lineno,
                    f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in known else origin,
                )


def imports_against_the_layers(root: Path) -> list[str]:
    """Imports that run upwards, between siblings, or from a part that no layer names."""
    modules = modules_below(root)
    known = {module.name for module in modules}
    return [
        f"{module.name}:{line} imports {target}"
        for module in modules
        for line, target in imports_of(module, known)
        if target.split(".")[0] == PACKAGE and not _may_import(module, target)
    ]


def circles_of_modules(root: Path) -> list[str]:
    """Modules that import each other, however indirectly and wherever in the file."""
    modules = modules_below(root)
    known = {module.name for module in modules}
    imported = {
        module.name: {target for _, target in imports_of(module, known)} & known
        for module in modules
    }
    return [" → ".join(circle) for circle in _circles(imported)]


def circles_of_rooms(root: Path) -> list[str]:
    """Rooms that import each other, however indirectly; the package's own names are no room."""
    modules = modules_below(root)
    known = {module.name for module in modules}
    imported: dict[str, set[str]] = {}
    for module in modules:
        for _, target in imports_of(module, known):
            room = target.split(".")[1] if target.startswith(f"{PACKAGE}.") else ""
            if module.part and room and room != module.part:
                imported.setdefault(module.part, set()).add(room)
    return [" → ".join(circle) for circle in _circles(imported)]


def rooms_too_large(root: Path) -> list[str]:
    """Rooms with more than ROOM_SHARE_MAX of the package's lines of code, in all its languages."""
    lines: dict[str, int] = {}
    for path in sorted((root / PACKAGE).rglob("*")):
        if path.suffix in CODE_SUFFIXES:
            room = path.relative_to(root / PACKAGE).parts[0]
            count = len(path.read_text(encoding="utf-8").splitlines())
            lines[room] = lines.get(room, 0) + count
    total = sum(lines.values())
    return [
        f"{room} has {count / total:.0%} of the code"
        for room, count in sorted(lines.items())
        if count > total * ROOM_SHARE_MAX
    ]


def parts_without_a_layer(root: Path) -> list[str]:
    """Parts of the package that LAYERS does not know: nothing would be checked for them."""
    return sorted({module.part for module in modules_below(root)} - RANKS.keys())


def imports_of_faust_outside_the_processor(root: Path) -> list[str]:
    """Faust (and mode, which it is made of) is named in processor/ alone."""
    return [
        f"{module.name}:{line} imports {target}"
        for module in modules_below(root)
        for line, target in imports_of(module, set())
        if target.split(".")[0] in {"faust", "mode"} and module.part != "processor"
    ]


def kafka_clients_that_ignore_the_setting(root: Path) -> list[str]:
    """A Kafka client connects as `KafkaConnection` says, so that every one can be secured.

    kafka-python's clients get ``**….for_kafka_python()``; aiokafka's are made in one module.
    """
    return [
        f"{module.name}:{node.lineno}"
        for module in modules_below(root)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and (client := _last_name(node.func)) in KAFKA_CLIENTS
        and (
            module.name != "usageledger.log.aiokafka_clients"
            if client.startswith("AIOKafka")
            else not any(
                keyword.arg is None and "for_kafka_python" in ast.unparse(keyword.value)
                for keyword in node.keywords
            )
        )
    ]


def _last_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def floats_in_the_domain(root: Path) -> list[str]:
    """Float literals and the name float in domain/: credits and quantities are never rounded by a
    representation.
    """
    return [
        f"{module.name}:{node.lineno}"
        for module in modules_below(root)
        if module.part == "domain" and module.name not in FLOATS_ALLOWED
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Constant) and isinstance(node.value, float))
        or (isinstance(node, ast.Name) and node.id == "float")
    ]


def clocks_and_chance_in_the_domain(root: Path) -> list[str]:
    """Clock, random and new ids are arguments of the domain: a replay must give the same bytes."""
    impure_modules = {
        "time",
        "random",
        "secrets",
        "uuid",
        "os",
        "socket",
        "asyncio",
        "threading",
        "logging",
    }
    impure_calls = {"now", "utcnow", "today"}
    found = []
    for module in modules_below(root):
        if module.part != "domain":
            continue
        found += [
            f"{module.name}:{line} imports {name}"
            for line, name in imports_of(module, set())
            if name.split(".")[0] in impure_modules
        ]
        found += [
            f"{module.name}:{node.lineno} calls {node.func.attr}"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in impure_calls
        ]
    return found


def functions_longer_than_a_screen(root: Path) -> list[str]:
    """Functions of more than FUNCTION_LINES_MAX lines, docstring included."""
    return [
        f"{module.name}:{node.lineno} {node.name} has {length} lines"
        for module in modules_below(root)
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]


def files_too_long(root: Path) -> list[str]:
    """Files of more than FILE_LINES_MAX lines."""
    return [
        f"{module.name} has {length} lines"
        for module in modules_below(root)
        if (length := len(module.path.read_text(encoding="utf-8").splitlines())) > FILE_LINES_MAX
    ]


def predicates_that_write(root: Path) -> list[str]:
    """Functions named as questions that assign to an attribute or an item, or change a list.

    A name that begins with ``is_``, ``has_`` or ``check_`` promises that a call changes nothing.
    """
    return [
        f"{module.name}:{node.lineno} {node.name} writes in line {line}"
        for module in modules_below(root)
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and PREDICATE.match(node.name)
        and not any(isinstance(mark, ast.Attribute) for mark in node.decorator_list)  # a setter
        for line in sorted(set(_writes_in(node)))
    ]


PREDICATE = re.compile(r"_*(is|has|check)_")
CHANGING = {
    "add",
    "append",
    "appendleft",
    "clear",
    "discard",
    "extend",
    "insert",
    "pop",
    "popleft",
    "remove",
    "set",
    "setdefault",
    "update",
}


def _writes_in(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[int]:
    """Yield the lines that change something beyond the function's own variables."""
    own = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(function):
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            yield node.lineno
        elif isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(
            node.ctx, ast.Load
        ):
            if _root_of(node) not in own:
                yield node.lineno
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in CHANGING
            and _root_of(node.func) not in own
        ):
            yield node.lineno


def _root_of(node: ast.expr) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def scripts_and_styles_too_long(root: Path) -> list[str]:
    """Scripts (JavaScript, Lua) and style sheets of more than SCRIPT_LINES_MAX lines."""
    return [
        f"{path.relative_to(root)} has {length} lines"
        for path in sorted((root / PACKAGE).rglob("*"))
        if path.suffix in {".js", ".css", ".lua"}
        and (length := len(path.read_text(encoding="utf-8").splitlines())) > SCRIPT_LINES_MAX
    ]


def scripts_that_import_a_missing_file(root: Path) -> list[str]:
    """Imports in web/ that name no file there by a relative path.

    The gateway serves each file at its path in web/, so a path that resolves here does so in a
    browser too.
    """
    return [
        f"{script.name} imports {name}"
        for script in _scripts(root)
        for name in _script_imports(script, _ANY_IMPORT)
        if not name.startswith(("./", "../")) or not (script.parent / name).is_file()
    ]


def circles_of_scripts(root: Path) -> list[str]:
    """Scripts of web/ that import themselves, directly or through others."""
    imports = {
        script: {(script.parent / name).resolve() for name in _script_imports(script, _IMPORT)}
        for script in _scripts(root)
    }
    found = []
    for script in imports:
        reached: set[Path] = set()
        pending = [script]
        while pending:
            new = imports.get(pending.pop(), set()) - reached
            reached |= new
            pending += new
        if script in reached:
            found.append(f"{script.name} imports itself")
    return found


def scripts_of_the_meter_that_import_a_page(root: Path) -> list[str]:
    """Other sites embed the meter. They may load its files, which are beside it, and no page's."""
    return [
        f"{script.name} imports {name}"
        for script in _scripts(root)
        if script.parent.name == "web"
        for name in _script_imports(script, _ANY_IMPORT)
        if not name.startswith("./usage-meter")
    ]


_IMPORT = re.compile(r'(?:\bfrom|^import) "(.+?)"', re.MULTILINE)
# The imports of types, which are in comments, are among these.
_ANY_IMPORT = re.compile(r'(?:\bfrom |^import |\bimport\()"(.+?)"', re.MULTILINE)


def _scripts(root: Path) -> list[Path]:
    return sorted(path.resolve() for path in (root / PACKAGE / "web").rglob("*.js"))


def _script_imports(script: Path, pattern: re.Pattern[str]) -> list[str]:
    return pattern.findall(script.read_text(encoding="utf-8"))


def vague_module_names(root: Path) -> list[str]:
    """Modules named for nothing in particular, for a library they use, or as the second of
    something.
    """
    return [
        module.name
        for module in modules_below(root)
        if (last := module.name.rpartition(".")[2]) in VAGUE_NAMES or last.endswith("_2")
    ]


def modules_without_future_annotations(root: Path) -> list[str]:
    """Modules that have code and do not begin with ``from __future__ import annotations``."""
    return [
        module.name
        for module in modules_below(root)
        if any(not isinstance(node, ast.Expr) for node in module.tree.body)
        and not any(
            isinstance(node, ast.ImportFrom) and node.module == "__future__"
            for node in module.tree.body
        )
    ]


def _may_import(module: Module, target: str) -> bool:
    target_part = target.split(".")[1] if "." in target else ""
    if module.part == target_part:
        return True
    return RANKS.get(module.part, -1) > RANKS.get(target_part, len(LAYERS))


def _circles(imported: Mapping[str, set[str]]) -> list[list[str]]:
    """Return one circle through each group of names that reach each other."""
    found: list[list[str]] = []
    seen: set[str] = set()
    for start in sorted(imported):
        if start in seen:
            continue
        waiting = [[start]]
        reached: set[str] = set()
        while waiting:
            way = waiting.pop(0)
            for name in sorted(imported.get(way[-1], ())):
                if name == start:
                    found.append([*way, start])
                    seen.update(way)
                    waiting = []
                    break
                if name not in reached:
                    reached.add(name)
                    waiting.append([*way, name])
    return found


Rule = Callable[[Path], list[str]]

# Each rule, and a file that breaks it.
RULES: dict[Rule, tuple[str, str]] = {
    imports_against_the_layers: ("domain/rating.py", "from usageledger.counters import view\n"),
    circles_of_modules: (
        "audit/verify.py",
        "def verify():\n    from usageledger.audit import verify\n",
    ),
    circles_of_rooms: (
        "domain/rating.py",
        "from usageledger.counters import view\n",
    ),
    rooms_too_large: ("web/usage-meter.js", "x = 1;\n" * 40),
    parts_without_a_layer: ("sundries/__init__.py", ""),
    imports_of_faust_outside_the_processor: (
        "limits/consumer.py",
        "def run() -> None:\n    import faust.types\n",
    ),
    kafka_clients_that_ignore_the_setting: (
        "log/reading.py",
        "def read(kafka):\n    return KafkaConsumer(bootstrap_servers=kafka.addresses)\n",
    ),
    floats_in_the_domain: ("domain/rating.py", "RATE: float = 1\n"),
    clocks_and_chance_in_the_domain: (
        "domain/rating.py",
        "from datetime import UTC, datetime\n\n\ndef at():\n    return datetime.now(UTC)\n",
    ),
    functions_longer_than_a_screen: (
        "audit/verify.py",
        "def verify():\n" + "    x = 1\n" * FUNCTION_LINES_MAX,
    ),
    predicates_that_write: (
        "audit/verify.py",
        "def is_done(self):\n    self.count = 1\n    return True\n",
    ),
    files_too_long: ("audit/verify.py", "x = 1\n" * (FILE_LINES_MAX + 1)),
    scripts_and_styles_too_long: ("web/usage-meter.css", "p {}\n" * (SCRIPT_LINES_MAX + 1)),
    scripts_that_import_a_missing_file: ("web/usage-meter.js", 'import { x } from "./gone.js";\n'),
    circles_of_scripts: ("web/usage-meter.js", 'import "./usage-meter.js";\n'),
    scripts_of_the_meter_that_import_a_page: (
        "web/usage-meter.js",
        'import { ask } from "./pages/asking.js";\n',
    ),
    vague_module_names: ("log/utils.py", ""),
    modules_without_future_annotations: ("log/topics.py", "PREFIX = ''\n"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_tree_keeps_the_rule(rule: Rule) -> None:
    assert rule(SERVICES) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_can_fail(rule: Rule, tmp_path: Path) -> None:
    path, text = RULES[rule]
    clean = _made_up_tree(tmp_path / "clean", {})
    broken = _made_up_tree(tmp_path / "broken", {path: text})
    assert rule(clean) == []
    assert len(rule(broken)) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("domain/rating.py", "from usageledger.contracts import events"),
        ("log/writer.py", "import usageledger.counters.view"),
        ("limits/consumer.py", "from usageledger.processor.owner import Owner"),
        ("processor/owner.py", "from usageledger import cli"),
        ("audit/verify.py", "def verify():\n    from usageledger.local import stack"),
        (
            "sdk/meter.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from usageledger.limits "
            "import consumer",
        ),
        ("runtime/settings.py", "from usageledger.gateway import app"),
        ("runtime/reader.py", "from usageledger.log import topics"),
        ("processor/owner.py", "from usageledger import UsageMeter"),
    ],
)
def test_an_import_up_or_to_a_sibling_is_found(path: str, text: str, tmp_path: Path) -> None:
    assert len(imports_against_the_layers(_made_up_tree(tmp_path, {path: text}))) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "processor/owner.py",
            "from usageledger.domain import rating\nfrom usageledger.counters.view import "
            "PartitionView",
        ),
        ("processor/owner.py", "from usageledger.processor.inputs import InputBuffer"),
        ("local/stack.py", "import usageledger.limits.consumer"),
        ("cli.py", "from usageledger import UsageMeter\nfrom usageledger.local import stack"),
        ("testing.py", "from usageledger.sdk.producer import meter"),
    ],
)
def test_an_import_down_is_not_held_against_anyone(path: str, text: str, tmp_path: Path) -> None:
    assert imports_against_the_layers(_made_up_tree(tmp_path, {path: text})) == []


@pytest.mark.parametrize(
    "body",
    [
        "self.count += 1",
        "self._seen[key] = 1",
        "self._seen.add(key)",
        "del self._seen[key]",
        "global count",
        "self._waiting.queue.append(key)",
        "if not self._seen: self._seen.clear()",
    ],
)
def test_a_predicate_that_writes_is_found(body: str, tmp_path: Path) -> None:
    text = f"def _has_seen(self, key):\n    {body}\n"
    assert len(predicates_that_write(_made_up_tree(tmp_path, {"audit/verify.py": text}))) == 1


@pytest.mark.parametrize(
    "body",
    [
        "found = []\n    found.append(key)",
        "counts = {}\n    counts[key] = 1",
        "return key in self._seen",
        "return self._seen.get(key)",
    ],
)
def test_a_predicate_may_use_variables_of_its_own(body: str, tmp_path: Path) -> None:
    text = f"def _has_seen(self, key):\n    {body}\n"
    assert predicates_that_write(_made_up_tree(tmp_path, {"audit/verify.py": text})) == []


def test_a_circle_by_way_of_others_is_found(tmp_path: Path) -> None:
    files = {
        "audit/verify.py": "from usageledger.audit import replay",
        "audit/replay.py": "def f():\n    import usageledger.audit.report",
        "audit/report.py": "from usageledger.audit.verify import x",
    }
    (circle,) = circles_of_modules(_made_up_tree(tmp_path, files))
    assert circle.count("→") == 3


def test_every_allowed_float_is_in_a_module_that_exists() -> None:
    assert {module.name for module in modules_below(SERVICES)} >= FLOATS_ALLOWED.keys()


def test_lines_have_at_most_100_columns() -> None:
    """ruff does not count what follows a pragma, and reads neither scripts nor models."""
    assert lines_too_long(SERVICES.parent) == []


def test_a_line_that_is_too_long_is_found(tmp_path: Path) -> None:
    path = tmp_path / "tests" / "model" / "Ledger.tla"
    path.parent.mkdir(parents=True)
    path.write_text(f"{'=' * LINE_COLUMNS_MAX}\n{'=' * (LINE_COLUMNS_MAX + 1)}\n", encoding="utf-8")
    assert lines_too_long(tmp_path) == ["tests/model/Ledger.tla:2"]


def lines_too_long(root: Path) -> list[str]:
    """Lines of code above LINE_COLUMNS_MAX, whatever the language."""
    files = [
        *(root / name for name in ("Makefile", "pyproject.toml", ".ci/run")),
        *(
            path
            for folder in ("services", "tests", "infra", "examples")
            for path in sorted((root / folder).rglob("*"))
            if path.suffix in LINES_CHECKED_IN and "node_modules" not in path.parts
        ),
    ]
    return [
        f"{path.relative_to(root).as_posix()}:{number}"
        for path in files
        if path.is_file()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > LINE_COLUMNS_MAX
    ]


def test_test_names_have_at_most_80_characters() -> None:
    assert names_too_long(TESTS) == []


def test_a_test_name_that_is_too_long_is_found(tmp_path: Path) -> None:
    for length in (TEST_NAME_MAX, TEST_NAME_MAX + 1):
        name = "test_" + "x" * (length - len("test_"))
        (tmp_path / f"test_{length}.py").write_text(f"def {name}(): ...\n", encoding="utf-8")
    assert len(names_too_long(tmp_path)) == 1


def names_too_long(root: Path) -> list[str]:
    """Return the test functions below ``root`` whose names have more than TEST_NAME_MAX letters."""
    return [
        f"{path.relative_to(root)}:{node.lineno} {node.name}"
        for path in sorted(root.rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
        and len(node.name) > TEST_NAME_MAX
    ]


def test_a_circle_of_two_scripts_is_found(tmp_path: Path) -> None:
    tree = _made_up_tree(
        tmp_path,
        {
            "web/usage-meter-one.js": 'import { two } from "./usage-meter-two.js";\n',
            "web/usage-meter-two.js": 'export { one } from "./usage-meter-one.js";\n',
            "web/pages/console.js": 'import "../usage-meter-one.js";\n',
        },
    )
    assert len(circles_of_scripts(tree)) == 2
    assert scripts_that_import_a_missing_file(tree) == []
    assert scripts_of_the_meter_that_import_a_page(tree) == []


@pytest.mark.parametrize(
    "text",
    [
        'import "/usage-meter.js";\n',
        'import {\n  one,\n  two,\n} from "./gone.js";\n',
        '/** @typedef {import("./gone.js").Text} Text */\n',
    ],
)
def test_every_way_to_import_a_script_is_seen(text: str, tmp_path: Path) -> None:
    tree = _made_up_tree(tmp_path, {"web/usage-meter.js": text})
    assert len(scripts_that_import_a_missing_file(tree)) == 1


def _made_up_tree(root: Path, files: dict[str, str]) -> Path:
    parts = [
        part
        for layer in LAYERS
        for part in layer
        if part not in {"", "testing", "fastapi", "cli", "__main__"}
    ]
    for file, text in (
        {f"{part}/__init__.py": "PART = 1\n" for part in parts}
        | {"counters/__init__.py": "from usageledger import domain\n"}
        | {"__init__.py": "", "cli.py": ""}
        | files
    ).items():
        path = root / PACKAGE / file
        path.parent.mkdir(parents=True, exist_ok=True)
        is_exempt = file == "log/topics.py" or not file.endswith(".py")
        future = "" if is_exempt else "from __future__ import annotations\n\n"
        path.write_text(future + text if text else "", encoding="utf-8")
    return root
