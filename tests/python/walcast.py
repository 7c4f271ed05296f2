"""Runs the real program, `walcast dev`, in a folder of its own."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import asyncpg

PROJECT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("WALCAST_BIN") or PROJECT / "target/debug/walcast"
END_WITHIN_S = 30


class Walcast:
    """A running server. `url`, keys and the address of Postgres are as it printed them."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="walcast-test-")
        # The account that runs Postgres may have to enter it, also where root runs the tests.
        os.chmod(self._folder.name, 0o755)
        self._log = tempfile.TemporaryFile()
        self._launch(port=0)

    def _launch(self, port):
        version = os.environ.get("WALCAST_TEST_PG")
        command = [PROGRAM, "dev", "--json", "--port", str(port), "--data", self._folder.name]
        # The server ends when its input does, so also when these tests are killed.
        self._process = subprocess.Popen(
            command + (["--postgres", version] if version else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(END_WITHIN_S)
            self._log.seek(0)
            raise RuntimeError(f"walcast dev ended: {self._log.read().decode()}")
        printed = json.loads(line)
        self.url = printed["url"]
        self.anon_key = printed["anon_key"]
        self.service_key = printed["service_key"]
        self._jwt_secret = printed["jwt_secret"]
        self._database_url = printed["database_url"]

    @property
    def realtime_url(self):
        """What supabase-py gives to realtime-py."""
        return f"{self.url}/realtime/v1"

    def _end(self, how):
        self._process.send_signal(how)
        self._process.communicate(timeout=END_WITHIN_S)

    def crash_and_restart(self):
        """Ends the server at once, and starts it at the same place."""
        self._end(signal.SIGKILL)
        self._launch(port=self.url.rsplit(":", 1)[1])

    def stop(self):
        """Ends the server as Ctrl-C does."""
        self._end(signal.SIGINT)
        self._log.close()
        self._folder.cleanup()

    async def sql(self, statement, *values):
        """Rows of a statement, run as the superuser."""
        connection = await asyncpg.connect(self._database_url)
        try:
            return await connection.fetch(statement, *values)
        finally:
            await connection.close()

    def run_script(self, script):
        """Runs statements without values, as the superuser. Not for use in a coroutine."""

        async def run():
            connection = await asyncpg.connect(self._database_url)
            try:
                await connection.execute(script)
            finally:
                await connection.close()

        asyncio.run(run())

    def user_token(self, sub, **claims):
        """A token of a signed-in user, good for an hour unless `exp` says otherwise."""
        now_s = int(time.time())
        return self.sign({"role": "authenticated", "sub": sub, "iat": now_s, "exp": now_s + 3600, **claims})

    def sign(self, claims):
        """A token with these claims and no others."""

        def part(value):
            return base64.urlsafe_b64encode(value).rstrip(b"=")

        header = {"alg": "HS256", "typ": "JWT"}
        signed = b".".join(part(json.dumps(value).encode()) for value in (header, claims))
        digest = hmac.new(self._jwt_secret.encode(), signed, hashlib.sha256).digest()
        return (signed + b"." + part(digest)).decode()
