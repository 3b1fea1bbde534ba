"""Verification of stores and indexes against their checksums."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ditf.config.params import Params
from ditf.errors import UserError
from ditf.features.store import FeatureStore
from ditf.project.entries import check_entry
from ditf.project.paths import FEATURES, RESULTS
from ditf.retrieval.search import check_index
from ditf.tasks.retrieval import Retrieval


@dataclass(frozen=True)
class Check:
    """The result of a verification.

    Attributes:
        path: A store or an index.
        items: Number of items in a store; None for an index, or if the store cannot be opened.
        problems: Descriptions of the damage. Empty if everything is intact.
    """

    path: Path
    items: int | None
    problems: list[str]


def verify(params: Params, name: str | None) -> Iterator[Check]:
    """Read every chunk of the stores, and the indexes built from them, against their checksums.

    Args:
        params: All parameters.
        name: An entry of `features`, or None for all.

    Yields:
        The result for each store and index.
    """
    for path in stores(params, name):
        try:
            store = FeatureStore(path)
        except UserError as error:
            yield Check(path, None, [str(error)])
            continue
        damage = [f"{path}: {description}" for description, _ in tqdm(store.damage(), path.name, delay=1)]
        yield Check(path, len(store), [f"{line}. Run `ditf repair` to compute it again." for line in damage])
    for task_name, task in params.tasks.items():
        folder = RESULTS / task_name / "predictions"
        if isinstance(task, Retrieval) and name in (None, task.features) and folder.is_dir():
            try:
                check_index(folder)
                yield Check(folder, None, [])
            except UserError as error:
                yield Check(folder, None, [str(error)])


def stores(params: Params, name: str | None) -> list[Path]:
    """Return the stores of all entries of `features` that have one, or of one entry.

    Raises:
        UserError: There is no such entry, or no store.
    """
    if name is not None:
        check_entry(params.features, name, "features")
    paths = [FEATURES / entry for entry in params.features if name in (None, entry) and (FEATURES / entry).is_dir()]
    if not paths:
        raise UserError(f"{FEATURES / (name or '')}: no features. Run `dvc repro`.")
    return paths
