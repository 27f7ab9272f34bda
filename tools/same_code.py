"""Compare two revisions of the package by their code, wherever it stands: `python -m tools.same_code OLD NEW`.

Every function and class at the top of a module counts, as its syntax tree; constants, which merged modules may share,
count once. What a move changes is left out: imports from the package itself, and the module in front of a name that
comes from there. So two revisions between which code only moved are equal, and the exit code is 0; else what is only
in one of them is listed, and it is 1.

`--renamed MODULE:OLD=NEW`, any number of times, names what was renamed on the way, by its module in the old revision.
"""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

PACKAGE = "rlhf_loop"
#: (module, name) -> its new name.
Renamed = Mapping[tuple[str, str], str]


def modules(revision: str) -> dict[str, ast.Module]:
    """Return the syntax trees of the package's modules as they are in a revision."""
    archive = subprocess.run(["git", "archive", revision, PACKAGE], capture_output=True, check=True).stdout
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            content = files.extractfile(member) if member.name.endswith(".py") else None
            if content is not None:
                parts = Path(member.name).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(content.read())
    return found


class _Plain(ast.NodeTransformer):
    """Names from the package as they are called where they are defined, without what says where that is."""

    def __init__(self, module: str, tree: ast.Module, known: set[str], renamed: Renamed) -> None:
        self._modules: dict[str, str] = {}
        self._names: dict[str, str] = {old: new for (of, old), new in renamed.items() if of == module}
        self._renamed = renamed
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == PACKAGE:
                for alias in node.names:
                    local, whole = alias.asname or alias.name, f"{node.module}.{alias.name}"
                    if whole in known:
                        self._modules[local] = whole
                    else:
                        self._names[local] = renamed.get((node.module, alias.name), alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if (node.module or "").partition(".")[0] == PACKAGE else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id in self._modules:
            name = self._renamed.get((self._modules[node.value.id], node.attr), node.attr)
            return ast.Name(name, node.ctx)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._names.get(node.id, node.id), node.ctx)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self._names.get(node.name, node.name)
        names, inside = self._names, list(ast.walk(node))
        own = {each.arg for each in inside if isinstance(each, ast.arg)}
        own |= {each.id for each in inside if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
        self._names = {name: new for name, new in names.items() if name not in own}
        self.generic_visit(node)
        self._names = names
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self._names.get(node.name, node.name)
        return self.generic_visit(node)


def definitions(trees: Mapping[str, ast.Module], renamed: Renamed) -> Iterator[tuple[str, str]]:
    """Give the plain syntax tree of each definition, as text, and where it is."""
    for module, tree in trees.items():
        plain = _Plain(module, tree, set(trees), renamed)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign):
                name = _name(node)
                if name != "__all__":
                    yield ast.dump(plain.visit(node)), f"{module}:{name}"


def _name(node: ast.stmt) -> str:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
    return node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""


@click.command()
@click.argument("old")
@click.argument("new")
@click.option("--renamed", multiple=True, metavar="MODULE:OLD=NEW", help="What was renamed on the way.")
def main(old: str, new: str, renamed: tuple[str, ...]) -> None:
    """Tell what differs between two revisions, places aside."""
    names: dict[tuple[str, str], str] = {}
    for text in renamed:
        before, _, after = text.partition("=")
        module, _, name = before.partition(":")
        names[module, name] = after
    places: dict[str, list[str]] = defaultdict(list)
    counts: list[Counter[str]] = []
    for revision, called in ((old, names), (new, {})):
        counts.append(Counter())
        for dumped, place in definitions(modules(revision), called):
            counts[-1][dumped] = counts[-1][dumped] + 1 if dumped.startswith(("FunctionDef", "ClassDef")) else 1
            places[dumped].append(f"{revision}  {place}")
    gone, come = counts[0] - counts[1], counts[1] - counts[0]
    click.echo(f"{counts[0].total()} definitions in {old}, {counts[1].total()} in {new}.")
    for title, rest in ((f"only in {old}", gone), (f"only in {new}", come)):
        click.echo(f"{rest.total()} {title}")
        for dumped in rest:
            for place in places[dumped]:
                click.echo(f"  {place}")
    sys.exit(1 if gone or come else 0)


if __name__ == "__main__":
    main()
