// The entry of features or the task that a view shows. The address names it; a menu changes it.

import { element, select } from "./elements.js";

// Returns {task, descriptor, finished: all tasks of the type with results, menu}. What is missing is an error.
export function chooseTask({ project, state, mount }, type, onchange, { label = "Task", text = (task) => task.name } = {}) {
  const tasks = project.tasks.filter((task) => task.type === type);
  const task = findTask(project, state, type);
  if (!task) throw new Error(`params.yaml has no task of type ${type}.`);
  const menu = select(label, tasks.map((each) => [each.name, text(each)]), task.name, onchange);
  stopIfMissing(task, menu, mount);
  const descriptor = task.descriptors.includes(state.descriptor) ? state.descriptor : task.descriptors.at(-1);
  return { task, descriptor, finished: tasks.filter((each) => !each.missing), menu };
}

// Returns {entry, blocks, block, entries: all that can be read, menu}. What is missing is an error.
export function chooseEntry({ project, state, mount }, onchange) {
  const entry = findEntry(project, state);
  if (!entry) throw new Error("params.yaml has no entries of features.");
  const menu = select("Features", project.entries.map((each) => [each.name, each.name]), entry.name, onchange);
  stopIfMissing(entry, menu, mount);
  const blocks = entry.blocks.map((each) => each.block);
  const block = blocks.includes(Number(state.block)) ? Number(state.block) : blocks.at(-1);
  return { entry, blocks, block, entries: project.entries.filter((each) => !each.missing), menu };
}

// Returns the task that the address names, or one with results, preferably of the features that the address names.
export function findTask(project, state, type) {
  const tasks = project.tasks.filter((task) => task.type === type);
  const finished = tasks.filter((task) => !task.missing);
  return tasks.find((each) => each.name === state.task) ?? finished.find((each) => each.features === state.entry) ?? finished[0] ?? tasks[0];
}

// Returns the entry that the address names, or one that can be read.
export function findEntry({ entries }, state) {
  return entries.find((each) => each.name === state.entry) ?? entries.find((each) => !each.missing) ?? entries[0];
}

// Shows only the menu, from which another choice can be made.
function stopIfMissing({ missing }, menu, mount) {
  if (!missing) return;
  mount(element("div", { class: "controls" }, menu));
  throw new Error(missing);
}
