// TASK is put into each page by the task (tasks.py). What was done is kept under "result": it is
// what the reward is computed from.
"use strict";

const byId = (id) => document.getElementById(id);

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function kept(name, otherwise) {
  return JSON.parse(sessionStorage.getItem(name) ?? JSON.stringify(otherwise));
}

function keep(name, value) {
  sessionStorage.setItem(name, JSON.stringify(value));
}

function finish(result, text) {
  keep("result", result);
  document.body.replaceChildren(element("p", { role: "status" }, text));
}
