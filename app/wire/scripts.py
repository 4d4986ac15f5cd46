"""Lua scripts, loaded once from ``lua/`` beside the module that runs them."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError


@dataclass(frozen=True, slots=True)
class LuaScript:
    """One script and its SHA-1; ``run`` sends the digest and the source only when asked for.

    By SCRIPT LOAD, never EVAL: a login that only reads needs no right to evaluate what it likes.
    """

    source: str
    sha: str

    async def run(self, redis: Redis, keys: list[str], args: list[Any]) -> Any:
        """Run the script atomically; loads it when the server does not know it (yet, or again)."""
        try:
            return await cast(Any, redis.evalsha(self.sha, len(keys), *keys, *args))
        except NoScriptError:
            await cast(Any, redis.script_load(self.source))
            return await cast(Any, redis.evalsha(self.sha, len(keys), *keys, *args))


@functools.cache
def script(package_file: str, name: str) -> LuaScript:
    """Load ``lua/<name>.lua`` beside *package_file* (pass ``__file__``)."""
    source = (Path(package_file).parent / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    return LuaScript(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
