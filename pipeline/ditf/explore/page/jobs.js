// Long work on the server: its progress, and a button that cancels it.

import { element } from "./elements.js";
import * as source from "./source.js";

const POLL = 300; // milliseconds

// Shows the progress of a job until it ends. Returns its result, or null if it was cancelled. `text` says what the job
// does, `unit` names its steps, and `start` says what it does before the first of them.
export async function follow(id, place, { text, unit, start }) {
  const bar = element("progress", { "aria-label": text });
  const state = element("span", { class: "quiet" });
  const cancel = element("button", { type: "button", onclick: () => source.cancelJob(id) }, "Cancel");
  place.replaceChildren(element("span", {}, text), bar, state, cancel);
  place.hidden = false;
  let first = null; // the number of finished steps and the time when some were finished
  try {
    for (;;) {
      const job = await source.job(id);
      if (job.state === "failed") throw new Error(job.error);
      if (job.state === "cancelled") return null;
      if (job.state === "done") return job.result;
      if (job.done) first ??= { done: job.done, time: performance.now() };
      if (job.state === "waiting") state.textContent = "waiting for other work";
      else if (!job.done) state.textContent = start;
      else {
        bar.max = job.total;
        bar.value = job.done;
        state.textContent = `${job.done} of ${job.total} ${unit}${timeLeft(job, first)}`;
      }
      await new Promise((resolve) => setTimeout(resolve, POLL));
    }
  } finally {
    place.replaceChildren();
    place.hidden = true;
  }
}

// Returns the time that the other steps take at the pace of the finished ones, once that is known.
function timeLeft({ done, total }, first) {
  if (done === first.done || done === total) return "";
  const seconds = ((performance.now() - first.time) / (done - first.done) / 1000) * (total - done);
  return seconds < 90 ? `, ${Math.ceil(seconds)} s left` : `, ${Math.round(seconds / 60)} min left`;
}
