"""Strangers' requests to `simrec serve`, many at a time: nothing leaks or grows, and the next one is answered."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

import hostile_pictures as hostile
import pytest
from PIL import Image

import simrec
from simrec import library

GIGABYTE = 1_000_000


@dataclass
class Server:
    """A server in its own process."""

    process: subprocess.Popen[str]
    port: int

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "", **headers: str) -> tuple[int, bytes]:
        """The status and body of an answer; the path is sent as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            sent = {**({"Content-Type": kind} if kind else {}), **headers}
            connection.request(method, path, body or None, sent)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def look_up(self, data: bytes, name: str = "a.png") -> int:
        """The status of an answer to an uploaded file."""
        head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        return self.ask("POST", "/api/similar", head + data + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")[0]

    def kilobytes(self, which: str) -> int:
        """The memory of all its processes: VmHWM is the peak, VmRSS the current value."""
        texts = [Path(f"/proc/{one}/status").read_text() for one in (self.process.pid, *self.others())]
        return sum(int(found) for text in texts for found in re.findall(rf"{which}:\s+(\d+)", text))

    def others(self) -> list[int]:
        """The processes that answer."""
        there = children(self.process.pid)
        return [one for one in there if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


@pytest.fixture
def started() -> Iterator[Callable[..., Server]]:
    """Starts servers, which end with the test."""
    processes = []

    def start(*words: str) -> Server:
        process = subprocess.Popen(
            [sys.executable, "-m", "simrec", "--quiet", "serve", *words, "--port", "0", "--workers", "2"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout is not None
        return Server(process, int(re.findall(r":(\d+)/", process.stdout.readline())[0]))

    yield start
    for process in processes:
        process.terminate()
        process.communicate(timeout=60)


def fine(server: Server) -> None:
    """Asserts that the next request is answered."""
    assert server.process.poll() is None
    assert server.look_up(hostile.saved(hostile.small(), "PNG")) == 200


@pytest.mark.long
def test_no_path_from_outside_reaches_the_file_system(started: Callable[..., Server], tmp_path: Path) -> None:
    server = started("demo")
    secret = tmp_path / "secret.png"
    secret.write_bytes(hostile.saved(hostile.small(), "PNG"))
    ups = ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "..%252f", "....//", "%c0%ae%c0%ae/", "/", "%00/", ".%00./")
    places = (
        "/page/",
        "/",
        *(f"/api/recommenders/demo/{kind}/" for kind in ("items", "previews", "originals", "views")),
    )
    targets = ("etc/passwd", str(secret)[1:], "CURRENT", "generations/000001.json")
    paths = [place + 8 * up + target for place, up, target in itertools.product(places, ups, targets)]
    assert len(paths) >= 200
    names = [8 * up + target for up, target in itertools.product(("../", "/", "file:///"), targets)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda path: server.ask("GET", path), paths))
        forms = list(
            pool.map(
                lambda name: server.ask(
                    "POST", "/api/similar", f"id={name}".encode(), "application/x-www-form-urlencoded"
                ),
                names,
            )
        )
        recommenders = list(pool.map(lambda name: server.ask("GET", f"/api/recommenders/{name}/items"), names))
    for path, (status, body) in zip([*paths, *names, *names], [*answers, *forms, *recommenders], strict=True):
        assert 400 <= status < 500, (path, status, body)
        assert b"root:" not in body
        assert not body.startswith(b"\x89PNG")
    fine(server)


@pytest.mark.long
def test_a_head_without_an_end_takes_no_memory(started: Callable[..., Server]) -> None:
    server = started("demo")
    fine(server)
    before = server.kilobytes("VmHWM")
    for start, piece in (
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X: " + b"a" * 1000 + b"\r\n"),
        (b"GET /?", b"a" * 1000),
    ):
        with socket.create_connection(("127.0.0.1", server.port)) as connection, contextlib.suppress(OSError):
            connection.sendall(start)
            for _ in range(30_000):
                connection.sendall(piece)
    assert server.kilobytes("VmHWM") < before + 10_000
    fine(server)


FORM = (
    b"POST /api/similar HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: %d\r\n\r\n" + b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
)

SLOWLY = {
    "a head": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
    "the head of a second request": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nX: ",
    "a body that nobody asked for": b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n",
    "a small body": FORM % 9999,
    "a large body": FORM % 9_999_999,
}
"""The beginnings of requests; the rest comes byte by byte."""


@pytest.mark.long
def test_two_hundred_slow_connections_keep_nobody_out_and_are_closed(started: Callable[..., Server]) -> None:
    server = started("demo")
    large = hostile.saved(Image.effect_noise((1200, 1200), 100).convert("RGB"), "BMP")
    assert len(large) > 4_000_000
    begun, waited, least = time.monotonic(), [], 200
    with contextlib.ExitStack() as stack:
        connections = []
        for _, start in zip(range(200), itertools.cycle(SLOWLY.values()), strict=False):
            connections.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port))))
            connections[-1].sendall(start)
        while connections and time.monotonic() < begun + 60:
            second = time.monotonic() + 1
            while (left := second - time.monotonic()) > 0:
                for connection in select.select(connections, [], [], left)[0]:
                    if not received(connection):
                        connections.remove(connection)
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.sendall(b"-")
            if len(waited) < 5:
                asked, least = time.monotonic(), len(connections)
                assert server.look_up(large, "a.bmp") == 200
                waited.append(time.monotonic() - asked)
        assert connections == []
    assert least == 200  # all of them were there while others were answered
    assert max(waited) < 5
    assert time.monotonic() < begun + 45  # SECONDS is 30
    fine(server)


