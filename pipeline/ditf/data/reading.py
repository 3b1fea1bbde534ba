"""List and read the files of a data set. All data sets go through this module, so that all treat files alike.

- Hidden files, such as `.DS_Store` and macOS's `._name`, are left out. Links are followed.
- Files that are left out are counted and reported with the reason.
- A name in a list finds its file if the two differ only in Unicode normalization or in the case of the suffix.
- Text may start with a byte-order mark.
- All problems of a data set are collected, and ten of them are printed.
"""

import codecs
import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel, ValidationError
from tqdm import tqdm

from ditf.data.images import SUFFIX_REMEDIES, ImageFile, inspect, printable, read_bytes
from ditf.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=BaseModel)

MAX_LINES = 10  # problems or warnings that are printed
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
SYSTEM_FILES = {"__macosx", "thumbs.db", "desktop.ini"}  # left out like hidden files


class DatasetReader:
    """Lists and reads the files of a data set, and collects what is wrong with them.

    Args:
        root: The data set's folder.
        skip_unreadable: Report unreadable files as warnings instead of problems.
        remedy: Sentence that is printed below problems if files are unreadable.

    Attributes:
        root: The data set's folder.
        problems: Lines about what makes the data set unusable.
        warnings: Rows of the catalog's table `warnings`.
    """

    def __init__(self, root: Path | str, skip_unreadable: bool = False, remedy: str = "") -> None:
        self.root = Path(root)
        self.skip_unreadable = skip_unreadable
        self.remedy = remedy
        self.problems: list[str] = []
        self.warnings: list[dict[str, str]] = []
        self._left_out: dict[str, list[Path]] = {}
        self._names: dict[Path, dict[str, str]] = {}
        self._has_unreadable = False

    def problem(self, where: Path | str, what: str) -> None:
        """Add a problem."""
        self.problems.append(f"{printable(where)}: {what}")

    def warn(self, where: Path | str, what: str) -> None:
        """Add a warning."""
        self.warnings.append({"file": printable(where), "warning": what})

    def leave_out(self, path: Path, reason: str) -> None:
        """Count a file that is left out. Files with the same reason are reported together."""
        self._left_out.setdefault(reason, []).append(path)

    def attempt(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Call a function. If it raises `UserError`, add a problem and return None."""
        try:
            return work(*args, **kwargs)
        except UserError as error:
            self.problems += str(error).split("\n")
            return None

    def raise_problems(self) -> None:
        """Raise `UserError` if there are problems. Its message lists the first ten and says how many there are."""
        if not self.problems:
            return
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        remedy = f" {self.remedy}" if self._has_unreadable and self.remedy else ""
        summary = f"{printable(self.root)}: {count} in the data set; nothing was written.{remedy}"
        raise UserError("\n".join([*first_lines(self.problems), summary]))

    def finish(self) -> list[dict[str, str]]:
        """Raise the problems, if there are any; return the rows of the catalog's table `warnings`."""
        self.raise_problems()
        left_out = []
        for reason, paths in self._left_out.items():
            names = ", ".join(self.relative(path) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
            count = "1 file" if len(paths) == 1 else f"{len(paths)} files"
            left_out.append({"file": printable(self.root), "warning": f"{count} left out: {reason} ({names})"})
        return left_out + self.warnings

    def relative(self, path: Path) -> str:
        """Return a path relative to the root, with "/" between folders."""
        return printable(path.relative_to(self.root).as_posix())

    def files(
        self,
        folder: Path,
        suffixes: Collection[str],
        recursive: bool = False,
        used: Collection[Path] = (),
    ) -> list[Path]:
        """Return the files of a folder that have one of the suffixes, sorted.

        Args:
            folder: Folder to list. Links are followed.
            suffixes: Accepted suffixes in lower case, such as ".jpg". Files may have them in any case.
            recursive: Whether to list subfolders as well.
            used: Files that the data set reads otherwise; they are not listed.
        """
        if not folder.is_dir():
            return []
        skipped = {path.absolute() for path in used}
        files: list[Path] = []

        def walk(folder: Path, ancestors: frozenset[tuple[int, int]]) -> None:
            try:
                with os.scandir(folder) as listing:
                    entries = list(listing)
            except OSError as error:
                self._unreadable(folder, f"cannot be read ({error.strerror}). Change its permissions.")
                return
            for entry in entries:
                path = folder / entry.name
                suffix = path.suffix.lower()
                if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FILES:
                    self.leave_out(path, "hidden")
                elif printable(entry.name) != entry.name:
                    self._unreadable(path, "its name is not UTF-8. Rename it.")
                elif _is_folder(entry):
                    status = entry.stat()
                    identity = (status.st_dev, status.st_ino)
                    if recursive and identity in ancestors:
                        self.leave_out(path, "link to a folder above it")
                    elif recursive:
                        walk(path, ancestors | {identity})
                elif skipped and path.absolute() in skipped:
                    continue
                elif suffix not in suffixes:
                    default = f"not {', '.join(sorted(suffixes))}" if len(suffixes) < 6 else "not an image"
                    self.leave_out(path, SUFFIX_REMEDIES.get(suffix, default))
                elif path.is_file():
                    files.append(path)
                elif path.is_symlink():
                    self._unreadable(path, f"links to {printable(path.readlink())}, which does not exist. Restore it.")
                else:
                    self.leave_out(path, "not a regular file")

        status = folder.stat()
        walk(folder, frozenset({(status.st_dev, status.st_ino)}))
        return sorted(files)

    def locate(self, name: str, folder: Path | None = None) -> Path:
        """Return the path of a file that an annotation or a setting names.

        Args:
            name: Path relative to the root.
            folder: Folder that the name is relative to, instead of the root.

        Returns:
            The path. If no file has exactly this name, one whose name differs only in Unicode normalization or in the
            case of its suffix; if there is none either, the path as named.

        Raises:
            UserError: The name leads out of the folder. Links inside the folder may lead anywhere.
        """
        base = self.root if folder is None else folder
        relative = Path(os.path.normpath(name))
        if relative.is_absolute() or relative.parts[:1] == ("..",) or "\0" in name:
            raise UserError(
                f"{printable(base)}: the name {name!r} leads out of the data set. Use names inside its folder."
            )
        path = base / relative
        return path if _exists(path) else self._similar(base, relative.parts) or path

    def images(self, paths: Iterable[Path], annotated: bool = True) -> dict[Path, ImageFile]:
        """Decode and hash images, several at once. Unreadable ones become problems.

        Args:
            paths: The images.
            annotated: Whether annotations refer to their pixels. If so, images that are turned by their EXIF
                orientation are reported, since annotations must refer to the upright image.

        Returns:
            The readable images by path, in the given order.
        """

        def look(path: Path) -> ImageFile | UserError:
            try:
                return inspect(path)
            except UserError as error:
                return error

        paths = list(dict.fromkeys(paths))
        images: dict[Path, ImageFile] = {}
        with ThreadPoolExecutor() as pool:
            results = tqdm(pool.map(look, paths), "images", len(paths), unit="image", delay=1)
            for path, result in zip(paths, results, strict=True):
                if isinstance(result, UserError):
                    self._unreadable(path, str(result).removeprefix(f"{printable(path)}: "))
                    continue
                images[path] = result
                if annotated and result.orientation > 1:
                    text = f"its EXIF orientation ({result.orientation}) turns it; annotations must refer to it upright"
                    self.warn(path, text)
        return images

    def check_names(self, names: Collection[str], known: Collection[str], where: Path, what: str) -> None:
        """Add a problem if no name of a file is known, which shows one name of each side.

        Args:
            names: Names in the file.
            known: Names that the data set has.
            where: The file.
            what: Description of the names, such as "keys".
        """
        if names and known and not set(names) & set(known):
            text = f"none of its {len(names)} {what} is one of the data set's. It has {min(names)!r}; "
            self.problem(where, text + f"the data set has {min(known)!r}. Correct the {what}.")

    def _unreadable(self, path: Path, what: str) -> None:
        if self.skip_unreadable:
            self.warn(path, what)
        else:
            self.problem(path, what)
            self._has_unreadable = True

    def _similar(self, base: Path, parts: Sequence[str]) -> Path | None:
        """Return the existing path whose parts equal the given ones after normalization; None if there is none."""
        path = base
        for name in parts:
            if not _exists(path / name):
                if path not in self._names:
                    names = [child.name for child in path.iterdir()] if path.is_dir() else []
                    self._names[path] = {normalized(existing): existing for existing in sorted(names)}
                if normalized(name) not in self._names[path]:
                    return None
                name = self._names[path][normalized(name)]
            path = path / name
        return path


def check_file_names(root: Path) -> None:
    """Raise `UserError` if names of files in a folder are not UTF-8. Hidden files are checked as well."""
    lines = [
        f"{printable(path)}: its name is not UTF-8. Rename it."
        for folder, folders, files in os.walk(root)
        for path in (os.path.join(folder, name) for name in (*folders, *files))  # noqa: PTH118 (much faster)
        if not path.isascii() and printable(path) != path
    ]
    if lines:
        raise UserError("\n".join(first_lines(lines)))


def normalized(name: str) -> str:
    """Return a file name in composed Unicode (NFC), with the suffix in lower case."""
    name = unicodedata.normalize("NFC", name)
    suffix = Path(name).suffix
    return name.removesuffix(suffix) + suffix.lower()


def first_lines(lines: Sequence[str]) -> list[str]:
    """Return the first ten lines, and one that says how many more there are."""
    if len(lines) <= MAX_LINES:
        return list(lines)
    return [*lines[:MAX_LINES], f"... and {len(lines) - MAX_LINES} more"]


def read_text(path: Path) -> str:
    """Read a text file: UTF-8, with or without a byte-order mark, or UTF-16 with one.

    Raises:
        UserError: The file cannot be read, or has another encoding.
    """
    data = read_bytes(path)
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{printable(path)}: line {line}: not UTF-8 text. Save the file as UTF-8.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises `UserError` if it cannot be read."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{printable(path)}: not valid JSON ({error}). Restore or correct the file.") from None


def read_model(path: Path, kind: type[M], remedy: str) -> M:
    """Read a JSON file as a pydantic model.

    Args:
        path: The file.
        kind: Class of the model.
        remedy: Sentence with which an error ends.

    Raises:
        UserError: The file cannot be read, or a field is wrong. The first wrong field is named.
    """
    try:
        return kind.model_validate_json(read_text(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ": ".join([printable(path), *([".".join(map(str, first["loc"]))] if first["loc"] else [])])
        raise UserError(f"{where}: {first['msg']}. {remedy}") from None


def read_csv(path: Path, columns: Sequence[str]) -> dict[int, dict[str, str]]:
    """Read a CSV file with a header.

    Args:
        path: The file.
        columns: Columns that it must have.

    Returns:
        The rows by the number of their last line. Blank lines are left out.

    Raises:
        UserError: The file cannot be read, lacks a column, or a row has more or fewer fields than the header.
    """
    reader = csv.reader(io.StringIO(read_text(path)), strict=True, skipinitialspace=True)
    where, rows = printable(path), {}
    try:
        header = [name.strip() for name in next(reader, [])]
        if missing := [name for name in columns if name not in header]:
            names = ", ".join(map(repr, header)) or "none"
            raise UserError(
                f"{where}: line 1: no column {missing[0]}; its columns are {names:.200}. "
                f"Name the columns {', '.join(columns):.200}, separated by commas."
            )
        for fields in reader:
            if not any(fields):
                continue
            if len(fields) != len(header):
                raise UserError(
                    f"{where}: line {reader.line_num}: {len(fields)} fields, but the header has {len(header)}. "
                    "Put text that contains commas in double quotes."
                )
            rows[reader.line_num] = dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{where}: line {reader.line_num}: not valid CSV ({error}). Put text that contains commas or quotes in "
            "double quotes, and double the quotes inside."
        ) from None
    return rows


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no file can have such a name
        return False


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
