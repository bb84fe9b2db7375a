// The map of the catalogue: a dot per track, coloured by a label, results and query outlined.

import { get, question, Refused } from "./api.js";
import { by, el, svg } from "./dom.js";
import { drawWay } from "./way.js";

// Okabe and Ito's colours, which people with any colour vision tell apart, and two more
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b3a200", "#7a5ea8"];
const OTHER = "#8b949e", NONE = "#c3c9cf";
const SCALE = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725"]; // viridis

let map = null;
let seeds = new Set();
let results = new Set();
let way = []; // ends and tracks of a path, in order, as the API takes seeds
let stops = []; // where they lie
let pick = () => {};

export async function loadMap(onPick) {
  pick = onPick;
  by("map-note").textContent = "The map is being drawn…";
  const space = by("map-space").value;
  try {
    const answer = await get("map", { space });
    if (by("map-space").value !== space) return;
    map = answer;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    by("map-note").textContent = error.message;
    return;
  }
  return markMap(seeds, results, way);
}

// Mark what is asked for and what was found, and draw the line of a path.
export async function markMap(like, found, path = []) {
  [seeds, results, way, stops] = [like, new Set(found), path, []];
  drawMap();
  if (!map || !path.length) return;
  const space = by("map-space").value;
  try {
    const places = await placesOf(path, map, space);
    if (way !== path || by("map-space").value !== space) return;
    stops = places;
    drawMap();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    by("map-note").textContent = error.message;
  }
}

// Where seeds lie on a map; the server tells it of those that have no dot.
async function placesOf(path, { ids, x, y }, space) {
  const dots = new Map(ids.map((id, i) => [id, { x: x[i], y: y[i], isDrawn: true }]));
  const others = path.filter((seed) => !dots.has(seed));
  const near = others.length ? await question("places", { seeds: others, space: space || null }) : null;
  others.forEach((seed, i) => dots.set(seed, { x: near.x[i], y: near.y[i], isDrawn: false }));
  return path.map((seed) => dots.get(seed));
}

const place = ({ x, y }) => ({ x: Number((12 + 476 * x).toFixed(1)), y: Number((12 + 376 * y).toFixed(1)) });

function notes() {
  const near = stops.filter((stop) => !stop.isDrawn).length, [some, all] = [map.ids.length, map.of].map((n) => n.toLocaleString("en"));
  const few = `Not on the map: ${near} of the path's ${stops.length} recordings; the nearest dot stands in.`;
  return [some === all ? null : `${some} of ${all} tracks, chosen at random.`, near ? few : null].filter(Boolean).join(" ");
}

function blend(share) {
  const place = share * (SCALE.length - 1), i = Math.min(Math.floor(place), SCALE.length - 2), part = place - i;
  const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const [a, b] = [channels(SCALE[i]), channels(SCALE[i + 1])];
  return `rgb(${a.map((value, c) => Math.round(value + part * (b[c] - value))).join(" ")})`;
}

// Give the colour of each dot, and the items of the legend.
function colours(labels) {
  const numbers = labels.filter((label) => typeof label === "number");
  if (numbers.length) {
    const low = Math.min(...numbers), high = Math.max(...numbers);
    const colour = (label) => (typeof label === "number" ? blend(high > low ? (label - low) / (high - low) : 0.5) : NONE);
    const strip = svg("svg", { class: "scale", viewBox: "0 0 70 7", preserveAspectRatio: "none", "aria-hidden": true },
      ...Array.from({ length: 35 }, (_, i) => svg("rect", { x: 2 * i, width: 2.2, height: 7, fill: blend(i / 34) })));
    return [labels.map(colour), [el("li", {}, `${Math.round(low)}`, strip, `${Math.round(high)} BPM`)]];
  }
  const first = labels.map((label) => (Array.isArray(label) && label.length ? label[0] : null));
  const counts = new Map();
  for (const tag of first) if (tag !== null) counts.set(tag, (counts.get(tag) ?? 0) + 1);
  const ranking = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || (a < b ? -1 : 1)).slice(0, COLOURS.length);
  const colour = (tag) => (tag === null ? NONE : COLOURS[ranking.indexOf(tag)] ?? OTHER);
  const named = ranking.map((tag, i) => [tag, COLOURS[i]]);
  if (counts.size > ranking.length) named.push(["other", OTHER]);
  if (first.includes(null)) named.push(["no label", NONE]);
  const dot = (fill) => svg("svg", { viewBox: "0 0 10 10", "aria-hidden": true }, svg("circle", { cx: 5, cy: 5, r: 5, fill }));
  return [first.map(colour), named.map(([tag, fill]) => el("li", {}, dot(fill), tag))];
}

export function drawMap() {
  if (!map) return;
  const space = by("map-colour").value;
  const labels = map.labels[space] ?? map.ids.map(() => null);
  const [fill, legend] = colours(labels);
  const radius = Math.max(2.2, Math.min(5, 90 / Math.sqrt(map.ids.length)));
  const dots = map.ids.map((id, i) => {
    const kind = seeds.has(id) ? "query" : results.has(id) ? "result" : null;
    const at = place({ x: map.x[i], y: map.y[i] });
    const r = kind === "query" ? radius * 1.9 : kind ? radius * 1.45 : radius;
    return { order: kind === "query" ? 2 : kind ? 1 : 0, dot: svg("circle", { cx: at.x, cy: at.y, r: r.toFixed(1),
      fill: fill[i], class: kind, "data-number": i }, svg("title", {}, [map.names[i], map.artists[i], labelOf(labels[i])].filter(Boolean).join(" · "))) };
  });
  dots.sort((a, b) => a.order - b.order);
  by("map").classList.toggle("with-results", results.size > 0);
  by("map").replaceChildren(...dots.map(({ dot }) => dot), ...(stops.length ? [drawWay(stops.map(place))] : []));
  by("map-note").textContent = notes();
  by("legend").replaceChildren(...legend);
}

const labelOf = (label) => (typeof label === "number" ? `${Math.round(label)} BPM` : (label ?? []).join(", "));

by("map").addEventListener("click", (event) => {
  const number = event.target.closest("circle")?.dataset.number;
  if (number !== undefined) pick({ id: map.ids[number], name: map.names[number], title: map.titles[number], artist: map.artists[number], album: null, labels: {}, estimated: [], audio: false });
});
