"""Routes of the explorer for videos."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response

from ditf.explore.library import Explorer
from ditf.types import Descriptor

Task = Annotated[str, Query(description="A task of type propagation.")]
DescriptorName = Annotated[Descriptor, Query(description="Descriptor of the predicted masks.")]
SETTINGS = ("topk", "temperature", "n_last_frames", "size_mask_neighborhood")


def video_routes(explorer: Explorer) -> APIRouter:
    """Return the routes for videos.

    Args:
        explorer: What the server shows.
    """
    routes = APIRouter(prefix="/api/videos")

    @routes.get("")
    def videos(task: Task, descriptor: DescriptorName) -> dict[str, Any]:
        """List the sequences of a task with their scores, and the settings of its propagation."""
        results = explorer.videos(task)
        settings = {name: getattr(results.task.predict, name) for name in SETTINGS}
        return {"sequences": results.sequences(descriptor), "settings": settings}

    @routes.get("/{sequence}")
    def video(sequence: str, task: Task, descriptor: DescriptorName) -> dict[str, Any]:
        """Describe a sequence: its frames with J and F, as fractions."""
        return explorer.video(task, sequence, descriptor)

    @routes.get("/{sequence}/masks/{frame}", response_class=Response)
    def mask(
        sequence: str,
        frame: str,
        task: Task,
        descriptor: DescriptorName,
        kind: Literal["predicted", "true"] = "predicted",
    ) -> Response:
        """Return the mask of a frame as PNG: 0 for background, 1, 2, ... for objects, 255 for void."""
        results = explorer.videos(task)
        data = results.true_mask(sequence, frame) if kind == "true" else results.mask(sequence, frame, descriptor)
        return Response(data, media_type="image/png")

    return routes