def received(connection: socket.socket) -> bytes:
    """What has arrived on a connection; empty if it was closed."""
    try:
        return connection.recv(1 << 16)
    except ConnectionError:
        return b""


@pytest.mark.long
def test_a_hundred_bombs_cost_their_own_requests_and_under_a_gigabyte(started: Callable[..., Server]) -> None:
    server = started("demo")
    bombs = [make() for make in hostile.BOMBS.values()]
    many = list(itertools.islice(itertools.cycle(bombs), max(100, len(bombs))))
    with ThreadPoolExecutor(4) as pool:
        statuses = Counter(pool.map(server.look_up, many))
    assert set(statuses) <= {200, 413, 422}, statuses
    assert statuses[422] > 50
    fine(server)
    assert server.kilobytes("VmHWM") < GIGABYTE


@pytest.mark.long
def test_five_hundred_mutated_uploads_are_answers_or_one_sentence(started: Callable[..., Server]) -> None:
    server = started("demo")
    goods = [make() for makes in hostile.BASES.values() for make in makes]
    mutants = [hostile.mutant(goods[number % len(goods)], Random(f"serve {number}")) for number in range(500)]
    with ThreadPoolExecutor(4) as pool:
        statuses = Counter(pool.map(server.look_up, mutants))
    assert set(statuses) == {200, 422}, statuses
    fine(server)
    assert server.kilobytes("VmHWM") < GIGABYTE


@pytest.mark.long
def test_mutated_forms_are_answers_or_4xx(started: Callable[..., Server]) -> None:
    server, random = started("demo"), Random(0)
    picture = hostile.saved(hostile.small(), "PNG")
    good = (
        b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n3\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + picture + b"\r\n--b--\r\n"
    )
    for _ in range(500):
        body = bytearray(good)
        for _ in range(random.randint(1, 6)):
            body[random.randrange(160)] = random.randrange(256)
        status, answer = server.ask("POST", "/api/similar", bytes(body), "multipart/form-data; boundary=b")
        assert status == 200 or 400 <= status < 500, (status, answer, bytes(body[:170]))
    fine(server)


@pytest.mark.long
def test_memory_stays_flat(started: Callable[..., Server]) -> None:
    server = started("demo")
    picture = hostile.saved(hostile.small(size=(400, 400)), "JPEG")
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(server.look_up, [picture] * 500)) == {200}
        before = server.kilobytes("VmRSS")
        assert set(pool.map(server.look_up, [picture] * 4000)) == {200}
    assert server.kilobytes("VmRSS") < before + 30_000


