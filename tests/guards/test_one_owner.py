"""One module of verbs writes each table: any statement that writes it elsewhere is found and named.

Found are statements in SQL (also in parts, put together), SQLAlchemy's insert, update and delete,
COPY, and objects of mapped classes that are made, added, merged, deleted or given attributes.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from notifier import schema

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "notifier"
_CLASSES: Mapping[str, str] = {
    mapper.class_.__name__: str(mapper.local_table.name)  # type: ignore[attr-defined]
    for mapper in schema.Base.registry.mappers
}
_TABLES = frozenset(schema.Base.metadata.tables)
_NAME = r"(?:only\s+)?(?:public\s*\.\s*)?\"?([a-z_]+)\"?"
_WRITES = re.compile(
    rf"\b(?:insert\s+into|update|delete\s+from|merge\s+into|truncate(?:\s+table)?|copy)\s+{_NAME}",
    re.IGNORECASE,
)
# "COPY recipient (…) FROM STDIN" writes; "COPY … TO" and "FOR UPDATE OF" read.
_COPY_TO = re.compile(r"\bcopy\s+\S+[^;]*?\bto\s+(?:stdout|program|')", re.IGNORECASE)
_LOCKS = re.compile(r"\bfor\s+(?:no\s+key\s+)?update\b", re.IGNORECASE)
_BUILDERS = frozenset({"insert", "update", "delete", "merge"})
_GAP = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Write:
    """A place that writes a table."""

    table: str
    line: int
    what: str


def _text(node: ast.expr) -> str | None:
    """Return the words of a string, its unknown parts as one sign; None for what is no string."""
    match node:
        case ast.Constant(value=str() as value):
            return value
        case ast.JoinedStr():
            return "".join(_text(part) or _GAP for part in node.values)
        case ast.BinOp(op=ast.Add() | ast.Mod()):
            left, right = _text(node.left), _text(node.right)
            if left is None and right is None:
                return None
            joined = right if isinstance(node.op, ast.Add) else ""
            return (_GAP if left is None else left) + (_GAP if joined is None else joined)
        case ast.Call(func=ast.Attribute(value=inner, attr="format" | "join" | "strip")):
            words = _text(inner)
            parts = [_text(each) for argument in node.args for each in _elements(argument)]
            known = [each for each in parts if each is not None]
            return " ".join([*([words] if words is not None else []), *known]) or None
    return None


def _elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.List | ast.Tuple) else [node]


def _strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield every string of a module with its line, the longest that it is a part of."""
    inside: set[int] = set()
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):  # from the outside to the inside
        if not isinstance(node, ast.expr) or id(node) in inside or id(node) in docstrings:
            continue
        words = _text(node)
        if words is not None:
            inside.update(id(each) for each in ast.walk(node))
            yield node.lineno, words


def _in_sql(tree: ast.Module) -> Iterator[Write]:
    for line, words in _strings(tree):
        sql = _LOCKS.sub(" ", _COPY_TO.sub(" ", re.sub(r"--[^\n]*", "", words)))
        for found in _WRITES.finditer(sql):
            if found[1].lower() in _TABLES:
                at = line + words[: words.find(found[0])].count("\n") if found[0] in words else line
                yield Write(found[1].lower(), at, " ".join(found[0].split()))


def _imported(module: str, name: str) -> str | None:
    """Return the table of what `from module import name` gives, if that is a mapped class."""
    if not module.startswith("notifier"):
        return None
    found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, schema.Base)):
        return None
    return _CLASSES.get(found.__name__)


