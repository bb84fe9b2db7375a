// A path from one track to another, in small steps.

import { by, el } from "./dom.js";
import { knownTrack, nameOf, player, tags, titled } from "./tracks.js";

// Offer the tracks that are chips as ends; those of the question stay even where they are chips no more.
export function drawEnds(state) {
  const ids = [...new Set([...state.chips.filter((chip) => chip.id).map((chip) => chip.id), state.from, state.to])].filter((id) => id !== null);
  for (const end of ["from", "to"]) {
    by(end).replaceChildren(...ids.map((id) => el("option", { value: id, selected: id === state[end] }, nameOf(knownTrack(id)))));
    by(end).disabled = ids.length < 2;
  }
  by("steps").value = state.steps;
}

// Choose ends where none are: the first two tracks.
export function completeEnds(state) {
  const ids = state.chips.filter((chip) => chip.id).map((chip) => chip.id);
  state.from ??= ids.find((id) => id !== state.to) ?? null;
  state.to ??= ids.find((id) => id !== state.from) ?? null;
}

export const isPath = (state) => state.from !== null && state.to !== null && state.from !== state.to;

export function toPath(state, weights) {
  return { a: state.from, b: state.to, steps: state.steps, weights, per_artist: state.perArtist, per_album: state.perAlbum };
}

export function showPath(steps, { only, add }) {
  const longest = Math.max(...steps.map((step) => step.distance));
  by("status").textContent = `${steps.length - 1} steps, the longest of ${longest.toFixed(2)}.`;
  by("seed-duplicates").replaceChildren();
  by("results").replaceChildren(...steps.map(({ track, distance }, i) => el("li", {}, el("span", { class: "rank" }, String(i)),
    el("div", {}, titled(track), tags(track), player(track),
      el("div", { class: "actions" },
        el("button", { class: "link", type: "button", "aria-label": `More like ${nameOf(track)}`, onclick: () => only(track) }, "More like this"),
        el("button", { class: "link", type: "button", "aria-label": `Add ${nameOf(track)} to what to be like`, onclick: () => add(track, "like") }, "Add"))),
    el("div", { class: "picture" }, i ? el("p", { class: "closer" }, "Step of ", el("strong", {}, distance.toFixed(2))) : null))));
}
