"""Plain HTML tables, as notebooks show a value that has `_repr_html_`.

Without any colour of their own, so that they can be read in the notebook's light and dark alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]], *, above: Iterable[str] = ()) -> str:
    """Return a table with a paragraph for each text `above` it; all texts are escaped."""
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in above)
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"{paragraphs}<table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table>"
