"""Measures what `simrec serve` adds to a look-up: uploads of a JPEG of 400 pixels, over 60,000 items.

    python tests/benchmarks/serving.py [--encoder demo|photo] [--items 60000] [--seconds 10] [--connections 16]
                                       [--requests 0]

The server and the client share the machine's cores. wrk (Debian has it) measures the saturated rate. In process:
`Recommender.similar` with the same file. Bare ONNX: the encoder alone, one image at a time. At half load, requests
begin at regular intervals, at half the saturated rate, whether or not the one before was answered; a request's time
counts from when it should have begun. --requests: sends so many more requests, and prints the memory of the server's
processes after every tenth of them.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

import simrec
from simrec.contracts import ImageSpec
from simrec.sources.load import load


def catalogue(home: Path, encoder: str, items: int) -> None:
    """A recommender with so many items: Fashion-MNIST's test pictures, repeated, each time shifted by a pixel."""
    pictures = load("fashion-mnist:test", ImageSpec(), notice=print)
    folder = home / "pictures"
    for number in range(items):
        copy, row = divmod(number, len(pictures.images))
        place = folder / f"{copy}" / f"{row // 1000}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(pictures.images[row, :, :, 0], copy, axis=1)).save(place / f"{row}.png")
    simrec.build("served", str(folder), encoder=encoder, home_folder=home)


def picture() -> bytes:
    """A JPEG of 400 x 400 pixels."""
    pictures = load("fashion-mnist:test", ImageSpec(), notice=print)
    file = io.BytesIO()
    Image.fromarray(pictures.images[7, :, :, 0]).resize((400, 400), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


@contextmanager
def server(home: Path) -> Iterator[tuple[int, int]]:
    """Runs a server in the block; gives its port and its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "simrec", "--home", str(home), "serve", "served", "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield int(re.findall(r":(\d+)/", process.stdout.readline())[0]), process.pid
    finally:
        process.terminate()
        process.communicate()


def client(port: int, seconds: float, connections: int, rate: float = 0.0) -> dict[str, float]:
    """What a client measures, in its own process; rate: requests per second, 0 for as many as possible."""
    words = [sys.executable, __file__, "--client", str(port), str(seconds), str(connections), str(rate)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def saturated(port: int, seconds: float, connections: int) -> dict[str, float]:
    """What wrk measures: times in milliseconds, requests per second, and the number of errors."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "body").write_bytes(form())
        script = Path(folder) / "upload.lua"
        script.write_text(
            f'wrk.method = "POST"\nwrk.body = io.open("{folder}/body", "rb"):read("*a")\n'
            f'wrk.headers["Content-Type"] = "multipart/form-data; boundary=b"\n'
        )
        words = ["wrk", "--latency", "-t", "1", "-c", f"{connections}", "-d", f"{seconds:.0f}s", "-s", str(script)]
        said = subprocess.run(
            [*words, f"http://127.0.0.1:{port}/api/similar"], capture_output=True, text=True, check=True
        )
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    times = re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", said.stdout)
    p50, p99 = (float(number) * units[unit] for _, number, unit in times)
    rate, count = (
        float(re.findall(pattern, said.stdout)[0]) for pattern in (r"Requests/sec:\s+(\S+)", r"(\d+) requests in")
    )
    wrong = re.findall(
        r"Non-2xx or 3xx responses: (\d+)|connect (\d+), read (\d+), write (\d+), timeout (\d+)", said.stdout
    )
    return {
        "p50": p50,
        "p99": p99,
        "rate": rate,
        "errors": sum(int(n or 0) for some in wrong for n in some),
        "count": count,
    }


def form() -> bytes:
    """The body of a request."""
    return (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + picture() + b"\r\n--b--\r\n"
    )


async def measured(port: int, seconds: float, connections: int, rate: float) -> dict[str, float]:
    """Times in milliseconds, requests per second, and the number of errors."""
    body = form()
    head = (
        f"POST /api/similar HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    request, times, errors = head.encode() + body, [], 0
    begun = time.perf_counter()
    steps = iter(range(10**9))

    async def ask() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < begun + seconds:
            start = time.perf_counter()
            if rate:
                start = begun + next(steps) / rate
                await asyncio.sleep(max(0.0, start - time.perf_counter()))
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.findall(rb"content-length: (\d+)", answer)[0]))
            times.append(time.perf_counter() - start)
            errors += b" 200 " not in answer.split(b"\r\n")[0]
        writer.close()

    await asyncio.gather(*(ask() for _ in range(connections)))
    took = time.perf_counter() - begun
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {"p50": float(p50), "p99": float(p99), "rate": len(times) / took, "errors": errors, "count": len(times)}


def resident(process: int) -> float:
    """The memory of a process and its children in megabytes."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    texts = [Path(f"/proc/{one}/status").read_text() for one in (process, *children)]
    return sum(int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) for text in texts) / 1000


def alone(work: Callable[[], object], seconds: float = 3.0) -> tuple[float, float]:
    """Repeats something; returns the median time in milliseconds, and how often per second it ran."""
    work()
    times, begun = [], time.perf_counter()
    while time.perf_counter() < begun + seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1000, len(times) / sum(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="demo")
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--home", type=Path, help="Folder for the catalogue; by default a new one.")
    parser.add_argument("--client", nargs=4, type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        port, seconds, connections, rate = given.client
        print(json.dumps(asyncio.run(measured(int(port), seconds, int(connections), rate))))
        return
    home = given.home or Path(tempfile.mkdtemp())
    if not (home / "served").is_dir():
        catalogue(home, given.encoder, given.items)
    recommender, data = simrec.open("served", home), picture()
    lookup, _ = alone(lambda: recommender.similar(data))
    images = recommender.read(data).images
    assert images is not None
    _, bare = alone(lambda: recommender.encode(images))
    with server(home) as (port, process):
        client(port, 1, 4)
        one = client(port, given.seconds, 1)
        full = saturated(port, given.seconds, given.connections)
        half = client(port, given.seconds, given.connections, full["rate"] / 2)
        asked, errors = 0.0, 0.0
        while asked < given.requests:
            more = client(port, given.requests / 10 / full["rate"], given.connections)
            asked, errors = asked + more["count"], errors + more["errors"]
            print(f"{asked:,.0f} requests, {errors:.0f} errors: {resident(process):.0f} MB", flush=True)
    print(f"in process: p50 {lookup:.1f} ms; bare ONNX {bare:.0f}/s")
    for name, one_ in (("one connection", one), ("saturated", full), ("at half of that rate", half)):
        print(
            f"{name}: {one_['rate']:.0f}/s, p50 {one_['p50']:.1f} ms, p99 {one_['p99']:.1f} ms, {one_['errors']} errors"
        )
    print(f"p50 of one connection / in process: {one['p50'] / lookup:.2f}; saturated / bare: {full['rate'] / bare:.2f}")


if __name__ == "__main__":
    main()
