"""The ``arqscope`` command: starts the processes, shows and steers queues from a terminal.

A module per group of commands. Heavy modules are imported inside the commands: a worker must not
load pandas because the command beside it shows a table.
"""

import sys
from pathlib import Path

import typer

from app.cli import (
    alerts,
    audit,
    causes,
    dlq,
    doctor,
    jobs,
    keys,
    operations,
    processes,
    queues,
    streams,
    verify,
)
from app.errors import ArqscopeError, InvalidRequest, NotFound

app = typer.Typer(
    help="Run, see and steer background work on Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
processes.add_to(app)
queues.add_to(app)
verify.add_to(app)
doctor.add_to(app)
app.add_typer(jobs.app, name="jobs")
app.add_typer(dlq.app, name="dlq")
app.add_typer(streams.app, name="streams")
app.add_typer(operations.app, name="operations")
app.add_typer(alerts.app, name="alerts")
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
causes.add_to(dlq.app)
dlq.app.add_typer(operations.app, name="operations")


def main() -> None:
    """Run the command; what we raise on purpose is one sentence on stderr and exit code 1."""
    # The user's own modules (ARQSCOPE_FUNCTIONS) are found in the current directory, but never
    # instead of ours: it comes last.
    sys.path.append(str(Path.cwd()))
    try:
        app()
    except ArqscopeError as error:
        hint = f" ({error.hint})" if isinstance(error, InvalidRequest) and error.hint else ""
        if isinstance(error, NotFound) and error.known:
            hint = f"; there are: {', '.join(error.known)}"
        sys.stderr.write(f"arqscope: {error}{hint}\n")
        sys.exit(1)
