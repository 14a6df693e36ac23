"""``python -m tests.prose [PATH …]``: check the English of comments, docstrings and Markdown."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.prose.english import RULES
from tests.prose.texts import ROOT, files_of_prose, passages_of


def main() -> int:
    """List each finding as ``path:line: rule: advice``; 1 if there are any, unless ``--list``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders (default: all)")
    parser.add_argument("--list", action="store_true", help="list findings and succeed")
    parser.add_argument("--count", action="store_true", help="only count, by rule and folder")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    arguments = parser.parse_args()
    wanted = [path.resolve() for path in arguments.paths]
    files = [
        path
        for path in files_of_prose(arguments.root)
        if not wanted or any(path == chosen or chosen in path.parents for chosen in wanted)
    ]
    counts: Counter[tuple[str, str]] = Counter()
    for path in files:
        for line, rule, advice in findings(path, path.read_text(encoding="utf-8")):
            shown = path.relative_to(arguments.root)
            counts[rule, "/".join(shown.parts[:3][:-1])] += 1
            if not arguments.count:
                print(f"{shown}:{line}: {rule}: {advice}")
    for (rule, folder), count in sorted(counts.items()) if arguments.count else ():
        print(f"{count:5d} {rule} {folder}")
    print(f"prose: {counts.total()} findings in {len(files)} files")
    return 1 if counts and not arguments.list else 0


def findings(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, rule and advice for each breach of a rule in one file."""
    for passage in passages_of(path, text):
        for sentence in passage.sentences():
            for rule in RULES:
                for advice in rule(sentence):
                    yield passage.line, rule.__name__, advice


if __name__ == "__main__":
    sys.exit(main())
