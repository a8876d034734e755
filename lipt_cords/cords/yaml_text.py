"""YAML of a configuration: no code, no key twice, nothing that grows without bounds."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from lipt_cords.base.files import LONGEST_NUMBER

DEEPEST = 40
"""Levels of nesting; CORDS's files have five."""
MOST_NODES = 20_000
"""Values in all, each alias counted as all that it stands for."""
MOST_CHARACTERS = 1_000_000


def read_yaml(text: str) -> Any:
    """Read plain values from YAML.

    >>> read_yaml("{a: [1, 2.5, x]}")
    {'a': [1, 2.5, 'x']}

    Raises:
        ValueError: not YAML; a key twice; nesting deeper than :data:`DEEPEST`, more values than
            :data:`MOST_NODES` once aliases are followed, or an integer of more than 40 digits. The
            line and the column are named.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text):,} characters: expected at most {MOST_CHARACTERS:,}")
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f" ({_place(error.problem_mark)})"
        raise ValueError(f"{error.problem or error.context}{where}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _check_size(text: str) -> None:
    """Follow the events of the parser, which nests nothing and expands nothing."""
    sizes: dict[str, int | None] = {}  # of what has an anchor; None while it is read
    inside: list[tuple[str | None, int]] = []  # anchor, and values before it
    values = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            inside.append((event.anchor, values))
            if event.anchor:
                sizes[event.anchor] = None
            if len(inside) > DEEPEST:
                raise _refused(f"nested more than {DEEPEST} levels deep", event)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = inside.pop()
            if anchor:
                sizes[anchor] = values - before + 1
        elif isinstance(event, yaml.ScalarEvent) and event.anchor:
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor or "", 1)  # an unknown one is an error later
            if size is None:
                raise _refused(f"the alias *{event.anchor} stands inside of what it names", event)
            values += size
        values += isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if values > MOST_NODES:
            raise _refused(f"more than {MOST_NODES:,} values, aliases followed", event)


class _Loader(yaml.SafeLoader):
    """Plain values alone, each key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_scalar_of(self, node: yaml.ScalarNode) -> Any:
        """A number or a date; what Python cannot make of it is an error of its place."""
        kind = node.tag.rpartition(":")[2]
        if kind == "int" and len(node.value) > LONGEST_NUMBER:
            problem = f"an integer of {len(node.value)} characters"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        try:
            return _MAKERS[kind](self, node)
        except (ValueError, OverflowError) as error:
            problem = f"no {kind}: {error}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


_MAKERS: dict[str, Any] = {
    "int": yaml.SafeLoader.construct_yaml_int,
    "float": yaml.SafeLoader.construct_yaml_float,
    "timestamp": yaml.SafeLoader.construct_yaml_timestamp,
    "binary": yaml.SafeLoader.construct_yaml_binary,
}
for _kind in _MAKERS:
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_scalar_of)


def _refused(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
