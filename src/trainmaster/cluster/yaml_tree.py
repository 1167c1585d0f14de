"""A YAML file as text with line numbers: what the readers of our files (cluster, jobs, configuration) share.

Every scalar is text, converted by the field that wants it, so a queue called `no` or `012` keeps its name. Aliases and tags are
refused: nothing here needs them, and they are how a small file becomes a large one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError

MAX_CHARACTERS = 4 << 20  # a few seconds of parsing
MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Value:
    """A piece of the file: text, None (`~` or nothing), a list or a mapping, and the line it begins on."""

    content: str | list[Value] | dict[str, Value] | None
    line: int

    @property
    def kind(self) -> str:
        if self.content is None:
            return "blank"
        return "mapping" if isinstance(self.content, dict) else "list" if isinstance(self.content, list) else "single value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a reader words its complaints: what kind of error, what the file is, and what to give instead."""

    error: type[InputError]
    thing: str  # "a cluster"
    give: str  # "give a YAML file with `nodes:`"
    too_large: str = "leave out what is not needed"
    empty: str | None = None  # what to say of a file without content, if not `give`

    def parse(self, text: str, where: str) -> Value:
        """The one document of a file, event by event: no objects are made, and depth is ours to bound."""
        if len(text) > MAX_CHARACTERS:
            raise self.error(f"{where}: larger than {MAX_CHARACTERS >> 20} MiB; {self.too_large}")
        loader_type: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            loader = loader_type(text)
            loader.get_event()  # the stream's start
            if loader.check_event(yaml.StreamEndEvent):
                raise self.error(f"{where}: is empty; {self.empty or self.give}")
            loader.get_event()  # the document's start
            value = self._value(loader, where, 0)
            loader.get_event()  # the document's end
            if not loader.check_event(yaml.StreamEndEvent):
                raise self.error(f"{where}:{loader.peek_event().start_mark.line + 1}: a second document; {self.thing} is one")
            return value
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
            raise self.error(f"{where}{f':{mark.line + 1}' if mark else ''}: not YAML: {problem}; {self.give}") from None
        except UnicodeEncodeError:  # lone surrogates
            raise self.error(f"{where}: not UTF-8 text; {self.give}") from None

    def _value(self, loader: Any, where: str, depth: int) -> Value:
        event = loader.get_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None or event.tag not in (None, "!"):
            raise self.error(f"{where}:{line}: anchors, aliases and tags are not read here; write the value out")
        if depth == MAX_DEPTH:
            raise self.error(f"{where}:{line}: nested deeper than {self.thing} is; {self.give}")
        if isinstance(event, yaml.ScalarEvent):
            blank = not event.style and event.value in ("", "~", "null", "Null", "NULL")
            return Value(None if blank else event.value, line)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Value] = []
            while not loader.check_event(yaml.SequenceEndEvent):
                items.append(self._value(loader, where, depth + 1))
            loader.get_event()
            return Value(items, line)
        entries: dict[str, Value] = {}
        while not loader.check_event(yaml.MappingEndEvent):
            key = self._value(loader, where, depth + 1)
            if not isinstance(key.content, str):
                raise self.error(f"{where}:{key.line}: a {key.kind} cannot name a field; {self.give}")
            if key.content in entries:
                raise self.error(f"{where}:{key.line}: {quoted(key.content)} is given twice; keep one")
            entries[key.content] = self._value(loader, where, depth + 1)
        loader.get_event()
        return Value(entries, line)
