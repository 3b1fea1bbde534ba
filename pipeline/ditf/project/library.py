"""Images to search and match with: which task serves an image, and where its pixels and features come from."""

import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ditf.config.params import Params
from ditf.data.images import RGB, read_rgb
from ditf.errors import NotFoundError, UserError
from ditf.features.fusion import open_store
from ditf.features.reader import FeatureReader, ImageFeatures
from ditf.features.store import FeatureStore
from ditf.project.entries import check_entry, image_reader
from ditf.project.paths import FEATURES, RESULTS
from ditf.project.queries import features_of_file
from ditf.retrieval.search import FeatureIndex, check_index
from ditf.tasks.base import Task
from ditf.tasks.correspondence import Correspondence
from ditf.tasks.retrieval import Retrieval
from ditf.types import Descriptor

COMPARABLE = ("rule", "img_size", "seed", "noise", "encoding")  # features with other values can still be compared


@dataclass(frozen=True)
class DescriptorChoice:
    """Descriptors that are searched or matched.

    Attributes:
        block: Block of the model.
        descriptor: Name of the descriptor; see `ditf.features.descriptors`.
        channels: Massive channels, for descriptors with "+discard".
    """

    block: int
    descriptor: Descriptor
    channels: Sequence[int]


@dataclass(frozen=True)
class Query:
    """An image to search with.

    Attributes:
        name: Name of the image, for messages.
        item: Id of the image in the searched store, or None if it is not there.
        pixels: The image, uint8 [height, width, 3], or None if its file is missing.
        features: Features of the image.
    """

    name: str
    item: str | None
    pixels: RGB | None
    features: ImageFeatures


class ImageLibrary:
    """Images and features of a task's data set. It also provides query images from other data sets and from files.

    Args:
        params: Parameters of the project.
        name: Name of the task.
    """

    def __init__(self, params: Params, name: str) -> None:
        self.params, self.name, self.task = params, name, params.tasks[name]
        self.store = open_store(FEATURES / self.task.features)
        self._read = image_reader(params, self.task.dataset)

    @property
    def index_folder(self) -> Path:
        """Folder of the task's index, if the task is of type retrieval."""
        return RESULTS / self.name / "predictions"

    def index(self) -> FeatureIndex:
        """Open the task's index."""
        return FeatureIndex(self.index_folder, self.store)

    def descriptor_settings(self) -> DescriptorChoice:
        """Return the indexed descriptors. Without an index, return the descriptors in the task's parameters."""
        if (self.index_folder / "index.json").exists():
            record = check_index(self.index_folder)
            return DescriptorChoice(record["block"], record["descriptor"], record["channels"])
        settings = self.task.predict
        return DescriptorChoice(settings.block, settings.descriptors[-1], settings.discarded(self.store))

    def pixels(self, item: str, read: Callable[[str], RGB] | None = None) -> RGB | None:
        """Read an image. If its file is missing, print a line to standard error.

        Args:
            item: Id of the image.
            read: Function that reads an image. By default, images of the task's data set are read.

        Returns:
            The image, uint8 [height, width, 3], or None if its file is missing.
        """
        try:
            return (read or self._read)(item)
        except NotFoundError:
            print(f"{item}: its file is not here, so it is not drawn", file=sys.stderr)
            return None

    def query(self, name: str, block: int, prompt: str | None) -> Query:
        """Load an image and its features. The features of a new file are extracted.

        Args:
            name: Id of an image, or path of a file.
            block: Block of the model.
            prompt: Prompt for a file that is not in the data set. By default, the prompt of the data set.

        Raises:
            UserError: The name is neither an id nor a file.
        """
        if name in self.store:
            return Query(name, name, self.pixels(name), self.store.features(block, name))
        ids = list(self.store.ids)
        for other, settings in self.params.features.items():
            path = FEATURES / other
            if not path.is_dir():
                continue
            store = FeatureStore(path)
            if _extracted_alike(store, self.store):
                if name in store:
                    pixels = self.pixels(name, image_reader(self.params, settings.dataset))
                    return Query(name, None, pixels, store.features(block, name))
                ids += store.ids
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{name}: neither a file nor an image of {self.store.path}. {suggest_image(name, ids)}")
        pixels = read_rgb(path)
        reader, item = features_of_file(self.params, self.task.features, path, prompt)
        return Query(path.name, item if reader.path == self.store.path else None, pixels, reader.features(block, item))


