"""Size budgets: a function of at most 60 lines, a file of at most 500.

usage: budgets.py [PROJECT_FOLDER]

Limits, folders and the exceptions (by name, with the length they are allowed) are in
pyproject.toml under [tool.tuft.budgets]. An exception that is no longer needed, or larger
than it need be, is a finding too, so that they only ever become fewer.
Exit status: 0 within budget, 1 findings.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Length:
    """`name` is `path` for a file, `path:qualified.name` for a function."""

    name: str
    lines: int
    limit: int


def lengths(root: Path, folder: str, function_lines: int, file_lines: int) -> Iterator[Length]:
    for path in sorted((root / folder).rglob("*.py")):
        text = path.read_text()
        name = path.relative_to(root).as_posix()
        yield Length(name, len(text.splitlines()), file_lines)
        for function, lines in functions(ast.parse(text, str(path)), ()):
            yield Length(f"{name}:{function}", lines, function_lines)


def functions(node: ast.AST, outer: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Qualified name and lines (first line of `def` to its last) of every function."""
    for child in ast.iter_child_nodes(node):
        inner = outer
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = (*outer, child.name)
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            assert child.end_lineno is not None
            yield ".".join(inner), child.end_lineno - child.lineno + 1
        yield from functions(child, inner)


def findings(root: Path) -> list[str]:
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["tuft"]["budgets"]
    exceptions: dict[str, int] = dict(settings.get("exceptions", {}))
    found = []
    for folder in settings["folders"]:
        sizes = lengths(root, folder, settings["function_lines"], settings["file_lines"])
        for size in sizes:
            allowed = exceptions.pop(size.name, None)
            if allowed is None and size.lines > size.limit:
                found.append(f"{size.name}: {size.lines} lines, the budget is {size.limit}")
            elif allowed is not None and size.lines <= size.limit:
                found.append(f"{size.name}: within budget now; remove its exception")
            elif allowed is not None and size.lines != allowed:
                found.append(f"{size.name}: {size.lines} lines, its exception says {allowed}")
    found += [f"{name}: an exception for something that is not there" for name in exceptions]
    return found


def main(arguments: list[str]) -> int:
    root = Path(arguments[0]) if arguments else Path.cwd()
    found = findings(root)
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
