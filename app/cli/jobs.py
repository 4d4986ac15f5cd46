"""Commands about jobs."""

import asyncio
from typing import Annotated

import typer

from app.cli.terminal import clients, json_object, reachable_settings, say

app = typer.Typer(help="Put jobs on queues.", no_args_is_help=True)


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

    settings = reachable_settings()
    settings.queue(queue)
    argument = json_object(data, "--data", "data")
    request = JobRequest(name=name, args=(argument,), id=job_id, delay_s=delay_s)

    async def put() -> str:
        async with clients(settings) as made:
            done = await put_on_queue(made["queue"], queue, request, codec=codec_of(settings))
        return done.id if done.created else f"{done.id} exists already; nothing was changed"

    say(asyncio.run(put()))
