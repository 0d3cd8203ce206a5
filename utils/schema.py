"""What a key of a config can be, and its JSON schema; `--help` and the error messages are made from
that, so that they can't say anything else than what is checked.
"""

import dataclasses
import difflib
import json
import shlex
import textwrap
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationInfo,
)

from utils.errors import UserError

CHECKED = ConfigDict(extra="forbid", use_attribute_docstrings=True)
"""For every dataclass of keys."""

Choices = Mapping[str, Collection[str]]
"""Names allowed for keys whose registry lives elsewhere, e.g. {"model": MODELS}."""


def key(
    default: Any,
    group: Enum | None = None,
    *,
    sweep: bool = False,
    first: Any = dataclasses.MISSING,
) -> Any:
    """A config key, of a `Group` (see utils.config) or, without one, of a method's options. `sweep`
    keys may be lists in JSON, every combination of which is a run.

    `first` is the default that the key came with, where that was another one: runs of before the
    key, or before its new default, are of that value (see utils.runs.folder).
    """
    first = default if first is dataclasses.MISSING else first
    return dataclasses.field(
        default=default, metadata={"group": group, "sweep": sweep, "first": first}
    )


def _registered(value: str, info: ValidationInfo) -> str:
    """Refuse a name that is not among the key's choices, which `load_configs` is given."""
    allowed = (info.context or {}).get(info.field_name)
    if allowed and value not in allowed:
        raise ValueError
    return value


def expand_home(path: str) -> str:
    """A path without a ~ at its beginning, which no shell replaces behind an equals sign.

    Raises:
        UserError: there is no user of that name.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        raise UserError(
            f"{path}: nobody's home folder is called {Path(path).parts[0]}; for a file of that "
            f"name write ./{path}"
        ) from None


NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
NAMES = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(\+[A-Za-z0-9][A-Za-z0-9._-]{0,99}){0,7}$"
"""Plain names with a plus between."""
DEVICE = r"^(cpu|cuda(:\d{1,3})?)$"
TEXT = r"^[^\x00-\x1f\x7f-\x9f]+$"
"""No control characters."""
HINTS = {
    NAME: "a plain name",
    NAMES: "a plain name, or several as in gender+age",
    DEVICE: '"cpu" or "cuda:0"',
    TEXT: "text",
}
"""What text must be, by its pattern."""
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
"""Words of the JSON schema in ours."""
WHOLE_MAX = 2**31 - 1
"""The largest whole number that a key takes where no other bound is stated."""

Natural = Annotated[int, Field(strict=True, ge=0, le=WHOLE_MAX)]
Count = Annotated[int, Field(strict=True, ge=1, le=WHOLE_MAX)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Rate = Annotated[Number, Field(gt=0, le=10)]
Leakage = Annotated[Number, Field(ge=0, le=0.5)]
Share = Annotated[Number, Field(ge=0, le=1)]
Weight = Annotated[Number, Field(ge=0, le=1e12)]
Text = Annotated[str, Field(strict=True, pattern=TEXT)]
File = Annotated[Text, AfterValidator(expand_home)]
Name = Annotated[str, Field(strict=True, pattern=NAME)]
Names = Annotated[str, Field(strict=True, pattern=NAMES)]
Device = Annotated[str, Field(strict=True, pattern=DEVICE)]
Registered = Annotated[Text, AfterValidator(_registered)]
Model = Annotated[Registered, BeforeValidator(lambda value: "lgn" if value == "lgcn" else value)]
Attackers = Annotated[
    tuple[Registered, ...],
    Field(min_length=1),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    AfterValidator(lambda names: tuple(dict.fromkeys(names))),
]


def properties(cls: type, choices: Choices) -> dict[str, dict[str, Any]]:
    """The JSON schema of every key, with the docstring below it."""
    known = TypeAdapter(cls).json_schema()["properties"]
    for base in reversed(cls.__mro__):  # pydantic's schema leaves out what a base class says
        for name, field in vars(base).get("__pydantic_fields__", {}).items():
            if field.description:
                known[name]["description"] = " ".join(field.description.split())
    for name, one in known.items():
        del one["title"]
        if name in choices:
            names = one.get("items", one)
            del names["pattern"]
            names["enum"] = [*choices[name]]
    return known


def file_schema(cls: type, choices: Choices) -> dict[str, Any]:
    """The JSON schema of a config file, for editors: an object, or a list of objects."""
    known = properties(cls, choices)
    keys: dict[str, Any] = {"$schema": {"type": "string"}}
    for field in dataclasses.fields(cls):
        one = known[field.name]
        shown = {word: one.pop(word) for word in ("description", "default")}
        if field.metadata["sweep"]:
            one = {"type": "array", "items": one, "minItems": 1}
        keys[field.name] = shown | ({"anyOf": [one["items"], one]} if "items" in one else one)
    content = {"type": "object", "properties": keys, "additionalProperties": False}
    reference = {"$ref": "#/$defs/config"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"config": content},
        "anyOf": [reference, {"type": "array", "items": reference, "minItems": 1}],
    }


def complaint(name: str, value: Any, cls: type, choices: Choices) -> str:
    """What is wrong with a key or its value."""
    known = properties(cls, choices)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)
        return f'unknown key {json.dumps(name[:100])}; did you mean "{near[0]}"?'
    given = json.dumps(value)
    given = given if len(given) <= 100 else f"{given[:100]}..."
    sweeps = {field.name for field in dataclasses.fields(cls) if field.metadata["sweep"]}
    hint = _hint(name, value, known[name], name in sweeps) if isinstance(value, str) else ""
    return f'"{name}" must be {_in_words(known[name], value)}, got {given}{hint}'


def _hint(name: str, text: str, schema: Mapping[str, Any], sweep: bool) -> str:
    """What somebody who wrote `text` for a key may have meant."""
    if "," in text and (sweep or "items" in schema):
        parts = [part.strip(" \"'") for part in text.strip("[]").split(",")]
        meant = json.dumps([json_or_text(part) for part in parts], separators=(",", ":"))
        return f"; a list is written {name}={shlex.quote(meant)}"
    near = difflib.get_close_matches(text.lower(), _names(schema), n=1, cutoff=0.5)
    return f'; did you mean "{near[0]}"?' if near else ""


def json_or_text(text: str) -> Any:
    """A value of a command line: JSON, or text where that doesn't parse."""
    try:
        return json.loads(text, parse_float=number)
    except (ValueError, RecursionError):
        return text


