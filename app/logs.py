"""How our processes log: one line per event, its fields behind it, nothing forged into it."""

import logging
from typing import Final

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldsFormatter(logging.Formatter):
    """``time LEVEL logger event name=value …``; control characters in values are escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, RUF100 - logging's name
        """Append the fields given as ``extra``."""
        fields = [
            f"{name}={_shown(value)}" for name, value in vars(record).items() if name not in _OWN
        ]
        return " ".join([super().formatMessage(record), *fields])


def configure(level: str) -> None:
    """Send everything of *level* and above to stderr; for the entry point of a process."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldsFormatter())
    logging.basicConfig(level=level, handlers=[handler])


def _shown(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and text and not any(mark in text for mark in ' "=')
    return text if plain else ascii(text)
