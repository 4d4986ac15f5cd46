"""Called by ``panel serve app/dashboard``: put guard, API and collector into the server it made."""

from typing import Any

from app.errors import ArqscopeError
from app.server import attach, begin, runtime, served_applications


def on_server_loaded(server_context: Any) -> None:  # noqa: ARG001 - Bokeh's signature
    """Attach everything; a server that cannot be guarded does not start."""
    try:
        shared = runtime()
        for application in served_applications():
            attach(application, shared)
        begin(shared)
    except ArqscopeError as error:
        raise SystemExit(f"arqscope: {error}") from error
    except Exception as error:  # Bokeh would log it and serve without the guard
        raise SystemExit(f"arqscope: the server cannot start: {error!r}") from error
