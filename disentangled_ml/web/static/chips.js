// Seeds as chips, each in a place: like or avoid, in all conditions or in one. A chip is dragged there, or moved by its menu.

import { audioAddress } from "./api.js";
import { by, el } from "./dom.js";
import { placed, placeOf } from "./question.js";
import { knownTrack, nameOf } from "./tracks.js";

const uploads = new Map(); // name, address and length of the uploads of this visit

export const learnUpload = (token, about) => uploads.set(token, about);

export const uploadAddress = (token) => uploads.get(token)?.url ?? null;

export function chipName(chip) {
  if (chip.upload) return uploads.get(chip.upload)?.name ?? "Your upload";
  return nameOf(knownTrack(chip.id));
}

const places = (conditions) => [["like", "like"], ...conditions.map((name) => [`like.${name}`, `like its ${name}`]),
  ["avoid", "avoid"], ...conditions.map((name) => [`avoid.${name}`, `avoid its ${name}`])];

function listen(chip, button) {
  const audio = by("preview"), source = chip.upload ? uploads.get(chip.upload).url : audioAddress(chip.id);
  const isOn = audio.dataset.of === (chip.upload ?? chip.id) && !audio.paused;
  if (isOn) return audio.pause();
  Object.assign(audio, { src: source, onpause: () => { button.textContent = "▶"; }, onplay: () => { button.textContent = "❚❚"; } });
  audio.dataset.of = chip.upload ?? chip.id;
  return audio.play().catch(() => {});
}

function chipElement(chip, i, conditions, { move, remove }) {
  const name = chipName(chip), artist = chip.upload ? null : knownTrack(chip.id).artist;
  const isPlayable = chip.upload ? uploads.has(chip.upload) : knownTrack(chip.id).audio;
  const menu = el("select", { class: "place", "aria-label": `How ${name} counts`, "data-chip": i, onchange: () => move(i, placed(menu.value)) },
    ...places(conditions).map(([place, text]) => el("option", { value: place, selected: place === placeOf(chip) }, text)));
  const play = isPlayable ? el("button", { class: "icon", type: "button", "aria-label": `Play ${name}`, onclick: () => listen(chip, play) }, "▶") : null;
  return el("li", { class: `chip ${chip.side}`, draggable: "true", ondragstart: (event) => {
    event.dataTransfer.setData("text/x-chip", String(i));
    by("parts").open = true;
  } }, play, el("span", { class: "name", title: name }, name), artist ? el("span", { class: "dim artist" }, artist) : null, menu,
  el("button", { class: "icon", type: "button", "aria-label": `Remove ${name}`, onclick: () => remove(i) }, "×"));
}

export function drawChips(chips, conditions, actions) {
  const zones = { like: by("chips-like"), avoid: by("chips-avoid") };
  conditions.forEach((name, i) => { zones[name] = by(`chips-${i}`); });
  for (const zone of Object.values(zones)) zone.replaceChildren();
  chips.forEach((chip, i) => (chip.condition === null ? zones[chip.side] : zones[chip.condition]).append(chipElement(chip, i, conditions, actions)));
  by("seeds").hidden = !chips.some((chip) => chip.condition === null);
  const notes = chips.filter((chip) => uploads.has(chip.upload)).flatMap((chip) => {
    const { name, seconds, cut, warnings } = uploads.get(chip.upload);
    return [`${name}: ${cut ? "only the first " : ""}${Math.round(seconds)} s${cut ? " are used" : ""}`, ...warnings.map((warning) => `Note: ${warning}`)];
  });
  by("upload-notes").replaceChildren(...notes.map((note) => el("li", {}, note)));
}

// Let chips be dropped on an element.
export function takeDrops(element, place, drop) {
  const holdsChip = (event) => event.dataTransfer.types.includes("text/x-chip");
  element.addEventListener("dragover", (event) => { if (holdsChip(event)) { event.preventDefault(); element.classList.add("dropping"); } });
  element.addEventListener("dragleave", () => element.classList.remove("dropping"));
  element.addEventListener("drop", (event) => {
    element.classList.remove("dropping");
    if (!holdsChip(event)) return;
    event.preventDefault();
    event.stopPropagation();
    drop(Number(event.dataTransfer.getData("text/x-chip")), place);
  });
}
