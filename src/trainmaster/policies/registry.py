"""Every policy by name: those of this package, those of entry points, and those in a file of the user's.

    NAME                      a module of trainmaster/policies/, or of an entry point in the group "trainmaster.policies"
    path/to/mine.py:Name      a class in a file outside the package
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from trainmaster.errors import ParamError
from trainmaster.policies.base import ListPolicy, ParamsFile, Policy, Preset, Samples

Readers = Mapping[type[Any], Callable[[str, str], Any]]  # type of a parameter -> (path, flag for the message) -> its value

GROUP = "trainmaster.policies"
ABSTRACT = (Policy, ListPolicy)


def policies() -> dict[str, type[Policy[Any]]]:
    """All known policies, in the order of their files' names."""
    package = importlib.import_module("trainmaster.policies")
    found: dict[str, type[Policy[Any]]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        for cls in vars(importlib.import_module(f"trainmaster.policies.{module.name}")).values():
            if inspect.isclass(cls) and issubclass(cls, Policy) and cls.__module__.endswith(module.name) and "name" in vars(cls):
                found[cls.name] = cls
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, entry.load())
    return found


def find_policy(name: str) -> type[Policy[Any]]:
    """The policy class that a word of `--policy` means."""
    if ".py:" in name:
        return _from_file(name)
    known = policies()
    if name not in known:
        near = get_close_matches(name, known, 1, 0.5)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise ParamError(f'--policy: no policy "{name}"{hint} (trainmaster policies lists all)')
    return known[name]


def _from_file(text: str) -> type[Policy[Any]]:
    path, _, name = text.rpartition(":")
    if not Path(path).is_file():
        raise ParamError(f"--policy: no file {path}")
    alias = f"trainmaster_policy_{Path(path).stem}"  # a file may be called as any module is
    spec = importlib.util.spec_from_file_location(alias, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as problem:
        raise ParamError(f"--policy: {path} cannot be loaded: {type(problem).__name__}: {problem}") from problem
    cls = getattr(module, name, None)
    if not (inspect.isclass(cls) and issubclass(cls, Policy) and hasattr(cls, "name")):
        declared = [n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, Policy) and c not in ABSTRACT]
        raise ParamError(f"--policy: {path} declares no policy {name} (it has {', '.join(declared) or 'none'}; decorate it with @policy)")
    return cls


def make_policy(cls: type[Policy[Any]], settings: dict[str, str], label: str, readers: Readers | None = None) -> tuple[Policy[Any], Preset]:
    """An instance with `--set LABEL.PARAM=VALUE` applied over its preset, and that preset.

    `readers` open the files that are parameters, by the parameter's declared type: nothing here does.
    """
    settings = dict(settings)
    preset_name = settings.pop("preset", None)
    preset = Preset(rules=cls.rules)
    if preset_name is not None:
        if preset_name not in cls.presets:
            raise ParamError(f'--set {label}.preset: {cls.name} has no preset "{preset_name}" (it has {", ".join(cls.presets) or "none"})')
        preset = cls.presets[preset_name]
    types = typing.get_type_hints(cls.params_type)
    known = {f.name: types[f.name] for f in fields(cls.params_type)}
    values: dict[str, Any] = dict(preset.params)
    for name, text in settings.items():
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise ParamError(f"--set {label}.{name}: {cls.name} has no such parameter{hint} (it has {', '.join(known) or 'none'})")
        values[name] = parse_value(text, known[name], f"--set {label}.{name}", readers)
    for file in [value for value in values.values() if isinstance(value, ParamsFile)]:
        values = {**file.params, **values}
    try:
        return cls(cls.params_type(**values)), preset
    except ParamError as problem:
        raise ParamError(f"--set {label}: {problem}") from None


def parse_value(text: str, kind: Any, where: str, readers: Readers | None = None) -> Any:
    """A parameter's value from the command line, by its declared type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(parse_value(part, arguments[0], where, readers) for part in text.split(",") if part)
    if type(None) in arguments:
        if text.lower() == "none":
            return None
        return parse_value(text, next(a for a in arguments if a is not type(None)), where, readers)
    if readers and kind in readers:
        return readers[kind](text, where)
    if inspect.isclass(kind) and issubclass(kind, (ParamsFile, Samples)):
        raise ParamError(f"{where}: a file is read where the program starts (simulate, up), not for a request")
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ParamError(f"{where}: {text!r} is not true or false")
        return text.lower() in ("true", "1", "yes")
    if kind is str:
        return text
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ParamError(f"{where}: {text!r} is not a {'whole number' if kind is int else 'number'}") from None
    raise ParamError(f"{where}: cannot be set on the command line")
