"""Draw the visualizations of a task -> results/<task>/visualizations/."""

from ditf.data.catalog import Catalog
from ditf.features.fusion import open_store
from ditf.files import remove_folder
from ditf.project.entries import image_reader
from ditf.project.paths import CATALOGS, FEATURES, RESULTS
from ditf.tasks.base import DrawingInputs
from stages import Params, run


def main(params: Params, name: str) -> None:
    """Draw the visualizations of an entry of `tasks`."""
    task, folder = params.tasks[name], RESULTS / name
    remove_folder(folder / "visualizations")
    (folder / "visualizations").mkdir(parents=True)
    store, catalog = open_store(FEATURES / task.features), Catalog(CATALOGS / task.dataset)
    predicted = DrawingInputs(catalog, image_reader(params, task.dataset), folder / "predictions")
    task.draw(store, predicted, folder / "visualizations")


if __name__ == "__main__":
    run(main, "tasks")
