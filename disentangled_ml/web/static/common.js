// What both pages share. Names from the catalogue become text and attributes of elements, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const by = (id) => document.getElementById(id);

export class Refused extends Error {}

// Ask the server; an answer that is no success, or none at all, is an error in words for people.
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Is it still running?");
  }
  const content = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error; // while the answer was on its way
    return {};
  });
  if (!response.ok) throw new Refused(content.error ?? `The server answered ${response.status}.`);
  return content;
}

export const post = (path, content, options = {}) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content), ...options });

export function complain(error) {
  const box = by("error");
  box.textContent = error ? error.message.charAt(0).toUpperCase() + error.message.slice(1) : "";
  box.hidden = !error;
  if (error && !(error instanceof Refused)) throw error;
}

export function debounced(action, milliseconds) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}

// Only one recording sounds at a time.
document.addEventListener("play", (event) => {
  for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
}, true);
