"""YAML that says one thing: no key twice, no value within itself, no more values than a person writes."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from fpt_lightning.errors import UsageError

LARGEST = 100_000
"""Values of a file, those counted again that an alias repeats: far beyond any table, and no load for a machine."""

LONGEST = 2**20
"""Characters of a file, likewise."""


def composed(text: str) -> tuple[yaml.SafeLoader, yaml.Node]:
    """The root of a document, and the loader that can construct its value; ``null`` where it is empty.

    Raises:
        ValueError: If it is too long.
        yaml.YAMLError: If it is not YAML, or several documents.
    """
    if len(text) > LONGEST:
        raise ValueError(f"expected at most {LONGEST:,} characters, got {len(text):,}")
    loader = yaml.SafeLoader(text)
    return loader, loader.get_single_node() or yaml.ScalarNode("tag:yaml.org,2002:null", "")


def load_plain(text: str) -> Any:
    """The value of a document, with the errors of :func:`composed` and :func:`values`."""
    loader, root = composed(text)
    deque(values(root), maxlen=0)  # all of them are looked at, none is kept
    return loader.construct_document(root)


def values(root: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
    """Every value of a document and its path, such as ``tables.table2.tasks[1]``; again for every alias.

    Raises:
        ValueError: If there are too many, one holds itself, or a key stands twice in a mapping; begins with its path.
    """
    for count, place in enumerate(_values(root, "", ())):
        if count == LARGEST:
            raise ValueError(f"expected at most {LARGEST:,} values, those included that aliases repeat")
        yield place


def _values(node: yaml.Node, path: str, above: tuple[yaml.Node, ...]) -> Iterator[tuple[str, yaml.Node]]:
    if any(node is outer for outer in above):
        raise ValueError(f"{path}: expected a value, got an alias of what it stands in")
    yield path, node
    if isinstance(node, yaml.SequenceNode):
        for place, item in enumerate(node.value):
            yield from _values(item, f"{path}[{place}]", (*above, node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, item in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            inside = f"{path}.{name}".lstrip(".")
            if isinstance(key, yaml.ScalarNode):
                if name in lines:
                    raise ValueError(
                        f"{inside}: expected once, it stands there twice, on lines {lines[name]} and {line}"
                    )
                lines[name] = line
            yield from _values(item, inside, (*above, node))


@contextmanager
def faults_named(file: str) -> Iterator[None]:
    """Says in a line what is wrong with a file.

    Raises:
        UsageError: If it cannot be read, is not YAML, or is refused by a ValueError.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError) as error:  # !!bool before another word is a KeyError
        raise UsageError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UsageError(f"{file} is nested too deep") from error
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from error