class _Calls(ast.NodeVisitor):
    """Finds what SQLAlchemy would write, knowing the mapped classes by the names they go by."""

    def __init__(self, tree: ast.Module) -> None:
        self.writes: list[Write] = []
        self._names = dict(_CLASSES)
        self._modules = {"schema"}
        # Variables that hold a mapped object, by the annotation or call that says so.
        self._objects: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                self._names.pop(node.name, None)
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    name = alias.asname or alias.name
                    # Another's class may have the same name, such as email.message.Message.
                    self._names.pop(name, None)
                    table = _imported(node.module or "", alias.name)
                    if table is not None:
                        self._names[name] = table
                    if alias.name == "schema":
                        self._modules.add(name)
        self.visit(tree)

    def _table(self, node: ast.expr) -> str | None:
        """Return the table that an expression stands for: a mapped class, or its __table__."""
        match node:
            case ast.Name(id=name):
                return self._names.get(name)
            case ast.Attribute(value=inner, attr="__table__"):
                return self._table(inner)
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in self._modules:
                return _CLASSES.get(name)
        return None

    def _add(self, table: str | None, node: ast.AST, what: str) -> None:
        if table is not None:
            self.writes.append(Write(table, getattr(node, "lineno", 0), what))

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else called
        if name in _BUILDERS and node.args:
            self._add(self._table(node.args[0]), node, f"{name}()")
        if called in {"insert", "update", "delete"} and isinstance(node.func, ast.Attribute):
            # As in "Message.__table__" with ".update()".
            self._add(self._table(node.func.value), node, f"{called}()")
        if called in {"add", "merge", "delete", "add_all"}:
            for argument in node.args:
                for each in _elements(argument):
                    self._add(self._object(each), node, f"session.{called}()")
        if name in {"bulk_insert_mappings", "bulk_update_mappings"} and node.args:
            self._add(self._table(node.args[0]), node, f"{name}()")
        if name == "setattr" and node.args:
            self._add(self._object(node.args[0]), node, "setattr()")
        self._add(self._table(node.func), node, "made here")
        self.generic_visit(node)

    def _object(self, node: ast.expr) -> str | None:
        return self._objects.get(node.id) if isinstance(node, ast.Name) else None

    def _annotated(self, annotation: ast.expr | None) -> str | None:
        match annotation:
            case ast.Constant(value=str(words)):
                return self._annotated(ast.parse(words, mode="eval").body)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._annotated(left) or self._annotated(right)
            case ast.expr():
                return self._table(annotation)
        return None

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before = dict(self._objects)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for each in arguments:
            self._objects.pop(each.arg, None)
            table = self._annotated(each.annotation)
            if table is not None:
                self._objects[each.arg] = table
        self.generic_visit(node)
        self._objects = before

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _holds(self, value: ast.expr) -> str | None:
        """Return the table of the mapped object that an expression gives, when it says so."""
        if not isinstance(value, ast.Call):
            return self._object(value)
        table = self._table(value.func)
        if table is not None:
            return table
        called = value.func.attr if isinstance(value.func, ast.Attribute) else ""
        # The verbs of campaigns hand the mapped object out.
        if isinstance(value.func, ast.Attribute) and isinstance(value.func.value, ast.Name):
            handed_out = _HANDED_OUT.get((value.func.value.id, called))
            if handed_out is not None:
                return handed_out
        if called in {"get", "get_one", "merge"} and value.args:
            return self._table(value.args[0])
        if called in {"scalar", "scalars", "one", "one_or_none", "first", "scalar_one"}:
            # session.scalar(select(Campaign).where(…)): what the innermost select names.
            for inner in ast.walk(value):
                if (
                    isinstance(inner, ast.Call)
                    and isinstance(inner.func, ast.Name)
                    and inner.func.id == "select"
                    and len(inner.args) == 1
                ):
                    return self._table(inner.args[0])
        return None

    def visit_Assign(self, node: ast.Assign) -> None:
        self._assigned(node.targets, node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        table = self._annotated(node.annotation)
        if table is not None and isinstance(node.target, ast.Name):
            self._objects[node.target.id] = table
        elif node.value is not None:
            self._assigned([node.target], node.value)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._assigned([node.target], node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._assigned([node.target], node.value)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        if isinstance(node.target, ast.Name):
            table = self._holds(node.iter)
            if table is not None:
                self._objects[node.target.id] = table
        self.generic_visit(node)

    def _assigned(self, targets: list[ast.expr], value: ast.expr) -> None:
        flat = [each for target in targets for each in _elements(target)]
        for target in flat:
            if isinstance(target, ast.Name):
                table = self._holds(value)
                self._objects.pop(target.id, None)
                if table is not None:
                    self._objects[target.id] = table
            elif isinstance(target, ast.Attribute):
                self._add(self._object(target.value), target, f".{target.attr} =")


_HANDED_OUT = {
    ("campaigns", "get"): "campaign",
    ("campaigns", "create_draft"): "campaign",
}


def writes(source: str) -> list[Write]:
    """Return every place of a module's source that writes a table."""
    tree = ast.parse(source)
    return sorted({*_in_sql(tree), *_Calls(tree).writes}, key=lambda each: each.line)


def _modules() -> list[Path]:
    return [
        path
        for path in sorted(CODE.rglob("*.py"))
        if "migrations" not in path.parts and path != CODE / "schema.py"
    ]


def _strangers(path: Path) -> list[str]:
    """Return the writes of a module to tables that are not its own, as file:line."""
    place = path.relative_to(ROOT)
    return [
        f"{place}:{each.line}: {each.what} of {each.table}, which "
        f"notifier/domain/{schema.OWNERS[each.table]}.py owns"
        for each in writes(path.read_text(encoding="utf-8"))
        if path != CODE / "domain" / f"{schema.OWNERS[each.table]}.py"
    ]


def test_every_table_has_an_owner_and_every_owner_is_there() -> None:
    assert schema.OWNERS.keys() == _TABLES
    for owner in set(schema.OWNERS.values()):
        assert (CODE / "domain" / f"{owner}.py").exists(), owner


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_table_is_written_by_its_owner_alone(path: Path) -> None:
    assert _strangers(path) == []


# --- the guard itself ----------------------------------------------------------------------------

BAD = {
    "text": ('text("INSERT INTO message (id) VALUES (:id)")', "message"),
    "small letters": ('text("insert into message (id) values (:id)")', "message"),
    "two lines": ('text("""\nUPDATE\n   campaign c SET total = 1""")', "campaign"),
    "a part of a CTE": (
        'text("WITH gone AS (DELETE FROM suppression RETURNING id) SELECT 1")',
        "suppression",
    ),
    "an f-string": ('f"UPDATE batch b SET state = {state}"', "batch"),
    "a part of an f-string": ('f"WITH x AS ({other}) INSERT INTO tally SELECT 1"', "tally"),
    "parts beside each other": ('x = "INSERT INTO " "message (id)"', "message"),
    "parts put together": ('x = "DELETE FROM " + "message_event " + where', "message_event"),
    "parts joined": ('x = " ".join(["UPDATE", "dossier SET code = 1"])', "dossier"),
    "format": ('x = "DELETE FROM api_key WHERE {}".format(y)', "api_key"),
    "percent": ('x = "UPDATE api_key SET name = %s" % y', "api_key"),
    "a constant": ('STATEMENT = "UPDATE taxpayer SET name = :name"', "taxpayer"),
    "a keyword": ('run(statement="UPDATE taxpayer SET name = :name")', "taxpayer"),
    "a default": ('def f(x: str = "DELETE FROM recipient") -> None: ...', "recipient"),
    "COPY": ('cursor.copy("COPY recipient (id, name) FROM STDIN")', "recipient"),
    "ONLY": ('text("DELETE FROM ONLY message")', "message"),
    "a schema": ('text("UPDATE public.message SET state = 1")', "message"),
    "quoted": ("text('UPDATE \"message\" SET state = 1')", "message"),
    "TRUNCATE": ('text("TRUNCATE webhook_event")', "webhook_event"),
    "MERGE": ('text("MERGE INTO address a USING b ON true")', "address"),
    "insert()": ("session.execute(insert(Message).values(id=1))", "message"),
    "update()": ("connection.execute(update(ApiKey).values(name=1))", "api_key"),
    "delete()": ("connection.execute(delete(schema.WebhookEvent))", "webhook_event"),
    "sa.update()": ("connection.execute(sa.update(Batch))", "batch"),
    "a table's update()": ("Batch.__table__.update()", "batch"),
    "insert() of a table": ("insert(Batch.__table__)", "batch"),
    "another name": (
        "from notifier.schema import Message as Row\nsession.execute(insert(Row))",
        "message",
    ),
    "a class that its owner hands on": (
        "from notifier.domain.campaigns import Campaign as Row\nsession.add(Row())",
        "campaign",
    ),
    "another module's name": ("from notifier import schema as s\ninsert(s.Message)", "message"),
    "made": ("session.add(Message(id=1))", "message"),
    "made first": ("row = Suppression(topic='*')\nother(row)", "suppression"),
    "add_all": ("session.add_all([Batch(id=1)])", "batch"),
    "an attribute": (
        "def f(campaign: Campaign) -> None:\n    campaign.total = 3",
        "campaign",
    ),
    "an attribute of what may be none": (
        "def f(campaign: Campaign | None) -> None:\n    campaign.total += 3",
        "campaign",
    ),
    "an attribute of what was read": (
        "row = session.scalar(select(Campaign).where(x))\nrow.total = 3",
        "campaign",
    ),
    "an attribute of each": (
        "for each in session.scalars(select(Campaign)):\n    each.total = 3",
        "campaign",
    ),
    "an attribute of what a verb gave": (
        "campaign = campaigns.get(session, name)\ncampaign.total = 3",
        "campaign",
    ),
    "an attribute of get()": ("row = session.get(ApiKey, 1)\nrow.name = 'x'", "api_key"),
    "setattr": ("row = session.get_one(ApiKey, 1)\nsetattr(row, name, 1)", "api_key"),
    "a deleted object": (
        "row = session.get_one(ListFile, 1)\nsession.delete(row)",
        "list_file",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_the_guard_finds_a_write(name: str) -> None:
    source, table = BAD[name]
    found = writes("'''A module.'''\n\n" + source)
    assert {each.table for each in found} == {table}
    assert all(each.line >= 3 for each in found)


GOOD = {
    "a read": 'text("SELECT id FROM message WHERE state = :state FOR UPDATE")',
    "a lock of one table": 'text("SELECT m.id FROM message m FOR NO KEY UPDATE OF m SKIP LOCKED")',
    "a docstring": 'def f() -> None:\n    """UPDATE message, and DELETE FROM campaign."""',
    "a comment in SQL": 'text("""SELECT 1 -- UPDATE message\n""")',
    "a select": "session.scalars(select(Message).where(Message.id == 1))",
    "another table": 'text("INSERT INTO reached (email) VALUES (1)")',
    "a sentence": 'raise Error("Update the message.")',
    "a dict's update": "values.update(other)",
    "another's class": "from email.message import Message\npart = Message()",
    "a class of ours of the same name": (
        "from notifier.domain.dossiers import Dossier\n"
        "def f(dossier: Dossier) -> None:\n    dossier.message_id = None"
    ),
    "a class of its own": "class Message: ...\nx = Message()\nx.id = 1",
    "an attribute of another": "def f(report: Report) -> None:\n    report.total = 3",
    "a set's add": "seen.add(message_id)",
    "COPY to": 'text("COPY message TO STDOUT")',
    "a column's name": 'text("SELECT x FROM batch ORDER BY last_update")',
}


@pytest.mark.parametrize("name", GOOD)
def test_the_guard_lets_reads_be(name: str) -> None:
    assert writes(GOOD[name]) == []


def test_the_guard_names_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "CODE", tmp_path / "notifier")
    bad = tmp_path / "notifier" / "flows" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text('"""Bad."""\n\nX = """\n  WITH a AS (SELECT 1)\n  UPDATE message SET x = 1"""\n')
    assert _strangers(bad) == [
        "notifier/flows/bad.py:5: UPDATE message of message, which notifier/domain/messages.py owns"
    ]
