"""Files from the network: mirrors, checksums, transfers that go on where they broke off."""

import gzip
import hashlib
import shutil
import tarfile
import textwrap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from fpt_lightning.errors import FPTError
from fpt_lightning.files import whole_file, whole_folder

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 18
LARGEST = 1 << 30
"""Bytes of a file: several times those of any task; a server that never ends must not fill the disk."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that lies, byte for byte the same, at one or more addresses.

    Args:
        name: What it is called here.
        urls: Its addresses, in the order in which they are tried.
        checksum: ``md5:`` or ``sha256:`` and the hexadecimal digest; nothing unverified is ever left under ``name``.

    Raises:
        ValueError: If there is no address or the checksum is of another kind.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str

    def __post_init__(self) -> None:
        kind, _, digest = self.checksum.partition(":")
        if {"md5": 32, "sha256": 64}.get(kind) != len(digest):
            raise ValueError(f"{self.name}: a checksum is md5:... or sha256:..., got {self.checksum!r}")
        if not self.urls:
            raise ValueError(f"{self.name}: no address")

    def digest(self, path: Path) -> str:
        """What the checksum of this kind would be if a path were the file."""
        kind = self.checksum.partition(":")[0]
        with path.open("rb") as content:
            return f"{kind}:{hashlib.file_digest(content, kind).hexdigest()}"


class TransferError(OSError):
    """A mirror answered, but not with the file."""


def fetch(file: RemoteFile, folder: Path) -> Path:
    """Brings a file into a folder, unless it is there.

    What has arrived waits in ``NAME.part`` until the whole is there and its checksum is right; a transfer that broke
    off, in this process or an earlier one, goes on behind it on the next mirror or the next call. Processes that ask
    for one file at a time wait for each other.

    Returns:
        The path of the file, its checksum verified.

    Raises:
        FPTError: If no mirror gives the file, the folder cannot be written, or another file is in its place.
    """
    from filelock import FileLock

    target = folder / file.name
    try:
        if not target.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{file.name}.lock"):
                if not target.is_file():  # no other process was faster
                    part = folder / f"{file.name}.part"
                    _complete(part, file)
                    return part.replace(target)
    except OSError as error:
        raise FPTError(f"{target} cannot be written: {error.strerror or error}") from error
    if (digest := file.digest(target)) != file.checksum:
        raise FPTError(f"{target} has {digest} where {file.checksum} is expected; delete it and run again")
    return target


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the files of a tar archive, compressed or not; one that would land outside the folder is refused.

    They move to their places when the whole archive has been read, so that an interruption leaves no half of them.
    Links are left out: data needs none.

    Raises:
        FPTError: If the archive is damaged, holds what it should not, or the folder cannot be written.
    """
    with _faults_named(archive, folder), whole_folder(folder) as part, tarfile.open(archive) as tar:
        tar.extractall(part, filter="data")


def decompress(archive: Path, target: Path) -> None:
    """Writes what a gzip file holds to another, whole or not at all.

    Raises:
        FPTError: If the archive is damaged or the file cannot be written.
    """
    with (
        _faults_named(archive, target),
        whole_file(target) as part,
        gzip.open(archive) as compressed,
        part.open("wb") as out,
    ):
        shutil.copyfileobj(compressed, out)


@contextmanager
def _faults_named(archive: Path, target: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = textwrap.shorten(str(error), 120)
        raise FPTError(f"{archive} cannot be unpacked ({reason}); delete it and run again") from error
    except OSError as error:
        raise FPTError(f"{archive} cannot be unpacked into {target}: {error.strerror or error}") from error


def _complete(part: Path, file: RemoteFile) -> None:
    """Fetches what is missing of a file, from the first mirror that has it."""
    if part.is_file() and file.digest(part) == file.checksum:  # an earlier process ended before it was renamed
        return None
    reasons = []
    for url in file.urls:
        try:
            return _complete_from(url, part, file)
        except TransferError as error:
            reasons.append(f"{url} ({textwrap.shorten(str(error), 120)})")
    raise FPTError(
        f"{file.name} could not be fetched: {'; '.join(reasons)}.\n"
        f"Run again to go on, or put the file into {part.parent} by hand."
    )


def _complete_from(url: str, part: Path, file: RemoteFile) -> None:
    continued = _transfer(url, part)
    if file.digest(part) == file.checksum:
        return
    part.unlink()
    if not continued:
        raise TransferError(f"not the file: its {file.checksum.partition(':')[0]} is another")
    _complete_from(url, part, file)  # what was there before was not this file's beginning


def _transfer(url: str, part: Path) -> bool:
    """Appends what is missing of a file to its part, or writes it anew where the server cannot skip.

    Returns:
        Whether what was there before is still its beginning.
    """
    from tqdm import tqdm

    start = part.stat().st_size if part.is_file() else 0
    response = _ask(url, start)
    if response is None:
        return True
    with response:
        continued = start > 0 and response.status == HTTPStatus.PARTIAL_CONTENT
        total = None if response.length is None else response.length + start * continued
        with (
            part.open("ab" if continued else "wb") as out,
            # disable=None: no bar where nobody watches
            tqdm(total=total, initial=out.tell(), desc=part.stem, unit="B", unit_scale=True, disable=None) as bar,
        ):
            for chunk in _chunks(response):
                out.write(chunk)
                bar.update(len(chunk))
                if out.tell() > LARGEST:
                    out.truncate(0)
                    raise TransferError(f"not the file: it has more than {LARGEST:,} bytes")
            arrived = out.tell()
    if total is not None and arrived < total:
        raise TransferError(f"broke off at {arrived:,} of {total:,} bytes")
    return continued


def _ask(url: str, start: int) -> HTTPResponse | None:
    """Asks for a file from a byte on; None where the server says that nothing lies behind it."""
    headers = {"User-Agent": "fpt-lightning"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if start and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise TransferError(f"{error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise TransferError(str(getattr(error, "reason", error))) from error
    return response


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK_BYTES):
            yield chunk
    except (OSError, HTTPException) as error:
        raise TransferError(f"broke off: {error}") from error
