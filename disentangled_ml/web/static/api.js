// The server, as api.md describes it. A token comes once, in the fragment of the address, and stays in this tab.

import { by, el } from "./dom.js";

const KEPT = "token";
const fragment = new URLSearchParams(location.hash.slice(1));
if (fragment.has(KEPT)) {
  sessionStorage.setItem(KEPT, fragment.get(KEPT));
  fragment.delete(KEPT);
  history.replaceState(null, "", `#${fragment}`);
}
const token = sessionStorage.getItem(KEPT);
let audioKey = null;

export class Refused extends Error {}

async function reach(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Is it still running?");
  }
  if (response.status === 401) throw new Refused("This server wants its token. Open the page with #token=… at the end of its address.");
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw new Refused(error ?? `The server answered ${response.status}.`);
}

// Ask the server; an answer that is no success, or none at all, is an error in words for people.
export async function ask(path, options = {}) {
  const response = await reach(path, options);
  return response.json().catch((error) => {
    if (error.name === "AbortError") throw error; // while the answer was on its way
    return {};
  });
}

const inJSON = (content) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) });

export const get = (name, query = {}) => ask(`api/v1/${name}?${new URLSearchParams(query)}`);
export const post = (path, content, options = {}) => ask(path, { ...inJSON(content), ...options });
export const question = (name, content, options = {}) => post(`api/v1/${name}`, content, options);
export const upload = (file) => ask("api/v1/upload", { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file });

export async function catalogue() {
  const summary = await get("catalogue");
  audioKey = summary.audio_key;
  return summary;
}

export const audioAddress = (track) => `audio?${new URLSearchParams({ track, ...(audioKey ? { key: audioKey } : {}) })}`;

// Save an answer as a file of the person in front of the page.
export async function save(name, path, content = null) {
  const response = await reach(path, content === null ? {} : inJSON(content));
  const address = URL.createObjectURL(await response.blob());
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

export function complain(error) {
  const box = by("error");
  box.textContent = error ? error.message.charAt(0).toUpperCase() + error.message.slice(1) : "";
  box.hidden = !error;
  if (error && !(error instanceof Refused)) throw error;
}