@pytest.mark.long
def test_twenty_generations_are_replaced_under_load_without_a_failed_request(
    started: Callable[..., Server], photos: Path, own_home: Path
) -> None:
    simrec.build("own", str(photos), encoder="demo")
    server = started("own")
    picture, ended, statuses = next(photos.rglob("*.png")).read_bytes(), threading.Event(), Counter[int]()

    def ask() -> None:
        while not ended.is_set():
            statuses[server.look_up(picture)] += 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    first = next(photos.rglob("*.png"))
    for number in range(20):
        Image.open(first).rotate(5 * number + 5).save(photos / "Bag" / f"new{number}.png")
        simrec.sync("own")
    threading.Event().wait(1)  # the time after which a server looks for a newer one
    ended.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
    assert b'"items":60' in server.ask("GET", "/api/recommenders")[1]


def counted(server: Server) -> int:
    """How many look-ups all processes have answered."""
    text = server.ask("GET", "/metrics")[1].decode()
    found = re.findall(r'simrec_requests_total\{operation="similar",status="200"\} (\d+)', text)
    return int(found[0]) if found else 0


@pytest.mark.long
def test_processes_answer_in_turns_and_one_that_dies_is_replaced(started: Callable[..., Server]) -> None:
    server = started("demo")
    picture = hostile.saved(hostile.small(), "PNG")
    while len(server.others()) < 2:
        threading.Event().wait(0.01)
    first, second = server.others()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(server.look_up, [picture] * 100)) == {200}
    assert counted(server) == 100
    os.kill(first, signal.SIGKILL)
    while first in (there := server.others()) or len(there) < 2:
        threading.Event().wait(0.01)
    assert second in there
    os.kill(second, signal.SIGKILL)  # the new one answers
    with contextlib.suppress(ConnectionError):
        server.look_up(picture)
    begun = time.monotonic()
    while counted(server) < 101:
        with contextlib.suppress(ConnectionError):
            server.look_up(picture)
        assert time.monotonic() < begun + 60
    text = server.ask("GET", "/metrics")[1].decode()
    assert "simrec_requests_busy 0.0" in text
    assert 'simrec_items{recommender="demo"} 10000.0' in text


def open_in(process: int) -> set[str]:
    """What a process has open."""
    found = set()
    for file in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found.add(str(file.readlink()))
    return found


