import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fpt_lightning.data.download import CHUNK_BYTES, RemoteFile, fetch, unpack
from fpt_lightning.errors import FPTError

CONTENT = bytes(range(256)) * 4096  # a few chunks
NOWHERE = "http://127.0.0.1:9/data.bin"
assert len(CONTENT) > 2 * CHUNK_BYTES


@dataclass
class Mirror:
    """One address: what it holds, whether it can skip, where it hangs up, and what it was asked for."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    hangs_up_at: int | None = None
    chunked: bool = False
    status: int | None = None
    asked: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)


Serve = Callable[..., Mirror]


@pytest.fixture
def serve() -> Iterator[Serve]:
    mirrors: list[Mirror] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            mirror = mirrors[int(self.path.split("/")[1])]
            mirror.asked.append(self.headers["Range"])
            wanted = self.headers["Range"] if mirror.ranges else None
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            if start >= len(mirror.content):
                self.send_error(416)
                return
            self.send_response(mirror.status or (206 if wanted else 200))
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(mirror.content) - 1}/{len(mirror.content)}")
            self.send_header("Connection", "close")
            self.close_connection = True
            body = mirror.content[start : mirror.hangs_up_at]
            mirror.sent.append(len(body))
            if mirror.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")
                if mirror.hangs_up_at is None:
                    self.wfile.write(b"0\r\n\r\n")
            else:
                self.send_header("Content-Length", str(len(mirror.content) - start))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def add(**options: object) -> Mirror:
        mirrors.append(Mirror(**options))  # type: ignore[arg-type]
        mirrors[-1].url = f"http://127.0.0.1:{server.server_address[1]}/{len(mirrors) - 1}/data.bin"
        return mirrors[-1]

    yield add
    server.shutdown()
    server.server_close()


def _file(*places: Mirror | str, content: bytes = CONTENT, kind: str = "md5") -> RemoteFile:
    urls = tuple(place if isinstance(place, str) else place.url for place in places)
    return RemoteFile("data.bin", urls, f"{kind}:{hashlib.new(kind, content).hexdigest()}")


@pytest.mark.parametrize("kind", ["md5", "sha256"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_is_fetched_once(serve: Serve, tmp_path: Path, kind: str, chunked: bool) -> None:
    mirror = serve(chunked=chunked)
    for _ in range(2):
        path = fetch(_file(mirror, kind=kind), tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "data.bin"
    assert path.read_bytes() == CONTENT
    assert mirror.asked == [None]
    assert not list(path.parent.glob("*.part"))


def test_mirrors_are_tried_in_order(serve: Serve, tmp_path: Path) -> None:
    wrong, right, unused = serve(content=b"<html>moved</html>"), serve(), serve()
    assert fetch(_file(NOWHERE, wrong, right, unused), tmp_path).read_bytes() == CONTENT
    assert (wrong.asked, right.asked, unused.asked) == ([None], [None], [])


@pytest.mark.parametrize("chunked", [False, True])
def test_a_broken_transfer_goes_on_with_the_missing_bytes_only(serve: Serve, tmp_path: Path, chunked: bool) -> None:
    mirror = serve(hangs_up_at=700_001, chunked=chunked)
    with pytest.raises(FPTError, match="broke off"):
        fetch(_file(mirror), tmp_path)
    assert not (tmp_path / "data.bin").exists()
    arrived = (tmp_path / "data.bin.part").stat().st_size
    assert 0 < arrived <= 700_001
    mirror.hangs_up_at, mirror.chunked = None, False
    assert fetch(_file(mirror), tmp_path).read_bytes() == CONTENT
    assert mirror.asked == [None, f"bytes={arrived}-"]
    assert mirror.sent[1] == len(CONTENT) - arrived


def test_the_next_mirror_goes_on_where_the_last_broke_off(serve: Serve, tmp_path: Path) -> None:
    broken, whole = serve(hangs_up_at=600_000), serve()
    assert fetch(_file(broken, whole), tmp_path).read_bytes() == CONTENT
    assert whole.asked == ["bytes=600000-"]


def test_a_server_that_cannot_skip_sends_everything_again(serve: Serve, tmp_path: Path) -> None:
    mirror = serve(ranges=False)
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    assert fetch(_file(mirror), tmp_path).read_bytes() == CONTENT
    assert mirror.asked == ["bytes=1000-"]
    assert mirror.sent == [len(CONTENT)]


@pytest.mark.parametrize("part", [b"x", b"what it should bE", b"what it should be and more"])
def test_a_part_that_is_not_the_beginning_is_thrown_away(serve: Serve, tmp_path: Path, part: bytes) -> None:
    mirror = serve(content=b"what it should be")
    (tmp_path / "data.bin.part").write_bytes(part)
    assert fetch(_file(mirror, content=mirror.content), tmp_path).read_bytes() == mirror.content
    assert mirror.asked == [f"bytes={len(part)}-", None]


def test_a_part_that_is_the_whole_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert fetch(_file(NOWHERE), tmp_path).read_bytes() == CONTENT


def test_when_every_mirror_fails_each_is_named_with_its_reason(serve: Serve, tmp_path: Path) -> None:
    wrong, empty = serve(content=b"something else"), serve(content=b"")
    with pytest.raises(FPTError) as failure:
        fetch(_file(NOWHERE, wrong, empty), tmp_path)
    first, second = str(failure.value).splitlines()
    assert f"{NOWHERE} (" in first
    assert f"{wrong.url} (not the file: its md5 is another)" in first
    assert f"{empty.url} (416 " in first
    assert second == f"Run again to go on, or put the file into {tmp_path} by hand."
    assert not (tmp_path / "data.bin").exists()


def test_another_file_in_its_place_is_left_alone(serve: Serve, tmp_path: Path) -> None:
    mirror = serve()
    (tmp_path / "data.bin").write_bytes(b"mine")
    with pytest.raises(FPTError, match=r"data.bin has md5:\w+ where md5:\w+ is expected; delete it"):
        fetch(_file(mirror), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"mine"
    assert mirror.asked == []


def test_those_who_ask_together_fetch_once(serve: Serve, tmp_path: Path) -> None:
    mirror = serve()
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(_file(mirror), tmp_path), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert mirror.asked == [None]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FPTError, match=r"file/folder/data\.bin cannot be written: Not a directory"):
        fetch(_file(NOWHERE), tmp_path / "file" / "folder")


@pytest.mark.parametrize("begun", [b"", b"something else"])
def test_a_server_that_always_says_that_it_goes_on_is_left(serve: Serve, tmp_path: Path, begun: bytes) -> None:
    other = serve(content=CONTENT[::-1], status=206)
    (tmp_path / "data.bin.part").write_bytes(begun)
    with pytest.raises(FPTError, match="not the file: its md5 is another"):
        fetch(_file(other), tmp_path)
    assert len(other.asked) <= 2


def test_a_server_that_never_ends_is_left(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpt_lightning.data.download.LARGEST", 2 * CHUNK_BYTES)
    with pytest.raises(FPTError, match="not the file: it has more than 524,288 bytes"):
        fetch(_file(serve(chunked=True)), tmp_path)
    assert not (tmp_path / "data.bin.part").stat().st_size


@pytest.mark.parametrize("checksum", ["md5:abc", "crc32:12345678", "0" * 32])
def test_a_checksum_of_another_kind_is_refused(checksum: str) -> None:
    with pytest.raises(ValueError, match="md5:"):
        RemoteFile("data.bin", (NOWHERE,), checksum)


def _tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_an_archive_is_unpacked_beside_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").write_text("old")
    unpack(_tar(tmp_path / "a.tar.gz", {"set/deep/new": b"new", "top": b"top"}), tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"a.tar.gz", "set/old", "set/deep/new", "top"}
    assert (tmp_path / "set/deep/new").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["../escaped", "set/../../escaped"])
def test_nothing_is_unpacked_outside_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(FPTError, match=r"a\.tar\.gz cannot be unpacked"):
        unpack(_tar(tmp_path / "a.tar.gz", {"first": b"", name: b""}), folder)
    assert not list(folder.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "a.tar.gz"}


def test_an_absolute_path_is_taken_as_one_below_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    escaped = tmp_path / "escaped"
    unpack(_tar(tmp_path / "a.tar.gz", {str(escaped): b""}), folder)
    assert not escaped.exists()
    assert (folder / escaped.relative_to("/")).is_file()


def test_links_are_left_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "a.txt"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("a.txt"))
    unpack(tmp_path / "a.tar", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "a.txt"}


@pytest.mark.parametrize("keep", [0, 10, 60, -100])
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, keep: int) -> None:
    archive = _tar(tmp_path / "a.tar.gz", {"set/file": os.urandom(5000)})
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(FPTError, match=r"a\.tar\.gz cannot be unpacked \(.*\); delete it"):
        unpack(archive, tmp_path)
    assert list(tmp_path.iterdir()) == [archive]