def number(text: str) -> int | float:
    """As in JSON schema, 3.0 is a whole number."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _names(schema: Mapping[str, Any]) -> list[str]:
    """The names that a key's value is one of, or a list of."""
    return schema.get("items", schema).get("enum", [])


def _in_words(schema: Mapping[str, Any], instead: Any) -> str:
    """What a value must be; `instead` is the one that was given."""
    if "anyOf" in schema:
        return " or ".join(_in_words(one, instead) for one in schema["anyOf"])
    kind = schema["type"]
    if names := _names(schema):
        return f"one {'or a list ' if kind == 'array' else ''}of {_listed(names)}"
    if "const" in schema:
        return f'"{schema["const"]}"'
    if kind == "string":
        unprintable = schema["pattern"] == TEXT and instead and isinstance(instead, str)
        return HINTS[schema["pattern"]] + (" without control characters" if unprintable else "")
    bounds = [
        f"{word} {schema[bound]:.10g}"
        for bound, word in BOUNDS.items()
        if bound in schema and schema[bound] != WHOLE_MAX
    ]
    if isinstance(instead, int | float) and instead > WHOLE_MAX == schema.get("maximum"):
        bounds.append(f"at most {WHOLE_MAX}")  # goes without saying to all others
    nouns = {"integer": "a whole number", "number": "a number", "null": "null"}
    return " ".join([nouns[kind], " and ".join(bounds)]).strip()


def describe(cls: type, choices: Choices) -> str:
    """Every key with its default, its values and the docstring below it."""
    known, lines = properties(cls, choices), []
    for field in dataclasses.fields(cls):
        lines.append(f"  {field.name} = {json.dumps(field.default)}")
        text = known[field.name]["description"]
        if names := _names(known[field.name]):
            text += f" One of {_listed(names)}."
        if field.metadata["sweep"]:
            text += " A list is a sweep."
        lines.append(textwrap.indent(textwrap.fill(text, 84), "      "))
    return "\n".join(lines)


def _listed(names: Collection[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
