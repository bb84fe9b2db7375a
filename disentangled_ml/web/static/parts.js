// The conditions, each with its weight, its own seeds and its label; and the filters.

import { complain, get } from "./api.js";
import { takeDrops } from "./chips.js";
import { by, debounced, el } from "./dom.js";
import { weightsOf } from "./question.js";

const PRESETS = [["any tempo", null], ["the same (±4 %)", [-4, 4]], ["slower (5 to 15 %)", [-15, -5]], ["faster (5 to 15 %)", [5, 15]],
  ["much slower (15 to 40 %)", [-40, -15]], ["much faster (15 to 40 %)", [15, 40]]];

function part(name, i, actions) {
  const value = el("output", { for: `weight-${i}` }, "1.00");
  const soon = debounced(actions.weigh, 120);
  const input = el("input", { type: "range", id: `weight-${i}`, min: 0, max: 1, step: 0.05, value: 1,
    oninput: () => { value.textContent = Number(input.value).toFixed(2); soon(name, Number(input.value)); } });
  const label = el("select", { id: `label-${i}`, "aria-label": `Label for ${name} instead`, hidden: true, onchange: () => actions.label(name, label.value || null) },
    el("option", { value: "" }, "like the tracks above"));
  const element = el("div", { class: "part" }, el("label", { for: `weight-${i}` }, name), input, value,
    el("div", { class: "own" }, el("ul", { class: "chips", id: `chips-${i}`, "aria-label": `Tracks for ${name} alone` }), label));
  takeDrops(element, { condition: name }, actions.drop);
  return element;
}

export function setUpParts(conditions, actions) {
  by("parts-title").textContent = `By ${conditions.join(", ")}`;
  by("sliders").append(...conditions.map((name, i) => part(name, i, actions)));
  takeDrops(by("like-zone"), { side: "like", condition: null }, actions.drop);
  takeDrops(by("avoid-zone"), { side: "avoid", condition: null }, actions.drop);
}

// The labels are asked for once, when the conditions are unfolded.
export async function offerLabels(conditions, chosen) {
  const { labels } = await get("labels").catch((error) => { complain(error); return { labels: {} }; });
  conditions.forEach((name, i) => {
    if (!labels[name]) return;
    const options = labels[name].slice(0, 300).map(({ label, tracks }) => el("option", { value: label }, `${label} (${tracks})`));
    by(`label-${i}`).replaceChildren(el("option", { value: "" }, "like the tracks above"), ...options);
    by(`label-${i}`).hidden = false;
    by(`label-${i}`).value = chosen()[name] ?? "";
  });
}

export function drawParts(state, conditions) {
  const weights = weightsOf(state, conditions);
  conditions.forEach((name, i) => {
    const weight = weights[name];
    by(`weight-${i}`).value = weight;
    by(`weight-${i}`).nextElementSibling.textContent = weight.toFixed(2);
    by(`label-${i}`).value = state.labels[name] ?? "";
  });
  const numbers = { "tempo-low": state.tempo[0], "tempo-high": state.tempo[1], "change-low": state.change?.[0], "change-high": state.change?.[1],
    "per-artist": state.perArtist, "per-album": state.perAlbum };
  for (const [id, value] of Object.entries(numbers)) if (document.activeElement !== by(id)) by(id).value = value ?? "";
  by("preset").value = presetOf(state.change);
  for (const [id, on] of [["others", state.others], ["farthest", state.farthest], ["fold", state.fold]]) by(id).checked = on;
}

function presetOf(change) {
  const found = PRESETS.findIndex(([, preset]) => JSON.stringify(preset) === JSON.stringify(change));
  return found < 0 ? "own" : String(found);
}

const numberIn = (id) => (by(id).value === "" ? null : Number(by(id).value));

function read() {
  const [low, high] = [numberIn("change-low"), numberIn("change-high")];
  return {
    tempo: [numberIn("tempo-low"), numberIn("tempo-high")], change: low === null && high === null ? null : [low ?? -50, high ?? 100],
    others: by("others").checked, farthest: by("farthest").checked, fold: by("fold").checked,
    perArtist: numberIn("per-artist"), perAlbum: numberIn("per-album"),
  };
}

export function setUpFilters(catalogue, change) {
  by("preset").append(...PRESETS.map(([text], i) => el("option", { value: i }, text)), el("option", { value: "own" }, "in percent:"));
  by("preset").addEventListener("input", () => {
    if (by("preset").value === "own") return by("change-low").focus();
    const [low, high] = PRESETS[Number(by("preset").value)][1] ?? ["", ""];
    [by("change-low").value, by("change-high").value] = [low, high];
    return change(read());
  });
  by("artist-filter").hidden = by("cap-artist").hidden = !catalogue.has_artists;
  by("tempo-filters").hidden = !catalogue.tempo;
  if (catalogue.tempo) [by("tempo-low").placeholder, by("tempo-high").placeholder] = catalogue.tempo.map((bpm) => String(Math.round(bpm)));
  const soon = debounced(() => change(read()), 250);
  for (const id of ["others", "farthest", "fold", "tempo-low", "tempo-high", "change-low", "change-high", "per-artist", "per-album"])
    by(id).addEventListener("input", soon);
}
