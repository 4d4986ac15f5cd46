"""Errors of the corpus that need more than one line."""

import asyncio


async def _fail(n: int) -> None:
    raise ValueError(f"part {n} failed")


async def group(count: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        for n in range(count):
            tasks.create_task(_fail(n))


async def foreign() -> None:
    """Await a future of another loop; the message names task, coroutine and line."""
    future = asyncio.new_event_loop().create_future()
    await asyncio.wait_for(future, 1)


def twice(name: str, n: int) -> None:
    """Break a unique constraint through SQLAlchemy."""
    import sqlalchemy as sa

    engine = sa.create_engine("sqlite://")
    table = sa.Table("orders", sa.MetaData(), sa.Column("name", sa.String, primary_key=True))
    table.metadata.create_all(engine)
    with engine.begin() as connection:
        for _ in range(2):
            connection.execute(table.insert().values(name=f"{name} {n}"))


def chained(name: str) -> None:
    try:
        {}[name]
    except KeyError as error:
        raise RuntimeError("no price list") from error
