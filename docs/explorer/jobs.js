// Long work on the server: its progress, and a button that cancels it.

import { element } from "./elements.js";
import * as source from "./source.js";

const POLL = 300; // milliseconds

// Shows the progress of a job until it ends. Returns its result, or null if it was cancelled.
export async function follow(id, place, text, onprogress = () => {}) {
  const bar = element("progress", { "aria-label": text });
  const cancel = element("button", { type: "button", onclick: () => source.cancelJob(id) }, "Cancel");
  place.replaceChildren(element("span", {}, text), bar, cancel);
  place.hidden = false;
  try {
    for (;;) {
      const job = await source.job(id);
      if (job.total && job.state === "running") {
        bar.max = job.total;
        bar.value = job.done;
      }
      onprogress(job);
      if (job.state === "failed") throw new Error(job.error);
      if (job.state === "cancelled") return null;
      if (job.state === "done") return job.result;
      await new Promise((resolve) => setTimeout(resolve, POLL));
    }
  } finally {
    place.replaceChildren();
    place.hidden = true;
  }
}
