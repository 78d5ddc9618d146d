"""Where template texts run: they may show the data they are given, and nothing else.

A template is untrusted. It sees dictionaries, lists, numbers and texts; it can call its own macros,
`range` and `loop`, but no method of any object, so `format` and its relatives are out of reach.
What can still grow without end is bounded:

* loops and macros check the clock and the size of the output at every turn (`_Guards` plants the
  check in the syntax tree);
* `*`, `+`, `~` and the remaining filters refuse results that are larger than a mail may be;
* lists are weighed with all that is in them, and have no text: they are never printed or joined
  whole;
* strings are joined by a `concat` that knows the same limit, which covers `{% set %}` blocks and
  macros.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, cast

from jinja2 import (
    BaseLoader,
    Environment,
    StrictUndefined,
    TemplateSyntaxError,
    nodes,
    pass_context,
    pass_environment,
)
from jinja2 import filters as standard
from jinja2.environment import Template as CompiledTemplate
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.runtime import Context, LoopContext, Macro, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from notifier.errors import RenderError, TemplateError
from notifier.rendering import formats
from notifier.rendering.assembly import too_deep
from notifier.rendering.pieces import BUDGET, PieceEnvironment, shown

MAX_OUTPUT_BYTES = 256 * 1024
MAX_RENDER_SECONDS = 1.0

# What a template may hold between two outputs. Texts are at most 64 kB, so some 3,000 such values
# cannot fill a worker's memory.
MAX_TEXT_CHARS = 32 * 1024
MAX_RANGE = 1000
MAX_INTEGER_BITS = 256
_COUNTED_AT_ONCE = 200

# Lists inside lists double with every line of a template; nothing that is shown needs as many.
MAX_ITEMS = 10_000
# How deep the tree of a file may be: tags inside tags, and what stands in them.
MAX_DEPTH = 60
# Each bracket costs the parser a dozen calls of its own stack.
MAX_BRACKETS = 16

_CHECK = "(check)"
_CONCAT = "(concat)"
_WEIGH = "(weigh)"

# A filter is here when its result cannot be larger than what went in, or when it is wrapped below.
_KEPT_FILTERS = (
    "abs",
    "count",
    "d",
    "default",
    "first",
    "int",
    "last",
    "length",
    "list",
    "map",
    "reject",
    "rejectattr",
    "select",
    "selectattr",
)
# These make a text of what they get.
_TEXT_FILTERS = ("capitalize", "e", "escape", "lower", "trim", "upper")

_FORBIDDEN = (
    nodes.Import,
    nodes.FromImport,
    nodes.ScopedEvalContextModifier,
    nodes.EvalContextModifier,
)


class Budget:
    """What one render may still use.

    The time until `deadline` (monotonic seconds) and `limit` bytes of output.
    """

    __slots__ = ("_counted", "_size", "deadline", "limit", "pieces")

    def __init__(self, pieces: Sequence[str | bytes], *, limit: int, seconds: float) -> None:
        """Watch `pieces`, the list to which the render appends its output."""
        self.pieces = pieces
        self.limit = limit
        self.deadline = time.monotonic() + seconds
        self._counted = 0
        self._size = 0

    def check(self) -> None:
        """Raise RenderError when the time is over or the output has become too large."""
        if time.monotonic() > self.deadline:
            raise RenderError("Rendering took too long.", fix="Simplify the loops of the template.")
        # Each piece is counted once and in bulk, so that the few loops of an ordinary mail count
        # nothing.
        if len(self.pieces) - self._counted > _COUNTED_AT_ONCE:
            self.count()

    def count(self) -> None:
        """Raise RenderError when the output has become too large."""
        total = len(self.pieces)
        self._size += sum(len(self.pieces[at]) for at in range(self._counted, total))
        self._counted = total
        if self._size > self.limit:
            raise too_large(self.limit)


def too_large(limit: int) -> RenderError:
    """Return the error for output beyond `limit` bytes."""
    return RenderError(
        f"The result is larger than {limit // 1024} kB.",
        fix="Shorten the template or the list of lines.",
    )


def _bounded(size: int) -> None:
    if size > MAX_TEXT_CHARS:
        raise RenderError(
            f"A text inside the template becomes longer than {MAX_TEXT_CHARS} characters."
        )


def _range(*bounds: int) -> range:
    """Count like Python's range, up to MAX_RANGE numbers."""
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        raise RenderError(f"A range in the template has more than {MAX_RANGE} numbers.")
    return numbers


@pass_context
def _check(context: Context, value: object) -> object:
    context.parent[BUDGET].check()
    return value


