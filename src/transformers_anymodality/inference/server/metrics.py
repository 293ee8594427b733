"""Metrics of the server for Prometheus."""

from collections.abc import Callable
from typing import Any

from fastapi import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


PATH = "/metrics"
_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counters of one server and its process (memory, files, CPU time, if the system gives them)."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own: Any = {"namespace": "anymodality", "registry": self.registry}
        self.requests = Counter("requests", "Requests by status; 499: the client left.", ["route", "status"], **own)
        self.seconds = Histogram(
            "request_seconds", "Time to a request's last byte.", ["route"], buckets=_SECONDS, **own
        )
        self.running = Gauge("requests_running", "Requests that are not answered yet.", **own)
        self.waiting = Gauge("requests_waiting", "Requests that were read and wait for the model.", **own)
        self.prompt_tokens = Counter("prompt_tokens", "Tokens of prompts, placeholders of media included.", **own)
        self.generated_tokens = Counter("generated_tokens", "Tokens of answers.", **own)
        self.failed = Counter("failed_answers", "Answers that an error ended, streams included.", **own)

    async def page(self) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)


class Counted:
    """Wraps an ASGI application and counts its requests.

    Args:
        routes: routes with their own counts; all others are `other`.
        passed_over: routes that are not counted.
    """

    def __init__(self, app: Callable, metrics: Metrics, routes: tuple[str, ...], passed_over: tuple[str, ...]):
        self.app, self.metrics, self.routes, self.passed_over = app, metrics, routes, passed_over

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in self.passed_over:
            return await self.app(scope, receive, send)
        route, status = scope["path"] if scope["path"] in self.routes else "other", 499

        async def sent(message: dict) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        with self.metrics.running.track_inprogress(), self.metrics.seconds.labels(route).time():
            try:
                await self.app(scope, receive, sent)
            except Exception:
                status = 500  # an outer layer sends it
                raise
            finally:
                self.metrics.requests.labels(route, status).inc()
