"""How compiled templates hand out their output: HTML as quoted-printable bytes, text as it is.

Jinja compiles a template into a generator of strings. This code generator makes the HTML parts
yield bytes: what the author wrote is encoded when the template is compiled and stands in the
generated code as a constant; only values are escaped and encoded per recipient, and those that a
campaign repeats (its dates, the name of an office) are remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jinja2 import Environment, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context, Undefined
from markupsafe import escape

from notifier.errors import RenderError
from notifier.rendering import mime

BUDGET = "(budget)"

_REMEMBERED_PIECES = 2048
_REMEMBERED_CHARS = 200


def shown(value: object) -> object:
    """Return a value that has a text; raise RenderError for one that is absent, or is a list.

    The text of a list is no words for a reader, and could be endless where lists stand inside
    lists.
    """
    if value is None:
        raise RenderError(
            "An optional value is printed although it is absent.", fix="Put it inside {% if … %}."
        )
    if isinstance(value, (str, int, float, Undefined)) or hasattr(value, "__html__"):
        return value
    raise RenderError(
        "A list or another value without a text is printed.", fix="Use a loop, or the filter join."
    )


class PieceGenerator(CodeGenerator):
    """Writes the Python of a template.

    The hooks are those that Jinja's own NativeCodeGenerator uses.
    """

    _encodes = False

    def visit_Output(self, node: nodes.Output, frame: Frame) -> None:  # noqa: N802 - the visitor's
        """Encode what goes straight into the mail.

        What a macro or a set block collects stays text.
        """
        self._encodes = frame.eval_ctx.autoescape is True and frame.buffer is None
        super().visit_Output(node, frame)

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        text = "".join(group)
        return repr(mime.quoted_printable(text) if self._encodes else text)

    def _output_child_pre(
        self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo
    ) -> None:
        # Most values are plain strings: they are recognised without a call.
        if self._encodes:
            self.write("(_known(_value) if type(_value := ")
        elif frame.eval_ctx.autoescape:
            super()._output_child_pre(node, frame, finalize)
            self.write("_shown(")
        else:
            self.write("(_value if type(_value := ")

    def _output_child_post(
        self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo
    ) -> None:
        if self._encodes:
            self.write(") is str else None) or _encoded(_value, context)")
        elif frame.eval_ctx.autoescape:
            self.write(")")
            super()._output_child_post(node, frame, finalize)
        else:
            self.write(") is str else _printed(_value))")

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802 - likewise
        """Read `line.amount` without a call when `line` is a dictionary that has it."""
        if isinstance(node.node, nodes.Name):
            ref = frame.symbols.ref(node.node.name)
            self.write(
                f"({ref}[{node.attr!r}] if type({ref}) is dict and {node.attr!r} in {ref} else "
            )
            super().visit_Getattr(node, frame)
            self.write(")")
        else:
            super().visit_Getattr(node, frame)


class PieceEnvironment(Environment):
    """What generated code calls for values.

    Remembers the encoded form of short ones, up to a fixed number.
    """

    code_generator_class = PieceGenerator

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start with nothing remembered; the arguments are Jinja's."""
        super().__init__(*args, **kwargs)
        self.known: dict[str, bytes] = {}

    def names_in_generated_code(self) -> dict[str, Any]:
        """Return the functions that `PieceGenerator` writes calls to."""
        return {
            "_known": self.known.get,
            "_encoded": self.encoded,
            "_printed": self.printed,
            "_shown": shown,
        }

    @staticmethod
    def printed(value: object) -> str:
        """Return a value that is not a plain string as text.

        Raise RenderError for one that is absent.
        """
        return str(shown(value))

    def encoded(self, value: object, context: Context) -> bytes:
        """Return the value, escaped unless it is markup, as a quoted-printable piece."""
        if type(value) is not str:
            # A number, or markup such as a macro's output.
            text = str(escape(value if hasattr(value, "__html__") else self.printed(value)))
            piece = mime.quick_quoted_printable(text)
        elif "&" in value or "<" in value or ">" in value or '"' in value or "'" in value:
            piece = mime.quick_quoted_printable(text := str(escape(value)))
        else:
            piece = mime.quick_quoted_printable(text := value)
            if len(self.known) < _REMEMBERED_PIECES and len(value) < _REMEMBERED_CHARS:
                self.known[value] = piece
        if len(text) > _REMEMBERED_CHARS:
            # Long values in a loop are what makes a mail grow without end.
            context.parent[BUDGET].count()
        return piece
