"""Writing files: complete or not at all, and every failure in one line that names the file."""

import errno
import os
from pathlib import Path

import pytest

from ditf.errors import UserError, describe_os_error, exit_on_error
from ditf.files import (
    Hashes,
    exclusive,
    link,
    publish,
    remove_folder,
    remove_partials,
    reporting_write_errors,
    sha256_of,
    warning_if_unwritable,
    write_atomically,
)


def test_a_file_is_replaced_completely(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_atomically(path, b"1")
    write_atomically(path, b"2")
    assert path.read_bytes() == b"2"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("x" * 255), b"1")
    with pytest.raises(UserError, match=r"x: File name too long\. Use a shorter name\.$"):
        write_atomically(tmp_path / ("x" * 256), b"1")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "below"
    refused = pytest.raises(UserError, match=r"file.*: (Not a directory|File exists)")
    with refused:
        write_atomically(below / "x", b"")
    with refused:
        publish(tmp_path, below / "x")
    with refused:
        link(tmp_path / "file", below)
    with refused, exclusive(below / "x"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_every_error_of_the_system_becomes_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=rf"out: {os.strerror(number)}\."), reporting_write_errors("out"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(UserError, match=r"out/table: "), reporting_write_errors("out"):
        raise OSError(number, os.strerror(number), "out/table")

    @exit_on_error
    def command() -> None:
        raise OSError(number, os.strerror(number), "out/table")

    with pytest.raises(SystemExit) as caught:
        command()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: out/table: {os.strerror(number)}.")


def test_an_error_of_a_library_without_its_file_names_the_path() -> None:
    error = OSError("Failed to open local file 'a/b.parquet'. Detail: [errno 13] Permission denied")
    error.errno = errno.EACCES  # as pyarrow sets it
    assert describe_os_error(error, "a").startswith("a: Permission denied. Change its permissions")


def test_a_folder_that_cannot_be_removed_is_named(tmp_path: Path) -> None:
    remove_folder(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: Not a directory"):
        remove_folder(tmp_path / "file")


def test_what_lies_beside_a_result_only_warns(capsys: pytest.CaptureFixture[str]) -> None:
    with warning_if_unwritable("drawing.png"):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    assert capsys.readouterr().err.startswith("warning: drawing.png: Read-only file system.")


def test_a_folder_is_published_by_links_and_replaces_the_old_one(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "out" / "store"
    (source / "a").mkdir(parents=True)
    (source / "a" / "b").write_text("new")
    for _ in range(2):
        publish(source, output)
        (output / "old").write_text("")
    publish(source, output)
    assert [p.name for p in output.iterdir()] == ["a"]
    assert (output / "a" / "b").samefile(source / "a" / "b")
    assert [p.name for p in output.parent.iterdir()] == ["store"]


def test_an_interrupted_publication_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    (source / "x").write_text("new")
    publish(source, output)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.link", full)
    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(UserError, match="No space left on device"):
        publish(source, output)
    assert (output / "x").read_text() == "new"


def test_only_one_process_works_in_a_folder(tmp_path: Path) -> None:
    again = pytest.raises(UserError, match="another process is computing this")
    with exclusive(tmp_path / "work"), again, exclusive(tmp_path / "work"):
        pass
    with exclusive(tmp_path / "work"):
        pass


def test_partial_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".x.partial").write_text("")
    (tmp_path / "a" / "x").write_text("")
    remove_partials(tmp_path)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x"]


def test_hashes_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file, memory = tmp_path / "weights", tmp_path / "hashes.json"
    file.write_bytes(b"1")
    first = Hashes(memory).of(file)
    assert first == sha256_of(file) == Hashes(memory).of(file)
    file.write_bytes(b"22")
    assert Hashes(memory).of(file) == sha256_of(file) != first
    assert Hashes(tmp_path / "weights" / "below").of(file) == sha256_of(file)  # a memory that cannot be written
