"""Operations page by page, newest first: what comes meanwhile moves nobody's place, what is forgotten leaves no hole."""

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.cursors import Page, Place, by_score, limited
from app.operations import Operation, several, still_open
from app.wire.connections import explained


async def page(
    redis: Redis, cursor: str | None = None, limit: int = 100, *, open_only: bool = False
) -> Page[Operation]:
    """One page of all operations, or of those that may still do something; InvalidRequest for a wrong cursor."""
    if open_only:
        return await _open_page(redis, cursor, limited(limit))
    try:
        found, further = await by_score(
            redis, keys.OPERATIONS, "-inf", "+inf", cursor, limited(limit), newest=True
        )
    except (RedisError, OSError) as error:
        raise explained(error, "redis://queue") from error
    items = await several(redis, [operation_id for operation_id, _ in found])
    return Page(items=items, cursor=further, scanned=len(found))


async def _open_page(redis: Redis, cursor: str | None, limit: int) -> Page[Operation]:
    """The open ones are few and read whole; one that ends while somebody pages moves no other."""
    begun = None if cursor is None else Place.parse(cursor)
    every = sorted(await still_open(redis), key=_place, reverse=True)
    if begun is not None:
        every = [one for one in every if _place(one) < (begun.score, begun.member)]
    items = every[:limit]
    further = Place(*_place(items[-1])).cursor() if len(every) > limit else None
    return Page(items=items, cursor=further, scanned=len(every))


def _place(operation: Operation) -> tuple[float, str]:
    return float(round(operation.created_at.timestamp() * 1000)), operation.id
