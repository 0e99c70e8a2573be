"""The server of the web page under load, with concurrent clients that send good and bad photos.

python benchmarks/load.py [--model models] [--photos data/split/test] [--clients 16] [--seconds 120] [--slow 50]

One request in five is bad: no image, a truncated JPEG, a PNG of 100 megapixels, or a file of 25 MB. The output is
photos a second, the latency of good photos, the server's memory at the start, after a tenth of the time and at the end,
and the count of responses by status.

`--slow N` first measures without them, and then for as long beside N clients that send a byte of a header every half
second and N that send bodies in chunks, each from an address of its own kind and open again as soon as it is refused.

Expected on two cores: 46 to 54 photos a second, a median latency of 0.25 to 0.32 s, constant memory, and no unexpected
status. It takes two minutes, with --slow four, after `dvc repro`.
"""

import argparse
import http.client
import io
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

BAD = ("no image", "truncated", "100 megapixels", "25 MB")
EXPECTED = {"photo": 200, "no image": 400, "truncated": 400, "100 megapixels": 400, "25 MB": 413}


def bad_files(photo: bytes) -> dict[str, bytes]:
    huge = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(huge, "PNG")
    return dict(
        zip(BAD, (b"GIF89a, says the file", photo[: len(photo) // 2], huge.getvalue(), bytes(25_000_000)), strict=True)
    )


def client(port: int, photos: list[bytes], bad: dict[str, bytes], end: float, seed: int, responses: list) -> None:
    rng = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while time.monotonic() < end:
        kind = rng.choice(BAD) if rng.random() < 0.2 else "photo"
        data = bad.get(kind) or rng.choice(photos)
        start = time.monotonic()
        try:
            connection.request("POST", "/predict", data)
            response = connection.getresponse()
            response.read()
            status: int | str = response.status
        except (BrokenPipeError, ConnectionResetError):  # the server may close without reading a refused body
            status = 413 if kind == "25 MB" else "connection lost"
        except OSError as error:
            status = type(error).__name__
        if status != 200:
            connection.close()  # the next request opens it again
        responses.append((kind, status, time.monotonic() - start))


def slow_client(port: int, address: str, start: bytes, piece: bytes, pause: float, end: float) -> None:
    """Sends the start of a request and then pieces, until the end; connects again when it is refused."""
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), 60, (address, 0)) as connection:
                connection.sendall(start)
                while time.monotonic() < end:
                    time.sleep(pause)
                    connection.sendall(piece)
        except OSError:
            time.sleep(pause)


def measure(port: int, photos: list[bytes], bad: dict[str, bytes], clients: int, seconds: float, slow: int) -> list:
    """Return the kind, status and time of each response to the clients, beside as many slow ones of both kinds."""
    responses: list[tuple[str, int | str, float]] = []
    end = time.monotonic() + seconds
    threads = [
        threading.Thread(target=client, args=(port, photos, bad, end, seed, responses)) for seed in range(clients)
    ]
    header = b"GET / HTTP/1.1\r\nX: "
    chunked = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _ in range(slow):
        for options in (("127.0.0.2", header, b"x", 0.5), ("127.0.0.3", chunked, 100 * b"1\r\nx\r\n", 0.1)):
            threads.append(threading.Thread(target=slow_client, args=(port, *options, end)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return responses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models"))
    parser.add_argument("--photos", type=Path, default=Path("data/split/test"))
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--slow", type=int, default=0)
    arguments = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(arguments.photos.rglob("*.jpg"))]
    bad = bad_files(photos[0])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gemmodel.cli", "app", "--model", str(arguments.model), "--port", str(port)]
    with subprocess.Popen([*command, "--per-minute", "1000000"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            while not is_ready(port):
                time.sleep(0.1)
            process, memory, done = psutil.Process(server.pid), [], threading.Event()

            def watch() -> None:
                while not done.wait(1):
                    memory.append(process.memory_info().rss / 1e6)

            watcher = threading.Thread(target=watch)
            watcher.start()
            phases = [(0, "")] + (
                [(arguments.slow, f" beside 2 x {arguments.slow} slow ones")] if arguments.slow else []
            )
            for slow, beside in phases:
                start, used = time.monotonic(), sum(process.cpu_times()[:2])
                responses = measure(port, photos, bad, arguments.clients, arguments.seconds, slow)
                report(responses, time.monotonic() - start, f"{arguments.clients} clients{beside}")
                print(f"server: {sum(process.cpu_times()[:2]) - used:.1f} s of a core")
            done.set()
            watcher.join()
        finally:
            server.terminate()
    early = memory[len(memory) // 10]
    print(f"memory: {memory[0]:.0f} MB at start, {early:.0f} MB after a tenth, {memory[-1]:.0f} MB at the end")


def report(responses: list, duration: float, who: str) -> None:
    """Print the rate, the latencies and the count of responses by status."""
    good = [seconds for kind, status, seconds in responses if (kind, status) == ("photo", 200)]
    print(f"{who}, {duration:.0f} s: {len(good) / duration:.1f} photos a second")
    if good:
        print(f"latency of a photo: p50 {np.quantile(good, 0.5):.3f} s, p99 {np.quantile(good, 0.99):.3f} s")
    for (kind, status), count in sorted(Counter((kind, str(status)) for kind, status, _ in responses).items()):
        print(f"{kind}: {count} times {status}{'' if status == str(EXPECTED[kind]) else ', UNEXPECTED'}")


def is_ready(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except ConnectionRefusedError:
        return False


if __name__ == "__main__":
    main()
