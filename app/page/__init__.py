"""The page at `/` where a person tries an X-ray: files beside this module, read once.

It is a client of `/v1` like any other, and holds nothing itself.
"""

import hashlib
from pathlib import Path

from fastapi import FastAPI, Request, Response

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page/script.js": ("script.js", "text/javascript; charset=utf-8"),
    "/page/answer.js": ("answer.js", "text/javascript; charset=utf-8"),
    "/page/card.js": ("card.js", "text/javascript; charset=utf-8"),
    "/page/service.js": ("service.js", "text/javascript; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path → file and media type. Nothing else of the folder can be asked for."""


def add_page(app: FastAPI) -> None:
    """Let an application answer with the page and what belongs to it."""
    for path, (name, media_type) in FILES.items():
        _add_file(app, path, (Path(__file__).parent / name).read_bytes(), media_type)


def _add_file(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    @app.get(path, include_in_schema=False)
    async def _file(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={"ETag": tag})
        return Response(content, media_type=media_type, headers={"ETag": tag})
