"""Which files a Python file draws in from beside it, by its import statements; nothing is run."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path


def imported_beside(source: Path) -> list[Path]:
    """Modules that `source` imports, and those that they import, as far as they lie beside it.

    Beside: in its folder, or in the one that holds its package. A file that cannot be parsed
    imports nothing.
    """
    found: dict[Path, None] = {}
    todo = [source.resolve()]
    while todo:
        file = todo.pop()
        for other in _imports(file):
            if other not in found and other != source.resolve():
                found[other] = None
                todo.append(other)
    return sorted(found)


def root_of(source: Path) -> Path:
    """The folder that holds a module, or the outermost package around it."""
    folder = source.resolve().parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _imports(file: Path) -> Iterator[Path]:
    yield from _files(root_of(file), file.relative_to(root_of(file)).parts[:-1])
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(root_of(file), alias.name.split("."))
        if isinstance(node, ast.ImportFrom):
            root = file.parents[node.level - 1] if node.level else root_of(file)
            module = node.module.split(".") if node.module else []
            for alias in node.names:
                yield from _files(root, [*module, alias.name])


def _files(root: Path, names: Sequence[str]) -> Iterator[Path]:
    """Of a.b.c: a and a.b and a.b.c, each a module or a package; a name in a module is no file."""
    for count in range(1, len(names) + 1):
        place = root.joinpath(*names[:count])
        for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if file.is_file():
                yield file.resolve()
