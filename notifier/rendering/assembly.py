"""Puts the files of a template together: one syntax tree per part, out of those that Jinja parses.

`{% extends %}`, `{% block %}` and `{% include %}` mean what they mean to Jinja, which would look
them up for every recipient. Here they are resolved once, on the trees: what runs later is one
function without a look-up, which is what makes a fill fast. A `{% set %}` or macro is seen by all
that follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from jinja2 import Environment, TemplateNotFound, TemplateSyntaxError, nodes
from jinja2.visitor import NodeTransformer

from notifier.errors import TemplateError

MAX_INCLUDE_DEPTH = 8
MAX_READ_CHARS = 256 * 1024


def assemble(environment: Environment, path: str, shown: str = "") -> nodes.Template:
    """Return the tree of `path`, a text of the environment's loader, with all that it takes.

    `shown` goes before paths in errors. Raise TemplateError naming the file and the line.
    """
    assembly = _Assembly(environment, shown)
    try:
        body = assembly.file(path, {}, 0)
    except RecursionError:
        raise too_deep(shown + path) from None
    tree = nodes.Template(body, lineno=1, environment=environment)
    _merge(tree, environment)
    return tree


def texts(tree: nodes.Template) -> list[nodes.TemplateData]:
    """Return what stands between the tags, in its order; no two of them stand side by side."""
    found: list[nodes.TemplateData] = []
    below: list[nodes.Node] = [tree]
    while below:
        node = below.pop()
        if isinstance(node, nodes.TemplateData):
            found.append(node)
        elif not isinstance(node, nodes.Expr):
            below += reversed(list(node.iter_child_nodes()))
    return found


def too_deep(shown: str) -> TemplateError:
    """Return the error for brackets, tags or elements inside each other beyond any mail."""
    return TemplateError(f"{shown} is nested too deeply to compile.", fix="Simplify it.")


def _blank(node: nodes.Node) -> bool:
    """Say whether a node is nothing but spaces and line ends."""
    return isinstance(node, nodes.Output) and all(
        isinstance(each, nodes.TemplateData) and not each.data.strip() for each in node.nodes
    )


def _merge(tree: nodes.Node, environment: Environment) -> None:
    """Make one text of those that stand side by side where a resolved tag or a comment was."""
    below = [tree]
    while below:
        node = below.pop()
        for name, value in node.iter_fields():
            if isinstance(value, list) and any(isinstance(each, nodes.Output) for each in value):
                setattr(node, name, list(_merged(value, environment)))
        below += [
            child
            for child in node.iter_child_nodes()
            if not isinstance(child, (nodes.Expr, nodes.Output))
        ]


def _merged(body: list[nodes.Node], environment: Environment) -> Iterator[nodes.Node]:
    for is_output, run in groupby(body, lambda node: isinstance(node, nodes.Output)):
        if not is_output:
            yield from run
            continue
        outputs = [node for node in run if isinstance(node, nodes.Output)]
        parts: list[nodes.Expr] = []
        inside = (each for output in outputs for each in output.nodes)
        for is_text, each in groupby(inside, lambda node: isinstance(node, nodes.TemplateData)):
            found = list(each)
            if is_text:
                line = found[0].lineno
                data = "".join(text.data for text in found if isinstance(text, nodes.TemplateData))
                found = [nodes.TemplateData(data, lineno=line, environment=environment)]
            parts += found
        yield nodes.Output(parts, lineno=outputs[0].lineno, environment=environment)


class _Assembly:
    """Reads the files of one part, within limits for all of them together."""

    def __init__(self, environment: Environment, shown: str) -> None:
        self._environment = environment
        self._prefix = shown
        self._chars = 0

    def shown(self, path: str) -> str:
        return path if path.startswith("_base/") else self._prefix + path

    def file(self, path: str, blocks: dict[str, nodes.Block], depth: int) -> list[nodes.Node]:
        """Return the body of a file whose blocks give way to `blocks`."""
        if depth > MAX_INCLUDE_DEPTH:
            raise TemplateError(
                f"{self.shown(path)} includes itself, or files are included more than "
                f"{MAX_INCLUDE_DEPTH} deep."
            )
        body = self._parse(path).body
        at = next((at for at, node in enumerate(body) if not _blank(node)), 0)
        if body and isinstance(parent := body[at], nodes.Extends):
            own = self._own_blocks(path, body[at + 1 :])
            return self.file(self.joined(path, parent), {**own, **blocks}, depth + 1)
        whole = nodes.Template(body, lineno=1)
        _Resolver(self, path, blocks, depth).visit(whole)
        return whole.body

    def _parse(self, path: str) -> nodes.Template:
        loader, shown = self._environment.loader, self.shown(path)
        assert loader is not None  # noqa: S101 - whoever made the environment gave it one
        try:
            text = loader.get_source(self._environment, path)[0]
        except TemplateNotFound:
            raise TemplateError(f"The file {shown} is missing.") from None
        self._chars += len(text)
        # Files that include others many times over would multiply without end.
        if self._chars > MAX_READ_CHARS:
            raise TemplateError(
                f"{shown}: the files it takes together are larger than {MAX_READ_CHARS // 1024} kB."
            )
        try:
            return self._environment.parse(text, path, shown)
        except TemplateSyntaxError as error:
            raise self.wrong(path, error.lineno, str(error.message).removesuffix(".")) from None
        except (RecursionError, ValueError):
            # Hundreds of brackets inside each other, a number of thousands of digits.
            raise too_deep(shown) from None

    def _own_blocks(self, path: str, body: list[nodes.Node]) -> dict[str, nodes.Block]:
        """Return the blocks of a file that extends another.

        What stands between them would be lost.
        """
        for node in body:
            if isinstance(node, nodes.Extends):
                raise self.wrong(path, node.lineno, "'extends' must be the first tag of a file")
            if not isinstance(node, nodes.Block) and not _blank(node):
                raise TemplateError(
                    f"{self.shown(path)} has text outside its blocks (line {node.lineno}).",
                    fix="Move it into a block of the layout it extends.",
                )
        own = [node for node in body if isinstance(node, nodes.Block)]
        inner = [block for node in own for block in node.find_all(nodes.Block)]
        return {block.name: block for block in (*own, *inner)}

    def joined(self, path: str, node: nodes.Extends | nodes.Include) -> str:
        if not isinstance(node.template, nodes.Const) or not isinstance(node.template.value, str):
            verb = type(node).__name__.lower()
            raise self.wrong(path, node.lineno, f"'{verb}' needs the name of a file in quotes")
        return self._environment.join_path(node.template.value, path)

    def wrong(self, path: str, line: int, words: str) -> TemplateError:
        return TemplateError(f"{self.shown(path)}, line {line}: {words}.")


class _Resolver(NodeTransformer):
    """Replaces the blocks and includes of one file by what belongs there."""

    def __init__(
        self, assembly: _Assembly, path: str, blocks: dict[str, nodes.Block], depth: int
    ) -> None:
        self._assembly = assembly
        self._path = path
        self._blocks = blocks
        self._depth = depth
        self._filled: set[str] = set()

    def visit_Block(self, node: nodes.Block) -> list[nodes.Node]:  # noqa: N802 - the visitor's
        if node.name in self._filled:
            raise self._assembly.wrong(
                self._path, node.lineno, f"the block '{node.name}' has more than one place"
            )
        self._filled.add(node.name)
        if node.required and node.name not in self._blocks:
            raise self._assembly.wrong(
                self._path, node.lineno, f"the block '{node.name}' has to be given"
            )
        chosen = self._blocks.get(node.name, node)
        whole = nodes.Template(chosen.body, lineno=node.lineno)
        self.generic_visit(whole)
        return whole.body

    def visit_Include(self, node: nodes.Include) -> list[nodes.Node]:  # noqa: N802 - likewise
        if node.ignore_missing or not node.with_context:
            raise self._assembly.wrong(
                self._path, node.lineno, "'include' takes the name of a file and nothing else"
            )
        return self._assembly.file(self._assembly.joined(self._path, node), {}, self._depth + 1)

    def visit_Extends(self, node: nodes.Extends) -> nodes.Node:  # noqa: N802 - likewise
        raise self._assembly.wrong(
            self._path, node.lineno, "'extends' must be the first tag of a file"
        )
