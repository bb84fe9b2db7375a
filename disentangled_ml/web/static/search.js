// The page: what changes the question, asks it, and shows the answer. The question is in the address, so it can be shared and gone back to.

import { catalogue as summary, complain, question, Refused, save, upload } from "./api.js";
import { drawChips, learnUpload } from "./chips.js";
import { by, el } from "./dom.js";
import { setUpFinding } from "./find.js";
import { drawMap, loadMap, markMap } from "./map.js";
import { drawParts, offerLabels, setUpFilters, setUpParts } from "./parts.js";
import { completeEnds, drawEnds, endAt, isPath, placesOf, showPath, toPath } from "./path.js";
import { asksAnything, emptyQuestion, fromFragment, same, setUsualWeights, toFragment, toQuestion, weightsOf } from "./question.js";
import { clearResults, showResults } from "./results.js";
import { learn } from "./tracks.js";

const PAGE = 10, MOST = 100; // results shown at first, and at most
let conditions = [];
let state = emptyQuestion();
let shown = PAGE;
let pending = null; // the question under way
let catalogue = null;

const isPathView = () => state.view === "path";
const asked = () => (isPathView() ? toPath(state, weightsOf(state, conditions)) : toQuestion(state, conditions, shown));

function draw() {
  drawChips(state.chips, conditions, { move, remove });
  drawParts(state, conditions);
  if (isPathView()) completeEnds(state);
  drawEnds(state);
  for (const view of ["similar", "path"]) {
    by(`tab-${view}`).setAttribute("aria-selected", String(state.view === view));
    by(`tab-${view}`).tabIndex = state.view === view ? 0 : -1;
  }
  by("ends").hidden = !isPathView();
  by("found").setAttribute("aria-labelledby", `tab-${state.view}`);
}

// Change the question: `quietly` without a place to go back to.
function change(values, quietly = false) {
  Object.assign(state, values);
  shown = PAGE;
  draw();
  history[quietly ? "replaceState" : "pushState"](null, "", `#${toFragment(state)}`);
  return run();
}

async function run() {
  pending?.abort();
  by("save").hidden = by("to-map").hidden = true;
  if (isPathView() ? !isPath(state) : !asksAnything(state)) {
    return clear(isPathView() ? "Find two tracks, or upload recordings, and choose where the path begins and ends." : "Find a track, choose a label, or upload a recording.");
  }
  const own = (pending = new AbortController());
  by("found").classList.add("busy");
  try {
    const answer = await question(isPathView() ? "path" : "compose", asked(), { signal: own.signal });
    complain(null);
    show(answer);
  } catch (error) {
    if (error.name === "AbortError") return;
    clear("");
    complain(error);
  }
  by("found").classList.remove("busy");
}

function clear(text) {
  markMap(new Set(), []);
  clearResults(text);
}

function show(answer) {
  const tracks = (answer.steps ?? answer.results).map((each) => each.track).filter(Boolean);
  learn([...tracks, ...(answer.seeds ?? [])]);
  drawKeepingFocus();
  if (answer.steps) showPath(answer.steps, state, { only, add });
  else showResults(answer, state.farthest, { only, add });
  by("more").hidden = Boolean(answer.steps) || tracks.length < shown || shown >= MOST;
  by("save").hidden = !tracks.length;
  by("to-map").hidden = !answer.steps;
  by("save").dataset.tracks = JSON.stringify(tracks.map((track) => track.id));
  const asked = answer.steps ? [state.from, state.to] : state.chips.filter((chip) => chip.side === "like");
  markMap(new Set(asked.map((seed) => seed.id)), tracks.map((track) => track.id), answer.steps ? placesOf(answer.steps, state) : []);
}

// Chips are drawn anew once their names are known; whoever is in the menu of one stays there.
function drawKeepingFocus() {
  const chip = document.activeElement?.dataset?.chip;
  drawChips(state.chips, conditions, { move, remove });
  drawEnds(state);
  if (chip !== undefined) document.querySelector(`[data-chip="${chip}"]`)?.focus();
}

// Chips

function add(track, side = "like", condition = null) {
  if (!track.upload) learn([track]);
  const chip = { ...(track.upload ? { upload: track.upload } : { id: track.id }), side, condition };
  return change({ chips: [...state.chips.filter((other) => !same(other, chip) || other.condition !== condition), chip] });
}

const only = (track) => { learn([track]); return change({ chips: [{ id: track.id, side: "like", condition: null }], labels: {}, view: "similar", from: null, to: null }); };

