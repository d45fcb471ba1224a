"""The application: every operation of the API and every file of the page at its address, behind the guard."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from simrec.errors import SimrecError
from simrec.serve import pages
from simrec.serve.answering import RefusedError, failed, status_of
from simrec.serve.endpoints import Endpoints
from simrec.serve.guard import Guard, Rules
from simrec.serve.metrics import Metrics
from simrec.serve.operations import OPERATIONS, Operation
from simrec.serve.requests import AT_ONCE, Reading, Said
from simrec.serve.shelf import Shelf
from simrec.serve.workers import Workers

QUICK = ("healthz", "metrics", "openapi", "session")
"""Operations that take no time: answered at once, without a worker, however busy the workers are."""

Answer = Callable[[Request, Said], Response]


def application(shelf: Shelf, rules: Rules | None = None, workers: int = 1) -> ASGIApp:
    """The page and the API for some recommenders, as an ASGI application.

    rules: who may ask, by default only this machine. workers: how many processes run it. Its threads end with its
    lifespan.
    """
    given = rules or Rules()
    free = {"/", *pages.files(), *(one.path for one in OPERATIONS if one.open)}
    given = replace(given, open=frozenset(free))
    metrics, reading = Metrics(shelf), Reading(max(1, AT_ONCE // workers))
    threads = Workers(metrics.busy)
    endpoints = Endpoints(shelf, given, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        threads.close()

    routes = [
        Route(
            one.path.replace("{id}", "{id:path}"),
            _timed(one, _answering(one, getattr(endpoints, one.name), reading, threads), metrics),
            methods=[one.method], name=one.name,
        )
        for one in OPERATIONS
    ]  # fmt: skip
    routes += [Route(path, pages.answer, methods=["GET"]) for path in pages.files()]
    app = Starlette(
        routes=routes, lifespan=lifespan,
        exception_handlers={HTTPException: _unknown, RefusedError: _refused, SimrecError: _error, 500: _fault},
    )  # fmt: skip
    return Guard(app, given)


def _answering(
    operation: Operation, answer: Answer, reading: Reading, workers: Workers
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that reads a request and lets `answer` answer it."""

    async def endpoint(request: Request) -> Response:
        async with reading.place() as place:
            try:
                said = await reading.read(request, operation, place)
                if operation.name in QUICK:
                    return answer(request, said)
                return await workers.run(lambda: answer(request, said))
            finally:
                await request.close()

    return endpoint


def _timed(
    operation: Operation, endpoint: Callable[[Request], Awaitable[Response]], metrics: Metrics
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint with its requests counted and timed, and its errors turned into answers."""

    async def timed(request: Request) -> Response:
        begun = time.perf_counter()
        try:
            answer = await endpoint(request)
        except RefusedError as error:
            answer = _refused(request, error)
        except SimrecError as error:
            answer = _error(request, error)
        metrics.add(operation.name, answer.status_code, time.perf_counter() - begun)
        return answer

    return timed


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return failed(error.status, error.sentence, error.headers)


def _error(_: Request, error: Exception) -> Response:
    assert isinstance(error, SimrecError)
    return failed(status_of(error), str(error))


def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return failed(404, f"there is nothing at {request.url.path!r:.200}: /api/openapi.json lists what there is")
    return failed(error.status_code, f"{error.detail}: /api/openapi.json lists what there is", error.headers)


def _fault(_: Request, error: Exception) -> Response:
    return failed(
        500, f"{type(error).__name__}: this is a bug in simrec: the server's output has the details"
    )  # fmt: skip
