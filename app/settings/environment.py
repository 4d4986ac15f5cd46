"""Settings in the environment: which variable is which field, the ``.env`` file, mistakes in words. Pure but for reading."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import AliasChoices, BaseModel, ValidationError

from app.credentials import SUFFIX
from app.errors import SettingsError

Model = type[BaseModel]
#: fields whose name is not an environment variable
_NOT_ENVIRONMENT = frozenset({"queues", "declared_streams"})


def variables_of(model: Model) -> dict[str, str]:
    """Map the environment variable of every field of *model* to the field's description."""
    names: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if name in _NOT_ENVIRONMENT:
            continue
        alias = field.validation_alias
        variable = str(alias.choices[0]) if isinstance(alias, AliasChoices) else name.upper()
        names[variable] = field.description or ""
    return names


def secrets_of(model: Model) -> tuple[str, ...]:
    """Environment variables of *model* that hold secrets: each may lie in a file that ``NAME_FILE`` names."""
    fields = model.model_fields.items()
    secret = {name for name, field in fields if "SecretStr" in str(field.annotation)}
    return tuple(v for v in variables_of(model) if field_of(v) in secret)


def field_of(variable: str) -> str:
    """Name of the field that *variable* sets."""
    return variable.removeprefix("ARQSCOPE_").lower()


def refuse_unknown(model: Model, values: Mapping[str, str]) -> None:
    """Raise SettingsError for a variable with our prefix that is no setting, with the nearest that is."""
    known = [*variables_of(model), *(name + SUFFIX for name in secrets_of(model))]
    for name in values:
        if name.startswith("ARQSCOPE_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise SettingsError(f"{name} is not a setting; did you mean {near[0]}?")


def read_env_file(path: Path | None) -> dict[str, str]:
    """Variables of a ``.env`` file; none where there is no such file. SettingsError names a line that is none."""
    if path is None or not path.is_file():
        return {}
    values: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.removeprefix("export ").partition("=")
        if not equals:
            raise SettingsError(f"{path} line {number}: expected NAME=value, got {text[:40]!r}")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        values[name.strip()] = value
    return values


def explained(model: Model, error: ValidationError) -> str:
    """Say what is wrong with which variable, its value (never a secret's) beside it."""
    variables = {field_of(name): name for name in variables_of(model)}
    lines = []
    for problem in error.errors():
        field = str(problem["loc"][0]) if problem["loc"] else "?"
        variable = variables.get(field, variables.get(field_of(field), field))
        shown = "" if variable in secrets_of(model) else f"={problem['input']!r}"
        if variable.endswith("_URL"):  # a password may be anywhere in what is not a URL
            shown = "=" + re.sub(r"//.*@", "//***@", str(problem["input"]))
        lines.append(f"{variable}{shown}: {problem['msg']}")
    return "; ".join(lines)
