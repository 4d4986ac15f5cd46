"""The API's own documentation, readable without a network: Swagger UI from our own assets.

``assets/`` holds swagger-ui-dist 5.35.0 (Apache-2.0, see LICENSE there), its source maps removed.
"""

from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Header
from fastapi.responses import FileResponse, HTMLResponse, Response

from app.api.access import Caller
from app.errors import NotFound

router = APIRouter(tags=["documents"], include_in_schema=False)

_ASSETS: Final = Path(__file__).parent / "assets"
_KINDS: Final = {
    ".js": "text/javascript",
    ".css": "text/css",
    "": "text/plain",
    ".txt": "text/plain",
}
_FILES: Final = {path.name: path for path in _ASSETS.iterdir() if path.suffix in _KINDS}
_START: Final = """\
window.ui = SwaggerUIBundle({url: "openapi.json", dom_id: "#ui", deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis], layout: "BaseLayout", validatorUrl: null});
"""
_PAGE: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>arqscope API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="docs/assets/swagger-ui.css"></head><body><div id="ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script><script src="docs/assets/start.js"></script>
</body></html>"""
#: Swagger UI styles its elements inline and draws icons from data: addresses
_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@router.get("/docs")
async def docs(_: Caller) -> Response:
    """Show the API with forms to try it."""
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _CSP})


@router.get("/docs/assets/{name}")
async def asset(
    name: str, _: Caller, if_none_match: Annotated[str, Header(max_length=1_000)] = ""
) -> Response:
    """Return one file of Swagger UI."""
    if name == "start.js":
        return Response(_START, media_type="text/javascript")
    if name not in _FILES:
        raise NotFound("file", name[:60])
    path = _FILES[name]
    kept = {"Cache-Control": "private, max-age=86400"}
    found = FileResponse(
        path, media_type=_KINDS[path.suffix], headers=kept, stat_result=path.stat()
    )
    tag = found.headers["etag"]
    if tag in if_none_match:
        return Response(status_code=304, headers={**kept, "ETag": tag})
    return found
