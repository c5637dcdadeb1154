"""A YAML file as typed entries: whatever is wrong with one is said in a line that names its path in the file."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
import yaml

from fpt_lightning.errors import check_name, did_you_mean
from fpt_lightning.plain_yaml import composed, faults_named, values

T = TypeVar("T", bound="Entry")

TAG = "tag:yaml.org,2002:"
PLAIN = frozenset(TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map"))


class Entry(msgspec.Struct, frozen=True):
    """A mapping of the file with fields of known types; a field ``name`` is the key that it stands under.

    What ``__post_init__`` refuses by a ValueError begins with the path within the entry: ``tasks[1]: expected ...``.
    """


def read_yaml(file: Path, kind: type[T], given: Mapping[str, Any]) -> T:
    """Reads a file of this kind; ``given`` are fields that do not come from the file.

    Raises:
        UsageError: If it cannot be read, is not YAML, or is not of this kind.
    """
    with faults_named(str(file)):
        loader, root = composed(file.read_text(encoding="utf-8"))
        for path, node in values(root):
            _expect_plain(node, path)
        return _entry(loader.construct_document(root), kind, "", given)


def convert(value: Any, kind: Any, path: str, given: Mapping[str, Any]) -> Any:
    """A value of the file as what its place asks for.

    Args:
        value: What YAML made of it.
        kind: A type that msgspec knows, an :class:`Entry`, a mapping of names to one of these, or one of them or None.
        path: Where it stands, such as ``tables.table2.arms``.
        given: Fields of an entry that do not come from the file.

    Raises:
        ValueError: If it is something else; begins with the path.
    """
    if NoneType in get_args(kind):
        if value is None:
            return None
        kind = next(option for option in get_args(kind) if option is not NoneType)
    if isinstance(kind, type) and issubclass(kind, Entry):
        return _entry(value, kind, path, given)
    if get_origin(kind) is Mapping:
        inner = get_args(kind)[1]
        return {name: convert(item, inner, f"{path}.{name}", {"name": name}) for name, item in _items(value, path)}
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise ValueError(f"{path}: expected {' or '.join(get_args(kind))}{did_you_mean(str(value), get_args(kind))}")
    try:
        return msgspec.convert(value, kind, strict=False)  # 1e-3 without a point is text to YAML 1.1
    except msgspec.ValidationError as error:
        message, _, place = str(error).replace("`", "").partition(" - at $")
        raise ValueError(f"{path}{place}: {message[0].lower()}{message[1:]}") from error


def expect_known(names: Iterable[str], known: Collection[str], path: str, kind: str) -> None:
    """Refuses a name that stands nowhere, by a ValueError that begins with its path."""
    for name in names:
        if name not in known:
            raise ValueError(f"{path}: no {kind} is called '{name}'{did_you_mean(name, known)}")


def expect_different(values: Sequence[object], path: str) -> None:
    """Refuses what stands twice, by a ValueError that begins with its path."""
    if any(value in values[:place] for place, value in enumerate(values)):  # which may be mappings
        raise ValueError(f"{path}: expected each once")


def _entry(value: Any, kind: type[T], path: str, given: Mapping[str, Any]) -> T:
    own = {name: item for name, item in given.items() if name in kind.__struct_fields__}
    fields = {field.name: field for field in msgspec.structs.fields(kind) if field.name not in own}
    sections = {name for name, field in fields.items() if field.required}
    if not path and not (isinstance(value, dict) and sections <= set(value) <= set(fields)):
        names = ", ".join(name if name in sections else f"perhaps {name}" for name in fields)
        raise ValueError(f"the file must have exactly the sections {names}")
    inside = f"{path}." if path else ""
    for key, item in _items(value, path):
        if key not in fields:
            raise ValueError(f"{path} has no field '{key}'{did_you_mean(key, fields)}")
        own[key] = convert(item, fields[key].type, inside + key, {})
    if missing := [name for name, field in fields.items() if field.required and name not in own]:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    try:
        return kind(**own)
    except ValueError as error:
        raise ValueError(f"{inside}{error}") from error


def _items(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        kind = {list: "list", NoneType: "null"}.get(type(value), type(value).__name__)
        raise ValueError(f"{path}: expected a mapping, got {kind}")
    return iter(value.items())


def _expect_plain(node: yaml.Node, path: str) -> None:
    """Refuses a value that is not plain; keys become text, as they are written.

    Raises:
        ValueError: If it is one; begins with the path.
    """
    if node.tag not in PLAIN:
        kind = node.tag.removeprefix(TAG)
        raise ValueError(f"{path}: expected text, a number, a list or a mapping, got {kind}; text may be quoted")
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{path}: expected names as keys, got a {key.id}")
        try:
            check_name(key.value)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if key.tag != f"{TAG}merge":
            key.tag = f"{TAG}str"