def search_task(params: Params, task: str | None, name: str) -> str:
    """Choose the task whose index is searched.

    Args:
        params: Parameters of the project.
        task: Task that the user chose, or None.
        name: Id or file of the query image.

    Returns:
        The chosen task. By default, the task whose data set has the image, or the only task with an index.
    """
    retrieval = [entry for entry, settings in params.tasks.items() if isinstance(settings, Retrieval)]
    if task is not None:
        check_entry(retrieval, task, "tasks, of type retrieval,")
        return task
    indexed = [entry for entry in retrieval if (RESULTS / entry / "predictions" / "index.json").exists()]
    if not indexed:
        raise UserError(f"{RESULTS}: no index yet. Run `dvc repro` with a task of type retrieval in params.yaml.")
    return _only(_tasks_with_images(params, indexed, [name]), name)


def match_task(params: Params, task: str | None, names: Sequence[str]) -> str:
    """Choose the task whose features and descriptors are matched. It needs features, but no index.

    Args:
        params: Parameters of the project.
        task: Task that the user chose, or None.
        names: Ids or files of the images to match.

    Returns:
        The chosen task. By default, the task whose data set has the images; tasks of type retrieval come first, then
        tasks of type correspondence.
    """
    if task is not None:
        check_entry(params.tasks, task, "tasks")
        return task
    extracted = [name for name, settings in params.tasks.items() if (FEATURES / settings.features).is_dir()]
    if not extracted:
        raise UserError(f"{FEATURES}: no features yet. Run `dvc repro`.")
    for kind in (Retrieval, Correspondence, Task):
        if tasks := [name for name in extracted if isinstance(params.tasks[name], kind)]:
            candidates = _tasks_with_images(params, tasks, names)
            break
    return _only(candidates, names[0])


def _tasks_with_images(params: Params, tasks: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the tasks whose data set has one of the images.

    Args:
        params: Parameters of the project.
        tasks: Tasks to choose from.
        names: Ids or files of images.

    Returns:
        The names of these tasks. If no data set has an image, but there is a file, all tasks are returned.

    Raises:
        UserError: No data set has an image, and there is no file; or a file is not an image.
    """
    stores = {task: open_store(FEATURES / params.tasks[task].features) for task in tasks}
    files = [path.resolve() for path in map(Path, names) if path.is_file()]
    matching_tasks = [
        task
        for task in tasks
        if set(names) & set(stores[task].ids)
        or any(path.is_relative_to(Path(params.datasets[params.tasks[task].dataset].root).resolve()) for path in files)
    ]
    if matching_tasks:
        return matching_tasks
    for path in files:
        read_rgb(path)  # reports a file that is not an image, before the choice of a task is reported
    if not files:
        ids = [image for store in stores.values() for image in store.ids]
        raise UserError(
            f"{names[0]}: neither a file nor an image that {', '.join(tasks)} can search. "
            f"{suggest_image(names[0], ids)}"
        )
    return list(tasks)


def _only(tasks: Sequence[str], name: str) -> str:
    """Return the only task, or raise `UserError` if there are several."""
    if len(tasks) > 1:
        raise UserError(f"--task: several tasks can search with {name!r}. Name one of {', '.join(tasks)}.")
    return tasks[0]


def suggest_image(name: str, ids: Sequence[str]) -> str:
    """Return a sentence that suggests the most similar id, or that shows an example of an id.

    Args:
        name: Name that is not an id.
        ids: Ids of images.
    """
    stems = {image.rpartition("/")[2]: image for image in ids}
    for choices in (dict(zip(ids, ids, strict=True)), stems):
        if close := difflib.get_close_matches(name, choices, 1):
            return f"Did you mean {choices[close[0]]}?"
    return f"An id looks like {ids[0]}." if ids else ""


def _extracted_alike(store: FeatureReader, other: FeatureReader) -> bool:
    """Return whether two stores were extracted with the same settings, apart from those in `COMPARABLE`."""
    one, two = (
        {key: value for key, value in s.attributes["extraction_config"].items() if key not in COMPARABLE}
        for s in (store, other)
    )
    return one == two
