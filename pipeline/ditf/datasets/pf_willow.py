"""PF-Willow (Ham et al., "Proposal Flow", arXiv 1511.05065)."""

import re
from pathlib import Path

from ditf.data.catalog import Row, Tables, image_row
from ditf.data.pair_lists import PointPair, check_rows, keypoint_rows, outside, parse_coordinates
from ditf.data.reading import DatasetReader, read_csv
from ditf.datasets.base import Dataset, Release
from ditf.errors import UserError

POINTS = 10
PREFIX = "PF-dataset/"
PAIRS, IMAGES, CLASSES = 900, 100, 10  # of the release
COLUMNS = ("imageA", "imageB", *(f"{axis}{n}" for axis in ("XA", "YA", "XB", "YB") for n in range(1, POINTS + 1)))


class PFWillow(Dataset):
    """The pairs of PF-Willow, with ten points each.

    Layout, as released at https://www.di.ens.fr/willow/research/proposalflow: the folder `PF-WILLOW` with
    `<class>/<name>.png`, and the list `test_pairs.csv`, as used since SCNet (Han et al., arXiv 1705.04043).

    The threshold is the longer extent of the target's points. The rule "squashed box" is the same in an image that is
    resized to a square.

    Attributes:
        prompt: Prompt of all images; `{category}` becomes the class without the part in parentheses.
    """

    prompt: str = "a photo of a {category}"

    @property
    def release(self) -> Release:
        counts = {"pairs": PAIRS}
        return Release(counts, IMAGES, (300, 225), "longer", categories=CLASSES, title="PF-Willow test", rows=counts)

    def counts(self) -> dict[str, int]:
        try:
            return {"pairs": len(read_csv(Path(self.root, "test_pairs.csv"), COLUMNS))}
        except UserError:
            return {"pairs": 0}

    def read(self) -> Tables:
        reader = DatasetReader(self.root)
        path = reader.locate("test_pairs.csv")
        if not path.is_file():
            raise UserError(f"{path}: not found; is {reader.root} PF-Willow's folder? Correct `root`.")
        rows = read_csv(path, COLUMNS)
        check_rows(path, rows)
        parsed = {line: reader.attempt(_parse_row, f"{path}: line {line}", row) for line, row in rows.items()}
        pairs = {line: pair for line, pair in parsed.items() if pair}
        image_paths: dict[str, Path] = {}
        for names, _ in pairs.values():
            for name in names:
                if image_path := reader.attempt(reader.locate, name):
                    image_paths[name] = image_path
        images = reader.images(image_paths.values())
        reader.raise_problems()

        pair_rows, rules, keypoints = list[Row](), list[Row](), list[Row]()
        for index, line in enumerate(rows):
            (source, target), points = pairs[line]
            pair, category = f"{index:04d}", Path(target).parent.as_posix()
            source_image, target_image = images[image_paths[source]], images[image_paths[target]]
            width, height = (max(p[axis] for p in points) - min(p[axis] for p in points) for axis in (2, 3))
            row: Row = {"pair": pair, "category": category, "source": _id(source), "target": _id(target)}
            pair_rows.append(row | {"threshold": max(width, height)})
            longer = max(width / target_image.width, height / target_image.height)
            units = {"unit_x": longer * target_image.width, "unit_y": longer * target_image.height}
            rules.append({"pair": pair, "rule": "squashed box", **units})
            for x, y, *_ in outside(points, source_image):
                reader.warn(path, f"line {line}: ({x}, {y}) lies outside {source}; the nearest point is matched")
            keypoints += keypoint_rows(pair, points, source_image)
        image_rows = []
        for name, image_path in sorted(image_paths.items()):
            category = Path(name).parent.as_posix()
            prompt = self.prompt.replace("{category}", re.sub(r"\(.*\)", "", category))
            relative = reader.relative(image_path)
            image_rows.append(image_row(_id(name), relative, images[image_path], category, prompt))
        tables = {"images": image_rows, "pairs": pair_rows, "rules": rules, "keypoints": keypoints}
        return Tables({**tables, "warnings": [*reader.finish()]}, "longer", "extent of the points")


def _parse_row(where: str, row: dict[str, str]) -> tuple[tuple[str, str], list[PointPair]]:
    """Return both images, as class and file name, and the points of a row of the list."""
    names = []
    for column in COLUMNS[:2]:
        name = row[column].removeprefix(PREFIX)
        if name.count("/") != 1:
            raise UserError(f"{where}: {column}: {row[column]!r} is not a class and a file. Restore the list.")
        names.append(name)
    columns = []
    for axis in ("XA", "YA", "XB", "YB"):
        columns.append(parse_coordinates(where, axis, [row[f"{axis}{n}"] for n in range(1, POINTS + 1)]))
    if all(max(column) == min(column) for column in columns[2:]):
        raise UserError(f"{where}: XB, YB: all points of the target are equal, so nothing could be scored.")
    return (names[0], names[1]), list(zip(*columns, strict=True))


def _id(name: str) -> str:
    """Return the id of an image, such as "car(G)/Cars_006a"."""
    return Path(name).with_suffix("").as_posix()
