from __future__ import annotations

from pathlib import Path

from tests.tools.budgets import findings

SETTINGS = """
[tool.tuft.budgets]
function_lines = 3
file_lines = 8
folders = ["src"]
[tool.tuft.budgets.exceptions]
{exceptions}
"""
SHORT = "def f():\n    a = 1\n    return a\n"
LONG = "class C:\n    async def g(self):\n        a = 1\n        b = 2\n        return a, b\n"


def project(folder: Path, files: dict[str, str], exceptions: str = "") -> Path:
    (folder / "src").mkdir()
    (folder / "pyproject.toml").write_text(SETTINGS.format(exceptions=exceptions))
    for name, text in files.items():
        (folder / "src" / name).write_text(text)
    return folder


def test_within_budget(tmp_path: Path) -> None:
    assert findings(project(tmp_path, {"a.py": SHORT})) == []


def test_long_function_is_named(tmp_path: Path) -> None:
    assert findings(project(tmp_path, {"a.py": LONG})) == ["src/a.py:C.g: 4 lines, the budget is 3"]


def test_long_file_is_named(tmp_path: Path) -> None:
    assert findings(project(tmp_path, {"a.py": "x = 1\n" * 9})) == [
        "src/a.py: 9 lines, the budget is 8"
    ]


def test_exception_allows_its_length_only(tmp_path: Path) -> None:
    root = project(tmp_path, {"a.py": LONG}, '"src/a.py:C.g" = 4')
    assert findings(root) == []
    (root / "src" / "a.py").write_text(LONG.replace("a = 1", "a = 1\n        c = 2"))
    assert findings(root) == ["src/a.py:C.g: 5 lines, its exception says 4"]


def test_needless_exceptions_are_findings(tmp_path: Path) -> None:
    root = project(tmp_path, {"a.py": SHORT}, '"src/a.py:f" = 70\n"src/gone.py" = 600')
    assert findings(root) == [
        "src/a.py:f: within budget now; remove its exception",
        "src/gone.py: an exception for something that is not there",
    ]
