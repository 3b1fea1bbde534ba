"""Routes of the explorer for long work: uploaded images, painted masks, and the jobs that process them."""

import io
import zipfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, UploadFile
from fastapi.responses import Response

from ditf.errors import NotFoundError
from ditf.explore.jobs import Job
from ditf.explore.library import Explorer
from ditf.explore.limits import UPLOAD
from ditf.explore.uploads import check_image, extract_upload, file_name, upload_id
from ditf.project.paths import FEATURES
from ditf.project.videos import PaintedMask, propagate_mask
from ditf.types import Descriptor

MASKS = "masks"  # folder of a propagation's masks in the folder of its job
Text = Annotated[str, Form(max_length=2000)]
Count = Annotated[int | None, Form(ge=0, le=1000)]


def work_routes(explorer: Explorer) -> APIRouter:
    """Return the routes for long work.

    Args:
        explorer: What the server shows.
    """
    routes = APIRouter(prefix="/api")

    @routes.post("/uploads", status_code=202, max_body_size=UPLOAD)
    def upload(
        file: UploadFile, entry: Text, prompt: Annotated[str | None, Form(max_length=2000)] = None
    ) -> dict[str, Any]:
        """Start to extract the features of an image. The result of the job is its id, which other routes accept."""
        samples = explorer.store(entry).attributes.get("extraction_config", {}).get("ensemble_size", 0)
        data = file.file.read()
        check_image(data)
        folder = explorer.jobs.new_folder()
        path, id = folder / file_name(file.filename), upload_id(data, prompt)
        path.write_bytes(data)

        def finish(extracted: tuple[Path, str]) -> dict[str, Any]:
            store, item = extracted
            return {"image": item if store == FEATURES / entry else explorer.add_upload(entry, id, path, store, item)}

        steps = tuple(f"noise sample {number}" for number in range(1, samples + 1))
        job = Job("upload", folder, extract_upload, (explorer.params, entry, path, prompt), steps, finish)
        return {"job": explorer.jobs.submit(job).id}

    @routes.post("/propagations", status_code=202, max_body_size=UPLOAD)
    def propagate(
        mask: UploadFile,
        task: Text,
        descriptor: Annotated[Descriptor, Form()],
        sequence: Text,
        topk: Annotated[int | None, Form(ge=1, le=1000)] = None,
        temperature: Annotated[float | None, Form(gt=0, le=1000, allow_inf_nan=False)] = None,
        n_last_frames: Count = None,
        size_mask_neighborhood: Count = None,
    ) -> dict[str, Any]:
        """Start to propagate a mask of the first frame of a sequence. The settings default to those of the task."""
        names = explorer.videos(task).names(sequence)
        explorer.store(explorer.params.tasks[task].features)
        data = mask.file.read()
        check_image(data)
        folder = explorer.jobs.new_folder()
        path = folder / "mask"
        path.write_bytes(data)
        settings = {
            "topk": topk,
            "temperature": temperature,
            "n_last_frames": n_last_frames,
            "size_mask_neighborhood": size_mask_neighborhood,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        painted = PaintedMask(task, descriptor, sequence, path, given)

        def finish(frames: list[dict[str, Any]]) -> dict[str, Any]:
            return {"sequence": sequence, "frames": frames}

        arguments = (explorer.params, painted, folder / MASKS)
        job = Job("propagation", folder, propagate_mask, arguments, tuple(names), finish)
        return {"job": explorer.jobs.submit(job).id}

    @routes.get("/jobs/{id}")
    def job(id: str) -> dict[str, Any]:
        """Describe a job: its state, its progress, and its result or error."""
        return explorer.jobs.job(id).describe()

    @routes.delete("/jobs/{id}")
    def cancel(id: str) -> dict[str, Any]:
        """Cancel a job that waits or runs."""
        return explorer.jobs.cancel(id).describe()

    @routes.get("/jobs/{id}/masks/{frame}", response_class=Response)
    def mask_of_job(id: str, frame: str) -> Response:
        """Return a mask of a propagation as PNG, as soon as it is computed."""
        job = explorer.jobs.job(id)
        if frame not in job.steps[: job.done]:
            raise NotFoundError(f"frame {frame:.40}: mask not found. {job.done} masks are ready.")
        return Response((job.folder / MASKS / f"{frame}.png").read_bytes(), media_type="image/png")

    @routes.get("/jobs/{id}/result", response_class=Response)
    def result(id: str) -> Response:
        """Return the masks of a propagation as a ZIP archive of PNGs in the layout of DAVIS."""
        job = explorer.jobs.job(id)
        if job.kind != "propagation" or job.result is None:
            raise NotFoundError(f"job {id:.40}: masks not found. Wait until its state is done.")
        archive, name = io.BytesIO(), str(job.result["sequence"])
        with zipfile.ZipFile(archive, "w") as file:
            for frame in job.steps:
                file.write(job.folder / MASKS / f"{frame}.png", f"{name}/{frame}.png")
        headers = {"Content-Disposition": 'attachment; filename="masks.zip"'}
        return Response(archive.getvalue(), media_type="application/zip", headers=headers)

    return routes
