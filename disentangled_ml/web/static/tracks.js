// A track in words, and its player. What is known about tracks is kept, for chips that only have an id.

import { audioAddress } from "./api.js";
import { el } from "./dom.js";

const known = new Map();

export const learn = (tracks) => { for (const track of tracks) known.set(track.id, track); };
export const nameOf = (track) => track.name;
export const knownTrack = (id) => known.get(id) ?? { id, name: id, title: null, artist: null, album: null, labels: {}, estimated: [], audio: false };

export const labelText = (label) => (typeof label === "number" ? `${Math.round(label)} BPM` : Array.isArray(label) ? label.join(", ") : String(label));

export function titled(track) {
  const more = [track.artist, track.album].filter(Boolean).join(" · ");
  return el("span", { class: "names" }, el("span", { class: "name", title: track.id }, nameOf(track)), more ? el("span", { class: "dim" }, ` ${more}`) : null);
}

export const tags = (track) => el("div", { class: "tags" },
  ...Object.entries(track.labels).map(([condition, label]) => track.estimated.includes(condition)
    ? el("span", { title: `${condition}, estimated` }, `≈ ${labelText(label)}`) : el("span", { title: condition }, labelText(label))));

export const player = (track, source = track.audio ? audioAddress(track.id) : null) =>
  source ? el("audio", { controls: true, preload: "none", src: source, "aria-label": `Play ${nameOf(track)}` })
    : el("p", { class: "note" }, "No recording to play.");
