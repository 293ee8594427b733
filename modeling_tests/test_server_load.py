"""`anymodality serve` under load and faults: many clients, silent connections, bombs, cuts; nothing of it stays."""

import json
import os
import signal
import socket
import time
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest


pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("openai")

from benchmarks import load  # noqa: E402
from benchmarks.reliability.serving import HALF, HEAD, LIMITS, soak, text  # noqa: E402


ORIGIN = "https://example.org"
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server's port and process; in the end it finishes what it is saying, and leaves nothing behind."""
    folder = tmp_path_factory.mktemp("load") / "model"
    load.save_model(folder)
    with load.served(folder, *LIMITS, "--allow-origin", ORIGIN) as (port, process):
        yield port, process
        below = children(process)
        connection = HTTPConnection("127.0.0.1", port, timeout=load.TIMEOUT)
        body = json.dumps({"messages": load.chat(0), "max_tokens": 40})
        connection.request("POST", "/v1/chat/completions", body, load.HEADERS)
        time.sleep(0.3)
        started = time.perf_counter()
        os.kill(process, signal.SIGTERM)
        assert connection.getresponse().status == 200
    assert time.perf_counter() - started < 20
    assert below and not [one for one in below if is_running(one)]


def is_running(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def children(process: int) -> list[int]:
    """All processes below this one."""
    below = [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return below + [deeper for one in below for deeper in children(one)]


def test_silent_connections_keep_nobody_out(server):
    port, _ = server
    with ExitStack() as stack:
        for i in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            if i % 3 == 0:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            elif i % 3 == 1:
                connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le")
            else:
                connection.sendall(HALF)
        started = time.perf_counter()
        assert text(port) == 200
        assert time.perf_counter() - started < 20


def test_more_than_may_be_answered_are_told_to_come_again(server):
    port, _ = server

    def slow(seed: int) -> tuple[int, str | None, float]:
        connection, started = HTTPConnection("127.0.0.1", port, timeout=load.TIMEOUT), time.perf_counter()
        body = json.dumps({"messages": load.chat(seed), "max_tokens": 60})
        connection.request("POST", "/v1/chat/completions", body, load.HEADERS)
        response = connection.getresponse()
        response.read()
        return response.status, response.headers["Retry-After"], time.perf_counter() - started

    answers = load.at_once(slow, 64)
    assert {status for status, *_ in answers} == {200, 503}
    assert all(again == "1" for status, again, _ in answers if status == 503)
    assert sum(status == 200 for status, *_ in answers) >= 32
    assert text(port) == 200


def test_answers_together_are_those_alone(server):
    port, _ = server
    alone = [load.ask(port, seed, 6 + seed) for seed in range(6)]
    together = load.at_once(lambda seed: load.ask(port, seed, 6 + seed), 6)
    assert together == alone
    assert len({len(answer.split()) for answer in alone}) == 6  # each row ends at its own length


def test_stops_end_each_row_by_itself(server):
    port, _ = server
    whole = load.ask(port, 1, 12).split()
    stop = whole[5]
    body = {"messages": load.chat(1, load.picture(1)), "max_tokens": 2000, "stop": [stop]}
    bodies = [body, {"messages": load.chat(1, load.picture(1)), "max_tokens": 12}]
    answers = load.at_once(lambda i: json.loads(load.post(port, bodies[i])[1]), 2)
    assert answers[0]["choices"][0]["message"]["content"].split() == whole[: whole.index(stop)]
    assert answers[1]["choices"][0]["message"]["content"].split() == whole
    assert answers[0]["usage"]["completion_tokens"] == whole.index(stop) + 1


def test_answers_that_nobody_waits_for_end(server):
    port, process = server
    body = json.dumps({"messages": load.chat(2), "max_tokens": 1900})
    head = f"{HEAD}Content-Length: {len(body)}\r\n\r\n"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall((head + body).encode())
            time.sleep(0.2)
        load.post(port, {**json.loads(body), "stream": True}, cut=True)
    started = time.perf_counter()
    assert text(port) == 200
    assert time.perf_counter() - started < 10  # ten answers of 1900 tokens take minutes


def test_nothing_of_what_went_wrong_stays(server):
    assert soak(*server, seconds=3, clients=4, most=400)[1] == ""


@pytest.mark.slow
def test_two_minutes_of_faults_under_16_clients(server):
    assert soak(*server, seconds=120, clients=16, most=50_000)[1] == ""


def test_keys_and_origins(server):
    port, _ = server

    def get(path: str, method: str = "GET", **headers: str) -> tuple[int, str | None]:
        connection = HTTPConnection("127.0.0.1", port, timeout=load.TIMEOUT)
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers["Access-Control-Allow-Origin"]

    assert get("/health") == (200, None)
    for wrong in ({}, {"Authorization": "Bearer no"}, {"Authorization": "key"}):
        assert get("/v1/models", **wrong)[0] == get("/v1/chat/completions", "POST", **wrong)[0] == 401
    assert get("/v1/models", Authorization="Bearer key")[0] == 200
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization"}
    assert get("/v1/chat/completions", "OPTIONS", Origin=ORIGIN, **asked) == (200, ORIGIN)
    assert get("/health", Origin="https://evil.example") == (200, None)