function move(i, place) {
  const chips = state.chips.map((chip, number) => (number === i ? { ...chip, ...place } : chip));
  const labels = { ...state.labels };
  if (chips[i].side === "like" && chips[i].condition !== null) delete labels[chips[i].condition];
  by("parts").open ||= chips[i].condition !== null;
  const answered = change({ chips, labels });
  document.querySelector(`[data-chip="${i}"]`)?.focus();
  return answered;
}

const remove = (i) => { by("find").focus(); return change({ chips: state.chips.filter((_, number) => number !== i) }); };

function label(name, text) {
  const labels = { ...state.labels };
  delete labels[name];
  const chips = state.chips.filter((chip) => text === null || chip.side !== "like" || chip.condition !== name);
  return change({ chips, labels: text === null ? labels : { ...labels, [name]: text } });
}

async function send(file) {
  complain(null);
  if (!file) return;
  const status = by("status"), before = status.textContent;
  try {
    if (file.size > catalogue.upload.max_bytes) throw new Refused(`This file is too large: the most is ${Math.round(catalogue.upload.max_bytes / 1e6)} MB.`);
    status.textContent = "Uploading and analysing the recording…";
    const answer = await upload(file);
    learnUpload(answer.upload, { ...answer, name: file.name, url: URL.createObjectURL(file) });
    await add(answer);
  } catch (error) {
    status.textContent = before;
    complain(error);
  } finally {
    by("upload").value = "";
  }
}

// Setting up

function setUpControls() {
  setUpFinding((track) => add(track));
  setUpParts(conditions, { weigh: (name, weight) => change({ weights: { ...state.weights, [name]: weight } }, true), label, drop: move });
  setUpFilters(catalogue, (values) => change(values, true));
  by("more").addEventListener("click", () => { shown = Math.min(MOST, shown + PAGE); run(); });
  by("upload").addEventListener("change", () => send(by("upload").files[0]));
  const card = by("query-card");
  for (const [event, over] of [["dragover", true], ["dragleave", false], ["drop", false]])
    card.addEventListener(event, (drag) => { drag.preventDefault(); card.classList.toggle("dropping", over && drag.dataTransfer.types.includes("Files")); });
  card.addEventListener("drop", (drag) => send(drag.dataTransfer.files[0]));
  for (const view of ["similar", "path"]) by(`tab-${view}`).addEventListener("click", () => change({ view }));
  by("tabs").addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    change({ view: isPathView() ? "similar" : "path" });
    by(`tab-${state.view}`).focus();
  });
  for (const end of ["from", "to"]) by(end).addEventListener("change", () => change({ [end]: endAt(by(end).value) }));
  by("to-map").addEventListener("click", showMap);
  by("steps").addEventListener("change", () => change({ steps: Number(by("steps").value) }, true));
  by("parts").addEventListener("toggle", () => offerLabels(conditions, () => state.labels), { once: true });
  for (const button of by("save").querySelectorAll("button")) button.addEventListener("click", () => saveAs(button.dataset.form));
}

function showMap() {
  by("mapping").open = true;
  by("mapping").querySelector("summary").focus({ preventScroll: true });
  by("mapping").scrollIntoView({ block: "nearest" });
}

function saveAs(form) {
  const source = form === "m3u8" ? { tracks: JSON.parse(by("save").dataset.tracks) } : { [isPathView() ? "path" : "question"]: asked() };
  save(`playlist.${form}`, "api/v1/playlist", { form, ...source }).catch(complain);
}

function setUpMap() {
  by("map-space").append(el("option", { value: "" }, "all together"), ...conditions.map((name) => el("option", {}, name)));
  by("map-colour").append(...conditions.map((name) => el("option", {}, name)));
  by("map-space").addEventListener("change", () => {
    if (by("map-space").value) by("map-colour").value = by("map-space").value;
    loadMap(only);
  });
  by("map-colour").addEventListener("change", drawMap);
  by("mapping").addEventListener("toggle", () => loadMap(only), { once: true });
}

async function start() {
  try {
    catalogue = await summary();
  } catch (error) {
    return complain(error);
  }
  conditions = catalogue.conditions.map(({ name }) => name);
  setUsualWeights(catalogue.conditions);
  by("size").textContent = `${catalogue.size.toLocaleString("en")} tracks`;
  by("to-listen").hidden = !catalogue.listening_test;
  setUpControls();
  setUpMap();
  const fromAddress = () => {
    state = fromFragment(location.hash.slice(1), conditions);
    shown = PAGE;
    by("parts").open ||= state.chips.some((chip) => chip.condition !== null) || Object.keys(state.labels).length > 0;
    draw();
    return run();
  };
  window.addEventListener("popstate", fromAddress);
  await fromAddress();
}

start();
