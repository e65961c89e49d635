"""`load`: which source is taken, what is said about it, and the download, from a server in this process."""

import dataclasses
import hashlib
import http.server
import io
import os
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import cifar_files as made
from triptych.cifar10 import DataError, generated, load, pickles
from triptych.cifar10.download import download
from triptych.cifar10.official import CIFAR10
from triptych.cifar10.sources import DATA_DIR_VARIABLE, load_official

ARRAYS = made.tiny_arrays()
FILES = made.batch_files(ARRAYS, "python")


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one archive, in the way the path asks for."""

    content = b""

    def do_GET(self):
        match self.path:
            case "/gone":
                self.send_error(404)
                return
            case "/silent":
                time.sleep(1.5)
                return
            case "/nonsense":
                self.wfile.write(b"this is not HTTP\r\n\r\n")
                return
        self.send_response(200)
        if self.path != "/unannounced":
            announced = 10**12 if self.path == "/huge" else len(self.content)
            self.send_header("Content-Length", str(announced))
        self.end_headers()
        if self.path != "/huge":
            self.wfile.write(self.content[: 500 if self.path == "/short" else None])

    def log_message(self, format, *arguments):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = made.write_archive(tmp_path_factory.mktemp("served") / "cifar-10-python.tar.gz", FILES)
    Handler.content = path.read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No data of the user's, no proxy, and an empty working directory."""
    monkeypatch.delenv("TRIPTYCH_DATA_DIR", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def small_stand_in(monkeypatch):
    """The stand-in in small, as making the whole takes seconds."""
    whole = generated.generate
    monkeypatch.setattr(generated, "generate", lambda: whole(0, 50, 10))


def official(server: str, path: str = "/good"):
    content = Handler.content
    return made.tiny_official(
        FILES,
        url=server + path,
        archive_md5=hashlib.md5(content).hexdigest(),
        archive_sha256=hashlib.sha256(content).hexdigest(),
    )


def run(dataset: str, data_dir: Path | None, facts, timeout: float = 5.0):
    said: list[str] = []
    return load_official(dataset, data_dir, timeout, said.append, facts), said


@pytest.mark.parametrize("path", ["/good", "/unannounced"])
def test_download_then_read_then_read_again_without_network(server, tmp_path, path):
    folder = tmp_path / "new" / "folder"
    data, said = run("cifar10", folder, official(server, path))
    made.assert_same(data, ARRAYS)
    assert data.notices == ()
    assert len(said) == 1
    assert "downloading" in said[0]
    assert [p.name for p in folder.iterdir()] == ["cifar-10-python.tar.gz"]
    again, said = run("cifar10", folder, made.tiny_official(FILES))
    assert again.fingerprint == data.fingerprint
    assert said == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/gone", "Not Found"),
        ("/silent", "timed out|no answer"),
        ("/nonsense", "this is not HTTP"),
        ("/huge", "announces 1000000000000"),
        ("/short", "connection ended after 500"),
    ],
)
def test_failed_download_says_why_and_leaves_nothing(server, tmp_path, path, said):
    begin = time.monotonic()
    with pytest.raises(DataError, match=said) as caught:
        download(tmp_path / "to", 0.5, official(server, path))
    assert time.monotonic() - begin < 1.4
    assert "\n" not in str(caught.value)
    assert server + path in str(caught.value)
    assert "--data-dir" in str(caught.value)
    assert not (tmp_path / "to").exists() or not list((tmp_path / "to").iterdir())


@pytest.mark.parametrize("wrong", ["archive_md5", "archive_sha256"])
def test_wrong_checksum_is_refused(server, tmp_path, wrong):
    facts = dataclasses.replace(official(server), **{wrong: "0" * 8})
    with pytest.raises(DataError, match="expected MD5"):
        download(tmp_path, 5.0, facts)
    assert list(tmp_path.glob("*.gz")) == list(tmp_path.glob(".cifar*")) == []


def test_download_grows_no_further_than_the_cap(server, tmp_path):
    facts = made.tiny_official(FILES, url=server + "/unannounced", archive_bytes=1000)
    with pytest.raises(DataError, match="expected at most 1000 bytes, got more"):
        download(tmp_path, 5.0, facts)


def test_refused_connection_fails_at_once(tmp_path):
    with pytest.raises(DataError, match="refused"):
        download(tmp_path, 5.0, made.tiny_official(url="http://127.0.0.1:1/x"))


def test_slow_name_lookup_is_given_up(tmp_path, monkeypatch):
    # Looking up a name obeys no socket time-out, so a slow opener stands in for it.
    def slow(url, timeout):
        time.sleep(1)
        return io.BytesIO()

    monkeypatch.setattr(urllib.request, "urlopen", slow)
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"no answer within 0\.2 seconds"):
        download(tmp_path, 0.2, made.tiny_official())
    assert time.monotonic() - begin < 0.8


def test_download_into_an_impossible_folder(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="download failed"):
        download(tmp_path / "file" / "folder", 5.0, official(server))


