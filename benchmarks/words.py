"""How well the demo's texts are found: by meaning, by words, and by both.

    python -m benchmarks.words

Prints for the same questions the share of answers among the first, and the mean reciprocal rank
(MRR), and between which bounds the gain of words would be for nine of ten sets of such questions.
With the URL of a PostgreSQL database in POSTGRESQL_URL there, too.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import create_engine

from embeddings import Collection, migrate
from embeddings.testing import evaluate
from examples.stdlib import find_docstrings

if TYPE_CHECKING:
    from collections.abc import Sequence

PARAPHRASES = (
    ("copy a folder with everything in it", "shutil.copytree"),
    ("delete a folder and all that is inside", "shutil.rmtree"),
    ("how much free space is left on the drive", "shutil.disk_usage"),
    ("where is the executable of a program", "shutil.which"),
    ("pack a folder into a zip or tar file", "shutil.make_archive"),
    ("extract the files of an archive", "shutil.unpack_archive"),
    ("how wide is the terminal", "shutil.get_terminal_size"),
    ("create a directory and its parents", "os.makedirs"),
    ("go through all files in subfolders", "os.walk"),
    ("read an environment variable", "os.getenv"),
    ("the middle value of some numbers", "statistics.median"),
    ("the average of numbers", "statistics.mean"),
    ("how far values spread around their average", "statistics.stdev"),
    ("the value that occurs most often", "statistics.mode"),
    ("fit a straight line through points", "statistics.linear_regression"),
    ("a random string that is safe in a web address", "secrets.token_urlsafe"),
    ("mix up the order of a list", "random.shuffle"),
    ("pick several different elements at random", "random.sample"),
    ("a random whole number between two limits", "random.randint"),
    ("make the generator repeat the same random numbers", "random.seed"),
    ("derive a key from a password", "hashlib.pbkdf2_hmac"),
    ("checksum of an open file", "hashlib.file_digest"),
    ("remove the indentation that all lines share", "textwrap.dedent"),
    ("put a prefix before every line", "textwrap.indent"),
    ("cut a long text and end it with an ellipsis", "textwrap.shorten"),
    ("break a paragraph into lines of a width", "textwrap.wrap"),
    ("remember results of a function so that it is not computed twice", "functools.lru_cache"),
    ("keep the name and docstring of a decorated function", "functools.wraps"),
    ("the largest few elements", "heapq.nlargest"),
    ("combine sorted lists into one sorted list", "heapq.merge"),
    ("where to put an element so that a list stays sorted", "bisect.bisect_left"),
    ("turn an object into JSON text", "json.dumps"),
    ("parse JSON text", "json.loads"),
    ("duplicate an object with everything it refers to", "copy.deepcopy"),
    ("words that are spelled nearly the same", "difflib.get_close_matches"),
    ("show what lines differ between two texts", "difflib.unified_diff"),
    ("is this year a leap year", "calendar.isleap"),
    ("how many days does a month have", "calendar.monthrange"),
    ("replace what a regular expression finds", "re.sub"),
    ("all places where a pattern occurs in a text", "re.findall"),
    ("take the special meaning of characters in a pattern away", "re.escape"),
    ("run a program and get what it printed", "subprocess.check_output"),
    ("execute a shell command and get its status and output", "subprocess.getstatusoutput"),
    ("stop the program for some time", "time.sleep"),
    ("a clock that never goes backwards", "time.monotonic"),
    ("read a date from text by a format", "time.strptime"),
    ("a temporary folder", "tempfile.mkdtemp"),
    ("wait for several coroutines at once and collect their results", "asyncio.gather"),
    ("give up on a coroutine after some seconds", "asyncio.wait_for"),
    ("call a blocking function without blocking the event loop", "asyncio.to_thread"),
)
"""Questions in other words, and what answers them."""

MORE = (
    ("rename or move a file somewhere else", "shutil.move"),
    ("who owns this path, set another owner", "shutil.chown"),
    ("list the names in a folder", "posix.listdir"),
    ("which folder am I in", "posix.getcwd"),
    ("how many processors does the machine have", "posix.cpu_count"),
    ("split a path into folder and file name", "posixpath.split"),
    ("the last part of a path", "posixpath.basename"),
    ("does this file exist", "genericpath.exists"),
    ("choose one element by chance", "random.choice"),
    ("numbers from a bell curve", "random.gauss"),
    ("compare two secrets without leaking timing", "hmac.compare_digest"),
    ("rounding up to the next whole number", "math.ceil"),
    ("greatest number that divides both", "math.gcd"),
    ("length of the hypotenuse", "math.hypot"),
    ("convert an angle from degrees", "math.radians"),
    ("product of all values", "math.prod"),
    ("number of ways to choose k of n", "math.comb"),
    ("write objects to a file so that python can load them again", "pickle.dump"),
    ("shrink bytes", "zlib.compress"),
    ("open a gzipped file", "gzip.open"),
    ("put the smallest item at the front of a queue", "heapq.heapify"),
    ("sort order according to the local language", "locale.strxfrm"),
    ("print a stack trace of the latest exception", "traceback.print_exc"),
    ("print data structures nicely", "pprint.pprint"),
    ("schedule a function to be run when the interpreter ends", "atexit.register"),
    ("wrap a generator so that it can be used in a with statement", "contextlib.contextmanager"),
    ("ignore certain exceptions in a block", "contextlib.suppress"),
    ("fix some arguments of a function", "functools.partialmethod"),
    ("get the source code of an object", "inspect.getsource"),
    ("parameters of a callable", "inspect.signature"),
    ("load a module given its name as text", "importlib.import_module"),
    ("quote a string for the command line", "shlex.quote"),
    ("split a command line into arguments", "shlex.split"),
    ("open a page in the browser", "webbrowser.open"),
    ("escape characters for html", "html.escape"),
    ("take a web address apart", "urllib.parse.urlparse"),
    ("encode parameters for a query string", "urllib.parse.urlencode"),
    ("measure how long a snippet takes", "timeit.timeit"),
)
"""Others, written before they were asked once. By these `LEAST_REST` on PostgreSQL was chosen."""

OTHERS = (
    ("guess the type of a file from its name", "mimetypes.guess_type"),
    ("compare two files byte by byte", "filecmp.cmp"),
    ("pairs of neighbouring elements", "itertools.pairwise"),
    ("every ordering of some elements", "itertools.permutations"),
    ("repeat a sequence over and over without end", "itertools.cycle"),
    ("running totals", "itertools.accumulate"),
    ("the log of a number in base two", "math.log2"),
    ("are two floats almost equal", "math.isclose"),
    ("the square root rounded down", "math.isqrt"),
    ("the ratio as whole numbers of a float", "fractions.Fraction.from_float"),
    ("the weekday of a date", "datetime.date.weekday"),
    ("today's date", "datetime.date.today"),
    ("convert seconds since 1970 to local time", "time.localtime"),
    ("start a thread after a delay", "threading.Timer"),
    ("how many threads are running", "threading.active_count"),
    ("look for a module on the import path", "importlib.util.find_spec"),
    ("free memory that nobody refers to any more", "gc.collect"),
    ("the size of an object in bytes", "sys.getsizeof"),
    ("change how deep recursion may go", "sys.setrecursionlimit"),
    ("disassemble a function into bytecode", "dis.dis"),
    ("send an email to several recipients", "smtplib.SMTP.sendmail"),
    ("log in to an FTP server", "ftplib.FTP.login"),
    ("download a web page", "urllib.request.urlopen"),
    ("join a base address and a relative link", "urllib.parse.urljoin"),
    ("a random identifier", "uuid.uuid4"),
    ("turn binary data into text for transport", "base64.b64encode"),
    ("bytes as hexadecimal digits", "binascii.hexlify"),
    ("the name of the operating system", "platform.system"),
    ("the host name of this machine", "socket.gethostname"),
    ("read settings from an ini file", "configparser.RawConfigParser.read"),
    ("find out the separator of a csv file", "csv.Sniffer.sniff"),
    ("undo escaping of html", "html.unescape"),
    ("count how often each thing occurs", "collections.Counter"),
    ("a dictionary with default values for missing keys", "collections.defaultdict"),
    ("a list that is quick at both ends", "collections.deque"),
    ("a class that only holds data", "dataclasses.dataclass"),
    ("the annotated types of a function's parameters", "typing.get_type_hints"),
    ("the accented letter taken apart into letter and accent", "unicodedata.normalize"),
    ("the official name of a unicode character", "unicodedata.name"),
    ("replace one method for the duration of a test", "unittest.mock.patch"),
    ("find files by a pattern with stars", "glob.glob"),
    ("does a file name fit a shell pattern", "fnmatch.fnmatch"),
    ("lines of several files one after another", "fileinput.input"),
    ("put data into a queue and wait while it is full", "queue.Queue.put"),
    ("limit how many may enter at the same time", "threading.Semaphore"),
)
"""Others, written when all was chosen: nothing was chosen by them."""

IDENTIFIERS = tuple(
    (name.rpartition(".")[2], name)
    for name in (
        "shutil.copytree", "hashlib.pbkdf2_hmac", "os.makedirs", "textwrap.dedent",
        "functools.lru_cache", "heapq.heappushpop", "difflib.get_close_matches",
        "bisect.insort_left", "secrets.token_urlsafe", "socket.gethostbyname",
        "asyncio.run_coroutine_threadsafe", "calendar.monthrange",
    )
)  # fmt: skip
"""Names as questions."""


def main() -> None:
    texts = [(name, f"{name}: {text}") for name, (_, text) in find_docstrings()]
    with tempfile.TemporaryDirectory() as folder:
        show("SQLite", Path(folder) / "stdlib.db", texts)
    if url := os.environ.get("POSTGRESQL_URL"):
        engine = create_engine(url)
        migrate(engine)
        show("PostgreSQL", engine, texts)
        Collection("benchmark of words", engine).delete()
        engine.dispose()


def show(database: str, db: Any, texts: list[tuple[str, str]]) -> None:
    docs = Collection("benchmark of words", db, model_id="local")
    docs.create_text_index()
    docs.embed_multi(texts, batch_size=500)
    for name, questions in (
        ("questions", PARAPHRASES),
        ("other questions", MORE),
        ("questions by which nothing was chosen", OTHERS),
        ("questions, all of them", (*PARAPHRASES, *MORE, *OTHERS)),
        ("names", IDENTIFIERS),
    ):
        print(f"{database}, {len(texts)} docstrings, {len(questions)} {name}")
        judged = evaluate(docs, questions)
        low, middle, high = gains(judged.ways["vectors"].ranks, judged.ways["both"].ranks)
        print(judged)
        print(f"MRR of both: {middle:.2f} x that of vectors ({low:.2f} to {high:.2f})\n")
    docs.close()


def gains(before: Sequence[int | None], after: Sequence[int | None]) -> tuple[float, ...]:
    """Return the ratio of the MRRs, with its bounds in nine of ten sets of so many such questions.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979.
    """
    both = np.array([[1 / rank if rank else 0 for rank in ranks] for ranks in (before, after)])
    some = np.random.default_rng(7).integers(0, len(before), (5_000, len(before)))
    old, new = both[:, some].mean(axis=2)
    low, high = np.percentile(new / np.maximum(old, 1e-9), (5, 95))
    return float(low), float(both[1].mean() / both[0].mean()), float(high)


if __name__ == "__main__":
    main()
