"""A page of docs/ -> a manual page in the man(7) language: roff text from the tokens of markdown-it-py.

Knows the Markdown that the pages use, and raises ValueError for anything else. Tables become tagged paragraphs: they
are lists of names and meanings, and columns are too narrow in a terminal. From the third column on, the column's
heading precedes the cell.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

PARSER = MarkdownIt("commonmark").enable("table")
# groff_char(7): these would be typographic characters, or be hidden, in a font that is not for typing.
ESCAPES = str.maketrans({"\\": r"\e", "^": r"\(ha", "~": r"\(ti", "`": r"\(ga"})
LITERAL = str.maketrans({"-": r"\-", "'": r"\(aq"})
CONTROL = re.compile(r"^(?=[.'])", re.MULTILINE)
FLUSH_LEFT = ".nr HY 0\n.nh\n.ad l"  # a path or an option is not hyphenated, and no line is stretched
EMPTY = r"\&"

Resolve = Callable[[str], str]  # the target of a link -> where it leads, as roff


class Page:
    """One manual page, made from Markdown text."""

    def __init__(self, text: str, resolve: Resolve) -> None:
        self._tokens = PARSER.parse(text)
        self._resolve = resolve
        self._section = ""

    def render(self, heading: str) -> str:
        """Return the page. `heading`: its .TH line."""
        body = "\n".join(self._blocks(self._tokens))
        return f"{heading}\n{FLUSH_LEFT}\n{body}\n"

    def _blocks(self, tokens: Sequence[Token], lead: str = ".PP") -> Iterator[str]:
        """Yield the lines of a sequence of blocks. `lead` begins the first paragraph, if that is one."""
        position = 0
        while position < len(tokens):
            token = tokens[position]
            end = _end(tokens, position)
            inner = tokens[position + 1 : end]
            first = not position
            if position and tokens[position - 1].type == "heading_close":
                lead, first = "", True
            match token.type:
                case "heading_open":
                    yield from self._heading(token, inner[0])
                case "paragraph_open":
                    yield from self._paragraph(inner[0], lead if first else ".PP")
                case "code_block" | "fence":
                    yield from self._code(token.content, lead if first else ".PP")
                case "bullet_list_open":
                    yield from self._list(inner, lambda number: r".IP \(bu 2")
                case "ordered_list_open":
                    yield from self._list(inner, ".IP {}. 4".format)
                case "table_open":
                    yield from self._table(inner)
                case _:
                    raise ValueError(f"{token.type} at line {token.map} has no form in a manual page")
            position = end + 1

    def _heading(self, token: Token, inline: Token) -> Iterator[str]:
        if token.tag == "h1":
            return
        text = self._inline(inline)
        if token.tag == "h2":
            self._section = text.upper()
            yield f'.SH "{self._section}"'
        else:
            yield f'.SS "{text}"'

    def _paragraph(self, inline: Token, lead: str) -> Iterator[str]:
        text = self._inline(inline)
        if self._section == "NAME":  # apropos reads these lines: NAME, NAME \- what it is
            yield ".br\n".join(re.sub(r"(?m)^(\S+(?:, \S+)*) - ", r"\1 \\- ", text).splitlines(keepends=True))
            return
        if lead:
            yield lead
        yield text

    def _code(self, content: str, lead: str) -> Iterator[str]:
        if self._section != "SYNOPSIS":
            yield ".IP"
        elif lead:
            yield lead
        yield f".EX\n{_guard(_literal(content.rstrip()))}\n.EE"

    def _list(self, tokens: Sequence[Token], lead: Callable[[int], str]) -> Iterator[str]:
        for number, item in enumerate(_children(tokens), start=1):
            yield lead(number)
            if len([token for token in item if token.level == item[0].level]) > 2:  # more than one paragraph
                yield from self._blocks(item[:3], lead="")
                yield ".RS\n" + "\n".join(self._blocks(item[3:])) + "\n.RE"
            else:
                yield from self._blocks(item, lead="")

    def _table(self, tokens: Sequence[Token]) -> Iterator[str]:
        rows = [[inner[0] for inner in _children(row)] for part in _children(tokens) for row in _children(part)]
        header, *body = [[self._inline(cell).replace("\n", " ") for cell in row] for row in rows]
        for tag, meaning, *more in body:
            yield f".TP\n{tag or EMPTY}\n{meaning or EMPTY}"
            yield from (f".br\n{name}: {cell}" for name, cell in zip(header[2:], more, strict=True) if cell)

    def _inline(self, inline: Token) -> str:
        """Return the text of an inline token as roff. No line of it begins like a roff request."""
        parts: list[str] = []
        target = ""
        for token in inline.children or ():
            match token.type:
                case "text":
                    parts.append(token.content.translate(ESCAPES))
                case "softbreak" | "hardbreak":
                    parts.append("\n")
                case "code_inline":
                    parts.append(rf"\fB{_literal(token.content)}\fR")
                case "strong_open":
                    parts.append(r"\fB")
                case "em_open":
                    parts.append(r"\fI")
                case "strong_close" | "em_close":
                    parts.append(r"\fR")
                case "link_open":
                    target, start = str(token.attrs["href"]), len(parts)
                case "link_close":
                    parts[start:] = [self._link("".join(parts[start:]), target)]
                case _:
                    raise ValueError(f"{token.type} in {inline.content!r} has no form in a manual page")
        return _guard("".join(parts))

    def _link(self, text: str, target: str) -> str:
        where = self._resolve(target)
        if not where or target == text:
            return text
        plain = re.sub(r"\\f[BIR]", "", text)
        if where.replace(r"\-", "-").startswith(rf"\fB{plain}\fR("):  # the page of that name
            return where
        return f"{text} ({where})"


def _literal(text: str) -> str:
    """Return text that is typed as it is, such as an option."""
    return text.translate(ESCAPES).translate(LITERAL)


def _guard(text: str) -> str:
    return CONTROL.sub(r"\\&", text)


def _end(tokens: Sequence[Token], start: int) -> int:
    """Return the index of the token that closes this one."""
    if tokens[start].nesting == 0:
        return start
    level = tokens[start].level
    return next(index for index in range(start + 1, len(tokens)) if tokens[index].level == level)


def _children(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """Yield what is inside of each element."""
    position = 0
    while position < len(tokens):
        end = _end(tokens, position)
        yield tokens[position + 1 : end]
        position = end + 1