def test_data_dir_before_environment_before_working_directory(tmp_path, monkeypatch):
    for number, place in enumerate(("cwd/data", "environment", "argument")):
        arrays = made.tiny_arrays(seed=number)
        made.write_folder(tmp_path / place / "cifar-10-batches-py", made.batch_files(arrays, "python"))
    facts = made.tiny_official()
    made.assert_same(run("auto", None, facts)[0], made.tiny_arrays(seed=0))
    monkeypatch.setenv("TRIPTYCH_DATA_DIR", str(tmp_path / "environment"))
    made.assert_same(run("auto", None, facts)[0], made.tiny_arrays(seed=1))
    made.assert_same(run("auto", tmp_path / "argument", facts)[0], made.tiny_arrays(seed=2))


def test_notices_are_reported(tmp_path):
    data, said = run("auto", made.write_folder(tmp_path / "d", FILES), made.tiny_official())
    assert said == [f"notice: {data.notices[0]}"]


@pytest.mark.parametrize("named", ["none", "."])
def test_a_folder_that_was_named_never_gives_way_to_generated_images(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"expected CIFAR-10 there .* --dataset generated"):
        run("auto", Path(named), made.tiny_official())
    monkeypatch.setenv(DATA_DIR_VARIABLE, named)
    with pytest.raises(DataError, match="expected CIFAR-10 there"):
        run("auto", None, made.tiny_official())


def test_auto_without_data_or_network_is_loud(tmp_path, monkeypatch, small_stand_in):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)
    data, said = run("auto", None, made.tiny_official())
    assert data.source == "generated"
    banner = said[-1]
    assert data.notices == (banner,)
    lines = banner.strip().splitlines()
    assert len(lines) > 6
    assert len(set(map(len, lines))) == 1
    assert lines[0] == lines[-1] == "!" * len(lines[0])
    assert "NOT CIFAR-10" in banner
    assert "refused" in banner
    assert not Path("data").exists()


def test_cifar10_never_takes_the_stand_in(tmp_path):
    with pytest.raises(DataError, match="--dataset generated"):
        run("cifar10", tmp_path, made.tiny_official())


@pytest.mark.parametrize("dataset", ["auto", "cifar10"])
def test_broken_or_no_data_is_an_error_and_stays_as_it_is(server, tmp_path, dataset):
    made.write_folder(tmp_path / "cifar-10-batches-py", {"data_batch_1": b""})
    (tmp_path / "notes.txt").write_text("hello")
    before = sorted(tmp_path.rglob("*"))
    for path, said in ((".", "data_batch_1"), ("notes.txt", "notes.txt"), ("lost.tar.gz", "lost.tar.gz")):
        with pytest.raises(DataError, match=said):
            run(dataset, tmp_path / path, official(server))
    assert sorted(tmp_path.rglob("*")) == before


def test_generated_needs_no_data(tmp_path, small_stand_in):
    data, said = run("generated", tmp_path, made.tiny_official())
    assert (data.source, data.notices, said) == ("generated", (), [])
    made.assert_same(data, generated.generate())


def test_unknown_dataset_names_the_choices():
    with pytest.raises(DataError, match=r"auto, cifar10, torchvision, tfds, generated.*'mnist'"):
        load("mnist")


def test_notices_go_to_stderr_by_default(tmp_path, monkeypatch, capsys, small_stand_in):
    monkeypatch.setattr("triptych.cifar10.sources.CIFAR10", made.tiny_official())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)
    load("auto")
    out, err = capsys.readouterr()
    assert out == ""
    assert "THIS IS NOT CIFAR-10" in err


def test_a_notice_is_given_once_for_each_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("triptych.cifar10.sources.CIFAR10", made.tiny_official())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = [made.write_folder(tmp_path / name, FILES) for name in ("a", "b")]
    said = []
    for folder in (folders[0], folders[0], folders[1]):
        assert len(load("cifar10", folder).notices) == 1
        said.append(capsys.readouterr().err.count("notice: an unofficial copy of CIFAR-10"))
    assert said == [1, 0, 1]


def test_unreadable_file_is_no_traceback(tmp_path):
    folder = made.write_folder(tmp_path / "d", FILES)
    (folder / "data_batch_3").chmod(0)
    if os.access(folder / "data_batch_3", os.R_OK):
        pytest.skip("this user reads everything")
    with pytest.raises(DataError, match="data_batch_3"):
        run("cifar10", folder, made.tiny_official())


def test_a_file_of_the_official_size_is_read():
    """The shipped facts: 10,000 rows a file."""
    images, labels, *_ = generated.generate(train=CIFAR10.rows, test=0)
    content = made.python_batch(images, labels, made.TITLES[0])
    assert len(content) < CIFAR10.file_bytes
    read, numbers, _ = pickles.parse(content, "data_batch_1", CIFAR10.rows)
    np.testing.assert_array_equal(read, images, strict=True)
    np.testing.assert_array_equal(numbers, labels, strict=True)


@pytest.mark.slow
def test_files_of_the_official_size_through_load(tmp_path):
    arrays = generated.generate()
    made.write_folder(tmp_path / "cifar-10-batches-py", made.batch_files(arrays, "python"))
    data = load("cifar10", tmp_path, report=lambda _: None)
    np.testing.assert_array_equal(data.train_images, arrays[0])
    made.assert_same(data, arrays)
    assert "6 of 6" in data.notices[0]
