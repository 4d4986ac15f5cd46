"""Commands about jobs."""

import asyncio
from typing import Annotated

import typer

from app.cli.terminal import Json, act, clients, json_object, reachable_settings, say

app = typer.Typer(help="Put jobs on queues, and put them off.", no_args_is_help=True)


@app.command("enqueue")
def enqueue(
    queue: Annotated[str, typer.Argument(help="Name of the queue.")],
    name: Annotated[str, typer.Argument(help="Name of the job function, e.g. data-sync.")],
    data: Annotated[str, typer.Option("--data", help="The job's argument, a JSON object.")] = "{}",
    job_id: Annotated[
        str, typer.Option("--id", help="Id; asking twice with one id makes one job.")
    ] = "",
    delay_s: Annotated[float, typer.Option("--delay", help="Seconds to wait first.")] = 0.0,
) -> None:
    """Put one job on a queue and print its id."""
    from app.enqueue import JobRequest, codec_of
    from app.enqueue import enqueue as put_on_queue
    from app.wire.connections import Connections

    settings = reachable_settings()
    settings.queue(queue)
    argument = json_object(data, "--data", "data")
    request = JobRequest(name=name, args=(argument,), id=job_id, delay_s=delay_s)

    async def put() -> str:
        async with clients(settings) as made:
            redis = Connections(**made).holding(queue)
            done = await put_on_queue(redis, queue, request, codec=codec_of(settings))
        return done.id if done.created else f"{done.id} exists already; nothing was changed"

    say(asyncio.run(put()))


@app.command("reschedule")
def reschedule(
    queue: Annotated[str, typer.Argument(help="Name of the queue.")],
    job_id: Annotated[str, typer.Argument(help="Id of a job that waits.")],
    delay: Annotated[str, typer.Argument(help="From now on, e.g. 90s, 15m, 2h; 0s: due now.")],
    as_json: Json = False,
) -> None:
    """Make a waiting or deferred job due at another time."""
    from app import actions
    from app.errors import InvalidRequest
    from app.letters.filters import age_s

    delay_s = age_s("delay", delay)
    if delay_s is None:
        raise InvalidRequest("there is no delay", field="delay", hint="for example 15m")
    act(actions.reschedule_job, queue, job_id, delay_s, as_json=as_json)