def _weigh(value: Iterable[object]) -> object:
    """Return a list, tuple or dictionary that a template writes; refuse what would hold too much.

    Comparing, hashing or showing it visits every place that an inner list stands at.
    """
    weight = 0
    below: list[object] = [value]
    while below:
        inner = below.pop()
        if isinstance(inner, dict):
            inner = (*inner.keys(), *inner.values())
        if isinstance(inner, (list, tuple)):
            weight += len(inner)
            if weight > MAX_ITEMS:
                raise RenderError(f"A list in the template holds more than {MAX_ITEMS} values.")
            below += inner
    return value


def _concat(values: Sequence[object]) -> str:
    values = [shown(value) for value in values]
    _bounded(sum(len(value) for value in values if isinstance(value, str)))
    return (
        markup_join(values)
        if any(hasattr(value, "__html__") for value in values)
        else str_join(values)
    )


def _join(values: Iterable[object], separator: object = "") -> str:
    """Join like the standard filter (without `attribute`), within the limit for a text."""
    interleaved = [part for value in values for part in (separator, value)]
    return _concat(interleaved[1:])


def _sum(values: Iterable[Any], attribute: str) -> int:
    """Add one whole-number field of every line: `lines|sum("amount")`."""
    total = 0
    for value in values:
        amount = value[attribute]
        if type(amount) is not int:
            raise RenderError("The filter sum expects whole numbers.")
        total += amount
    return total