def shares(server: Server) -> list[int]:
    """How many connections each process has."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{server.port:04X}") and row[3] == "01"}
    return [len(ours & open_in(one)) for one in server.others()]


def connected(server: Server, stack: contextlib.ExitStack) -> list[int]:
    """The shares with one more connection, which stays open."""
    before = sum(shares(server))
    stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
    while sum(there := shares(server)) == before:
        threading.Event().wait(0.001)
    return there


def answering(server: Server, stack: contextlib.ExitStack) -> None:
    """Waits until both processes take connections."""
    begun = time.monotonic()
    while len(there := connected(server, stack)) < 2 or min(there) == 0:
        assert time.monotonic() < begun + 9


@pytest.mark.long
def test_each_process_gets_its_share_of_the_connections(started: Callable[..., Server]) -> None:
    server = started("demo")

    with contextlib.ExitStack() as stack:
        answering(server, stack)
        for _ in range(40):
            there = connected(server, stack)
    assert len(there) == 2
    assert max(there) - min(there) <= 2, there


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_and_no_file_stays_behind(
    started: Callable[..., Server], number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = started("demo")
    fine(server)
    there = server.others()
    os.kill(server.process.pid, number)
    server.process.wait(30)
    begun = time.monotonic()
    while any(Path(f"/proc/{one}/cmdline").exists() and Path(f"/proc/{one}/cmdline").read_bytes() for one in there):
        assert time.monotonic() < begun + 30
        threading.Event().wait(0.01)
    assert list(tmp_path.glob("simrec-serve-*")) == []
    with pytest.raises(ConnectionRefusedError):
        server.ask("GET", "/healthz")


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.long
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("later", [0.0, 0.03, 0.3])
def test_a_server_that_is_starting_ends_at_once(number: int, status: int, later: float, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "simrec", "serve", "demo", "--port", "0", "--workers", "4"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    while not children(process.pid):
        assert process.poll() is None
    threading.Event().wait(later)
    os.killpg(process.pid, number)  # as a terminal does
    said = process.communicate(timeout=10)[1]
    assert process.returncode == status
    assert said.strip() == ("Interrupted." if number == signal.SIGINT else "")
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_no_module_of_the_current_folder_is_run(tmp_path: Path) -> None:
    (tmp_path / "multiprocessing.py").write_text("open('run', 'w')")
    command = tmp_path / "bin" / "command"
    command.parent.mkdir()
    command.write_text("from simrec.cli import main\nif __name__ == '__main__': main()")
    words = [sys.executable, str(command), "serve", "demo", "--port", "0", "--workers", "2"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Serving demo")
    process.terminate()
    process.communicate(timeout=30)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_recommender_in_a_folder_of_any_name_is_served(started: Callable[..., Server], tmp_path: Path) -> None:
    shutil.copytree(library.shipped() / "demo", tmp_path / "mine")
    fine(started(str(tmp_path / "mine")))


@pytest.mark.long
def test_a_server_without_free_file_descriptors_answers_again_when_it_has_some(
    started: Callable[..., Server],
) -> None:
    server = started("demo")
    with contextlib.ExitStack() as stack:
        answering(server, stack)
    for one in server.others():
        count = len(list(Path(f"/proc/{one}/fd").iterdir())) + 20
        resource.prlimit(one, resource.RLIMIT_NOFILE, (count, count))
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        threading.Event().wait(1)
    begun, answered = time.monotonic(), 0
    while answered < 8:
        answered += server.ask("GET", "/healthz")[0] == 200
        assert time.monotonic() < begun + 30


@pytest.mark.long
def test_a_disk_that_is_full_ends_no_process(started: Callable[..., Server], tmp_path: Path) -> None:
    server = started("demo")
    with contextlib.ExitStack() as stack:
        answering(server, stack)
    for one in server.others():
        maps = Path(f"/proc/{one}/maps").read_text()
        names = set(re.findall(r"/\S+\.db", maps))
        assert names
        for name in names:
            assert Path(name).stat().st_blocks * 512 >= Path(name).stat().st_size > 0  # all of it is on the disk


@pytest.mark.long
def test_the_other_processes_answer_if_one_dies_and_cant_be_replaced(
    started: Callable[..., Server], tmp_path: Path
) -> None:
    shutil.copytree(library.shipped() / "demo", tmp_path / "mine")
    server = started(str(tmp_path / "mine"))
    with contextlib.ExitStack() as stack:
        answering(server, stack)
    shutil.rmtree(tmp_path / "mine")
    first, _ = server.others()
    os.kill(first, signal.SIGKILL)
    begun = time.monotonic()
    while time.monotonic() < begun + 5:
        with contextlib.suppress(ConnectionError):
            assert server.ask("GET", "/healthz")[0] == 200
    assert server.process.poll() is None


@pytest.mark.long
def test_a_recommender_that_cant_be_opened_is_one_line(own_home: Path) -> None:
    shutil.copytree(library.shipped() / "demo", own_home / "own")
    for graph in own_home.rglob("encoder.onnx"):
        graph.write_bytes(b"no graph")
    words = [sys.executable, "-m", "simrec", "serve", "own", "--port", "0", "--workers", "2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"Error: .*\n", done.stderr), done.stderr


@pytest.mark.external
@pytest.mark.parametrize("examples, least", [(40, 400), pytest.param(400, 3000, marks=pytest.mark.slow)])
def test_generated_requests_keep_to_the_openapi_document(
    started: Callable[..., Server], examples: int, least: int
) -> None:
    server, tool = started("demo"), shutil.which("schemathesis")
    assert tool, "pip install schemathesis"
    done = subprocess.run(
        [
            tool, "run", f"http://127.0.0.1:{server.port}/api/openapi.json", "--phases", "coverage,fuzzing",
            "--max-examples", str(examples), "--suppress-health-check", "filter_too_much", "--workers", "4",
            "--exclude-checks", "positive_data_acceptance", "--seed", "1", "--no-color",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.findall(r"(\d+) generated", done.stdout)[0].replace(",", "")) >= least, done.stdout[-500:]
    fine(server)
