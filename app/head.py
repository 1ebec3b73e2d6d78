"""HEAD wherever there is GET (RFC 9110, 9.1): to all that is within it is a GET."""

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def answer_head(app: FastAPI) -> None:
    """Let an application answer HEAD as GET; nothing can be added to it later."""
    app.middleware_stack = _HeadAsGet(app.middleware_stack or app.build_middleware_stack())


class _HeadAsGet:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # A copy: the server has to know what was asked, or it would wait for a body to send.
        await self._app({**scope, "method": "GET"}, receive, send_without_body)