def _of_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter of texts that refuses a list, whose text could be endless."""

    @wraps(function)
    def filtered(value: object, *args: Any, **kwargs: Any) -> Any:
        return function(shown(value), *args, **kwargs)

    return filtered


@pass_environment
def _truncate(environment: Environment, value: object, *args: Any, **kwargs: Any) -> Any:
    return standard.do_truncate(environment, cast("str", shown(value)), *args, **kwargs)


class _Brackets(Extension):
    """Refuses brackets that stand too deep in each other for the parser, whoever calls it."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        """Pass the tokens on."""
        depth = 0
        for token in stream:
            if token.type in {"lparen", "lbracket", "lbrace"}:
                depth += 1
            elif token.type in {"rparen", "rbracket", "rbrace"}:
                depth -= 1
            if depth > MAX_BRACKETS:
                # What the parser would say at a depth that depends on who called it.
                raise RecursionError
            yield token


class _Guards(NodeTransformer):
    """Plant the checks, put known values in as constants, and refuse what no template needs."""

    def __init__(self, constants: Mapping[str, str | Mapping[str, str]]) -> None:
        self.constants = constants
        self.depth = 0

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            # What the compiler would say at a depth that depends on who called it.
            raise RecursionError
        found = super().visit(node, *args, **kwargs)
        self.depth -= 1
        return found

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if isinstance(node, _FORBIDDEN):
            raise TemplateSyntaxError(
                f"'{type(node).__name__.lower()}' cannot be used here", node.lineno
            )
        return super().generic_visit(node, *args, **kwargs)

    def _check_first(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        lineno = node.lineno
        self.generic_visit(node)
        check = nodes.Filter(
            nodes.Const(None, lineno=lineno), _CHECK, [], [], None, None, lineno=lineno
        )
        node.body.insert(0, nodes.ExprStmt(check, lineno=lineno))
        return node

    visit_For = visit_Macro = visit_CallBlock = _check_first  # noqa: N815 - the visitor's

    def _weighed(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node, nodes.Tuple) and node.ctx != "load":
            return node
        return nodes.Filter(node, _WEIGH, [], [], None, None, lineno=node.lineno)

    visit_List = visit_Tuple = visit_Dict = _weighed  # noqa: N815 - the visitor's

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - the visitor's
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), _CONCAT, [], [], None, None, lineno=node.lineno)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802 - the visitor's
        # What a macro was called with could hold itself twice, again and again.
        if node.name in {"self", "varargs", "kwargs"}:
            raise TemplateSyntaxError(f"'{node.name}' cannot be used here", node.lineno)
        value = self.constants.get(node.name)
        if value is None:
            return node
        if node.ctx != "load":
            raise TemplateSyntaxError(f"'{node.name}' cannot be set", node.lineno)
        if not isinstance(value, str):
            raise TemplateSyntaxError(
                f"'{node.name}' needs a field, such as {node.name}.{next(iter(value))}", node.lineno
            )
        return nodes.Const(value, lineno=node.lineno)

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:  # noqa: N802 - the visitor's
        if isinstance(node.node, nodes.Name) and isinstance(
            group := self.constants.get(node.node.name), Mapping
        ):
            if node.attr not in group:
                raise TemplateSyntaxError(
                    f"'{node.node.name}' has no field '{node.attr}'", node.lineno
                )
            return nodes.Const(group[node.attr], lineno=node.lineno)
        return self.generic_visit(node)


class Sandbox(PieceEnvironment, ImmutableSandboxedEnvironment):
    """Compiles and runs the texts of one template in one language; HTML (`….html`) is escaped.

    `constants` are values that are the same for every recipient: they become part of the compiled
    text, so that a fill neither looks them up nor encodes them again. Texts come from `loader`;
    `{language}` in the path of one stands for the language.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(
        self,
        language: str,
        constants: Mapping[str, str | Mapping[str, str]],
        loader: BaseLoader | None = None,
    ) -> None:
        """Prepare the filters of `language`."""
        super().__init__(
            loader=loader,
            extensions=[_Brackets],
            autoescape=lambda name: bool(name and name.endswith(".html")),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            cache_size=0,
        )
        self.language = language
        self.constants = constants
        self.globals = {}
        of_texts = {name: _of_text(standard.FILTERS[name]) for name in _TEXT_FILTERS}
        self.filters = {
            **{name: standard.FILTERS[name] for name in _KEPT_FILTERS},
            **of_texts,
            **formats.filters(language),
            "join": _join,
            "sum": _sum,
            "truncate": _truncate,
            _CHECK: _check,
            _CONCAT: _concat,
            _WEIGH: _weigh,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return cast("nodes.Template", _Guards(self.constants).visit(tree))

    def join_path(self, template: str, parent: str) -> str:  # noqa: ARG002 - Jinja's protocol
        """Return the path of a text that another one names: from the folder, in the language."""
        return template.replace("{language}", self.language)

    def concat(self, pieces: Iterable[str]) -> str:
        """Join what a macro or a `{% set %}` block has collected, within the limit for a text."""
        listed = list(pieces)
        _bounded(sum(map(len, listed)))
        return "".join(listed)

    def is_safe_callable(self, obj: Any) -> bool:
        """Allow macros, range and what belongs to a loop; methods of data are never called."""
        return (
            isinstance(obj, (Macro, LoopContext))
            or obj is _range
            or isinstance(getattr(obj, "__self__", None), LoopContext)
        )

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow the attributes of `loop`; fields of data are items, not attributes."""
        return isinstance(obj, LoopContext) and super().is_safe_attribute(obj, attr, value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Read `line.amount` from the dictionary `line`, whatever methods dictionaries have."""
        if type(obj) is dict:
            try:
                return obj[attribute]
            except KeyError:
                return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `+`, `*` and `%` of whole numbers, and join two texts, within limits."""
        if isinstance(left, int) and isinstance(right, int) and operator != "**":
            if left.bit_length() + right.bit_length() <= MAX_INTEGER_BITS:
                return super().call_binop(context, operator, left, right)
            raise RenderError("A number in the template becomes too large.")
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            _bounded(len(left) + len(right))
            return left + right
        raise RenderError(f"The operator {operator} works on whole numbers only.")

    def compile_part(self, tree: nodes.Template, name: str) -> CompiledTemplate:
        """Compile the tree of one part; raise TemplateError naming `name` and the line."""
        try:
            part = CompiledTemplate.from_code(self, self.compile(tree, name, name), {})
        except TemplateSyntaxError as error:
            raise TemplateError(f"{name}, line {error.lineno}: {error.message}.") from error
        except (RecursionError, SyntaxError, ValueError, MemoryError) as error:
            # Twenty loops inside each other are beyond the compiler, and beyond any mail.
            raise too_deep(name) from error
        part.root_render_func.__globals__.update(self.names_in_generated_code())
        return part


def run(part: CompiledTemplate, values: dict[str, Any], *, limit: int, seconds: float) -> list[Any]:
    """Return the output in pieces: str of a text part, quoted-printable bytes of an HTML part.

    `values` is used as it is, with the budget added. Raises RenderError beyond `limit` or
    `seconds`, or what the template raises.
    """
    pieces: list[Any] = []
    values["range"] = _range
    budget = values[BUDGET] = Budget(pieces, limit=limit, seconds=seconds)
    # The list grows while the template runs, which is how the budget can watch it.
    pieces.extend(part.root_render_func(Context(part.environment, values, part.name, part.blocks)))
    if len(pieces) > _COUNTED_AT_ONCE:
        budget.count()
    return pieces


def what_failed(error: BaseException, source: str) -> str:
    """Describe an exception of a render in words that never repeat a recipient's data."""
    if isinstance(error, RenderError):
        return error.message
    text = str(error)
    if isinstance(error, RecursionError):
        return "Its macros call each other without end."
    if type(error).__name__ == "UndefinedError":
        # The name may have been computed from data (`lines[name]`): repeat it only when the
        # template itself spells it.
        spelled = set(re.findall(r"\w+", source))
        names = [name for name in re.findall(r"'(\w+)'", text) if name in spelled]
        return f"The value '{names[-1]}' is missing." if names else "A value is missing."
    if type(error).__name__ == "SecurityError":
        return "It does something that templates may not do."
    return f"It cannot be computed ({type(error).__name__})."
