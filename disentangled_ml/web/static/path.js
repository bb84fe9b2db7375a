// A path from one track to another, in small steps. Either end may be an upload.

import { chipName, uploadAddress } from "./chips.js";
import { by, counted, el } from "./dom.js";
import { same, seedOf } from "./question.js";
import { nameOf, player, tags, titled } from "./tracks.js";

let offered = []; // as ends

const endsOf = (chips) => chips.map(({ id, upload }) => (upload ? { upload } : { id }));

export const endAt = (number) => offered[number];

// Offer the chips as ends; those of the question stay even where they are chips no more.
export function drawEnds(state) {
  const all = [...endsOf(state.chips), state.from, state.to].filter(Boolean);
  offered = all.filter((end, i) => all.findIndex((other) => same(other, end)) === i);
  for (const side of ["from", "to"]) {
    by(side).replaceChildren(...offered.map((end, i) => el("option", { value: i, selected: state[side] && same(end, state[side]) }, chipName(end))));
    by(side).disabled = offered.length < 2;
  }
  if (document.activeElement !== by("steps")) by("steps").value = state.steps; // an answer must not undo what is being typed
}

// Choose ends where none are: the first two chips.
export function completeEnds(state) {
  const ends = endsOf(state.chips), notThe = (other) => ends.find((end) => !other || !same(end, other)) ?? null;
  state.from ??= notThe(state.to);
  state.to ??= notThe(state.from);
}

export const isPath = ({ from, to }) => Boolean(from && to && !same(from, to));

export function toPath(state, weights) {
  return { a: seedOf(state.from), b: seedOf(state.to), steps: state.steps, weights, per_artist: state.perArtist, per_album: state.perAlbum };
}

// The seeds that a path leads through; a step without a track is the upload at that end.
export const placesOf = (steps, { from, to }) => steps.map(({ track }, i) => track?.id ?? seedOf(i ? to : from));

export function showPath(steps, state, actions) {
  const longest = Math.max(...steps.map((step) => step.distance));
  by("status").textContent = `${counted(steps.length - 1, "step")}; the longest is ${longest.toFixed(2)}.`;
  by("seed-duplicates").replaceChildren();
  by("results").className = "results path";
  by("results").replaceChildren(...steps.map(({ track, distance }, i) => el("li", {}, el("span", { class: "rank" }, String(i)),
    track ? trackRow(track, actions) : uploadRow(i ? state.to : state.from),
    el("div", { class: "picture" }, i ? el("p", { class: "closer" }, "Step of ", el("strong", {}, distance.toFixed(2))) : null))));
}

function trackRow(track, { only, add }) {
  return el("div", {}, titled(track), tags(track), player(track),
    el("div", { class: "actions" },
      el("button", { class: "link", type: "button", "aria-label": `More like ${nameOf(track)}`, onclick: () => only(track) }, "More like this"),
      el("button", { class: "link", type: "button", "aria-label": `Add ${nameOf(track)} to Like`, onclick: () => add(track, "like") }, "Add")));
}

function uploadRow(end) {
  const name = chipName(end);
  return el("div", {}, titled({ id: name, name, artist: "uploaded", album: null }), player({ name }, uploadAddress(end.upload)));
}
