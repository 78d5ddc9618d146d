"""What is declared is imported, what is imported is declared, and both lock files say the same."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Declared without an import of ours: what each is there for.
PLUGINS: Mapping[str, str] = {
    "flower": "a command of Celery, started by docker-compose.yml",
    "hiredis": "redis-py parses replies with it when it is there: half the time of a wake",
    "httptools": "uvicorn parses requests with it when it is there",
    "packaging": "kombu's Redis transport imports it and does not declare it",
    "python-multipart": "starlette reads forms with it, one-click requests among them",
    "tzdata": "zoneinfo's data where the system has none, as in slim images",
}
TOOLS: Mapping[str, str] = {
    "openapi-python-client": "run by a test: makes a typed client from the document of the API",
    "celery-types": "types for mypy",
    "check-jsonschema": "a guard runs it over docker-compose.yml",
    "coverage": "measures tests; CI holds its floor",
    "editables": "hatchling needs it for `pip install --editable`",
    "furo": "the theme of the docs site, named in docs/conf.py",
    "hatchling": "builds the package",
    "mypy": "checks types",
    "myst-parser": "reads Markdown for the docs site, named in docs/conf.py",
    "pre-commit": "runs what CI runs on changed files",
    "pytest-cov": "`make test` shows what tests cover",
    "pytest-timeout": "ends tests that hang",
    "ruff": "style and format",
    "types-openpyxl": "types for mypy",
    "types-psutil": "types for mypy",
    "types-pyyaml": "types for mypy",
    "uv": "writes the lock files",
}
# Fixtures for other projects' tests: whoever uses them has pytest.
FOR_TESTS = {ROOT / "notifier" / "testing.py"}
OURS = {"notifier", "tests", "bench"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: Iterable[str]) -> set[str]:
    return {normal(re.split(r"[\s\[<>=!~;]", each, maxsplit=1)[0]) for each in requirements}


def _named(node: ast.AST) -> list[str]:
    """Return the modules that a statement imports, or that a call looks up by name."""
    match node:
        case ast.Import(names=found):
            return [each.name for each in found]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case ast.Call(
            func=ast.Name(id="import_module" | "find_spec"), args=[ast.Constant(value=str(module))]
        ):
            return [module]
    return []


def imported(files: Iterable[Path]) -> dict[str, Path]:
    """Return the top-level modules that are neither ours nor Python's, each with a file."""
    found: dict[str, Path] = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for module in _named(node):
                found.setdefault(module.partition(".")[0], path)
    return {
        module: path
        for module, path in found.items()
        if module not in sys.stdlib_module_names and module not in OURS
    }


def distributions(files: Iterable[Path]) -> tuple[set[str], dict[str, Path]]:
    """Return the names of what the files import, and the modules that nothing installed has."""
    known = packages_distributions()
    modules = imported(files)
    missing = {module: path for module, path in modules.items() if module not in known}
    return {normal(each) for module in modules for each in known.get(module, ())}, missing


RUNTIME_FILES = sorted(set((ROOT / "notifier").rglob("*.py")) - FOR_TESTS)
DEV_FILES = sorted(
    [
        *FOR_TESTS,
        *(path for folder in ("tests", "bench", "docs") for path in (ROOT / folder).rglob("*.py")),
    ]
)
RUNTIME = names(PROJECT["dependencies"])
DEV = names(PROJECT["optional-dependencies"]["dev"])


def test_the_package_declares_what_it_imports() -> None:
    found, missing = distributions(RUNTIME_FILES)
    assert missing == {}
    assert found - RUNTIME == set()


def test_the_package_imports_what_it_declares() -> None:
    found, _ = distributions(RUNTIME_FILES)
    assert RUNTIME - found == set(PLUGINS)


def test_tests_declare_what_they_import() -> None:
    found, missing = distributions(DEV_FILES)
    assert missing == {}
    assert found - RUNTIME - DEV == set()


def test_tests_import_what_they_declare_or_it_is_a_tool() -> None:
    found, _ = distributions(DEV_FILES)
    assert DEV - found == set(TOOLS)


def test_nothing_is_declared_twice() -> None:
    assert not RUNTIME & DEV


def pins(file: str) -> set[tuple[str, str]]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return set(re.findall(r"^([\w.-]+)==(\S+)", "\n".join(lines), re.MULTILINE))


def test_what_runs_is_what_is_tested() -> None:
    assert pins("requirements.txt") <= pins("requirements-dev.txt")


def test_the_locks_hold_all_that_is_declared() -> None:
    assert {normal(name) for name, _ in pins("requirements.txt")} >= RUNTIME
    assert {normal(name) for name, _ in pins("requirements-dev.txt")} >= RUNTIME | DEV


def test_the_image_has_no_tools() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"-r (\S+)", dockerfile)) == {"requirements.txt"}
    shipped = {normal(name) for name, _ in pins("requirements.txt")}
    assert not shipped & DEV
