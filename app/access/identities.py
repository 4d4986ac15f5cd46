"""Who the people of an OAuth provider are here: which role an identity has. Deny by default. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, cast

from app.actions import Role
from app.errors import SettingsError

_ROLES: Final = ("viewer", "operator", "admin")
#: a name of a person, or every address of one domain
_PATTERN: Final = re.compile(r"(?:\*|[a-z0-9][a-z0-9._+-]{0,100})(?:@[a-z0-9][a-z0-9.-]{0,150})?")
#: what a provider may call somebody; nothing that looks like another name
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,100}(?:@[A-Za-z0-9][A-Za-z0-9.-]{0,150})?")


@dataclass(frozen=True, slots=True)
class Identities:
    """Rules ``name=role`` in order; the first that fits decides, and where none does nobody comes in."""

    rules: tuple[tuple[str, Role], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``ann@example.com=admin *@example.com=viewer``; SettingsError names what is wrong."""
        rules: list[tuple[str, Role]] = []
        for part in text.replace(",", " ").split():
            pattern, _, role = part.rpartition("=")
            pattern = pattern.lower()
            if role not in _ROLES or not _PATTERN.fullmatch(pattern) or pattern == "*":
                raise SettingsError(
                    f"ARQSCOPE_OAUTH_ROLES: {part[:80]!r} is no rule: name=role or *@domain=role, "
                    "role viewer, operator or admin"
                )
            rules.append((pattern, cast(Role, role)))
        return cls(tuple(rules))

    def role_of(self, name: str) -> Role | None:
        """Return the role of who is called *name*; None: they may not come in."""
        low = name.lower()
        _, at, domain = low.rpartition("@")
        for pattern, role in self.rules:
            if pattern == low or (at and pattern == f"*@{domain}"):
                return role
        return None


def name_in(claims: Mapping[str, Any], claim: str) -> str:
    """Return what *claim* calls somebody; empty when it is missing, odd, or an address nobody verified.

    An ``email`` counts only when the provider says ``email_verified``: whoever may write any address into
    their own profile could else be anybody.
    """
    value = claims.get(claim)
    name = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not _NAME.fullmatch(name):
        return ""
    verified = claims.get("email_verified")
    return name if claim != "email" or verified is True or verified == "true" else ""
