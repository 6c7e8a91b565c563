"""What both client tests need: the network under test, a file server, and a runner that counts."""

import asyncio
import contextlib
import http.server
import json
import os
import pathlib
import select
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
import traceback

JOB_IMAGE = "horde-sample:latest"
JOB_CLASS = "always_on.test"
UP_SECONDS_MAX = 60
STOP_SECONDS_MAX = 30


class Network:
    """`horde up` in a directory of its own; `facts` is the object that it prints once all roles answer.

    `jobs` collects the ids of the jobs that ran on it. `hub` is the address of what stands in for the Hugging Face hub.
    """

    def __init__(self, hub):
        self.hub = hub
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="horde-python-"))
        self.log = self.directory / "up.log"
        self.facts = {}
        self.jobs = set()
        self.process = None

    def __enter__(self):
        binary = os.environ["HORDE"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [binary, "--dir", str(self.directory / "network"), "--json", "up"],
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"HORDE_EXECUTOR_HUB_URL": self.hub},
            )
        try:
            self.facts = self._read_facts()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _read_facts(self):
        """Reads stdout until it holds one whole JSON object, on one line or on many."""
        text = b""
        deadline = time.monotonic() + UP_SECONDS_MAX
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self.process.stdout], [], [], 0.2)
            if not ready:
                continue
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                raise AssertionError(f"horde up ended early:\n{self.log_text()}")
            text += chunk
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(text)
        raise AssertionError(f"horde up was not ready within {UP_SECONDS_MAX} s:\n{self.log_text()}")

    def register_validator(self, hotkey):
        """Makes a hotkey an active validator, as the subnet would: no role can."""
        with contextlib.closing(sqlite3.connect(self.directory / "network" / "chain.sqlite", timeout=10)) as chain:
            with chain:
                chain.execute(
                    "INSERT INTO neuron (netuid, uid, hotkey, coldkey, stake_rao, validator_permit, registered_at,"
                    " last_update) SELECT netuid, max(uid) + 1, ?, ?, max(stake_rao), 1, 0, 0 FROM neuron GROUP BY netuid",
                    (hotkey, hotkey),
                )

    def ask(self, role, *arguments):
        """What a command beside a running role prints as JSON."""
        command = [os.environ["HORDE"], "--dir", str(self.directory / "network" / role), "--json", *arguments]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def log_text(self):
        return self.log.read_text(errors="replace")[-8000:]

    def stop(self):
        """Ctrl-C: returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=STOP_SECONDS_MAX)

    def __exit__(self, *_):
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class FileServer:
    """An HTTP server on loopback: hands out `files`, keeps what is PUT or POSTed in `uploads`.

    It stands in for the Hugging Face hub, too.
    """

    def __init__(self):
        self.files = {}
        self.uploads = {}
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, code, body):
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"kept"')
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                body = server.files.get(self.path)
                self.answer(404 if body is None else 200, body or b"no such file")

            def keep(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                # Names of headers mean the same in any case.
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.uploads[self.path] = (self.command, headers, body)
                self.answer(200, b"stored")

            do_PUT = keep
            do_POST = keep

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def hold_repository(self, name, files):
        """Makes a model's repository of one commit, as the hub shows it."""
        commit = "0123456789abcdef0123456789abcdef01234567"
        tree = [{"type": "file", "path": path, "size": len(content), "oid": "0"} for path, content in files.items()]
        self.files[f"/api/models/{name}/revision/main"] = json.dumps({"sha": commit}).encode()
        self.files[f"/api/models/{name}/tree/{commit}?recursive=true"] = json.dumps(tree).encode()
        for path, content in files.items():
            self.files[f"/{name}/resolve/{commit}/{path}"] = content

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def development_keypair(hotkey):
    """The well-known development key with this address."""
    import bittensor_wallet

    names = ["Alice", "Bob", "Charlie", "Dave", "Eve", "Ferdie", "One", "Two"]
    for uri in [f"//{name}{end}" for name in names for end in ("", "//stash", "//hotkey", "//validator")]:
        keypair = bittensor_wallet.Keypair.create_from_uri(uri)
        if keypair.ss58_address == hotkey:
            return keypair
    raise AssertionError(f"{hotkey} is none of the well-known development keys")


def containers_of(jobs):
    """The names of the containers, running or not, that were made for these jobs."""
    listed = subprocess.run(
        ["docker", "ps", "--all", "--filter", "label=horde.job", "--format", '{{.Names}} {{.Label "horde.job"}}'],
        check=True,
        capture_output=True,
        text=True,
    )
    named = [line.split(" ", 1) for line in listed.stdout.splitlines()]
    return [name for name, job in named if job in jobs]


class Runner:
    """Runs tests one after another and closes with a line in the form of libtest."""

    def __init__(self):
        self.passed = 0
        self.failed = []

    def run(self, name, test):
        started = time.monotonic()
        try:
            result = test()
            if asyncio.iscoroutine(result):
                asyncio.run(asyncio.wait_for(result, timeout=120))
        except Exception:  # noqa: BLE001 - a failing test is a result
            traceback.print_exc()
            self.failed.append(name)
            print(f"test {name} ... FAILED", flush=True)
            return False
        self.passed += 1
        print(f"test {name} ... ok ({time.monotonic() - started:.1f} s)", flush=True)
        return True

    def close(self):
        word = "FAILED" if self.failed else "ok"
        print(f"\ntest result: {word}. {self.passed} passed; {len(self.failed)} failed; 0 ignored", flush=True)
        return 1 if self.failed else 0
