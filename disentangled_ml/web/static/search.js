import { ask, by, complain, debounced, el, post, Refused, svg } from "./common.js";
import { drawMap, loadMap, markMap } from "./map.js";

const PAGE = 10, MOST = 100; // results shown at first, and at most
let catalogue = null;
let query = null; // { track: id } or { upload: token, name, url, seconds, cut, warnings }
let shown = PAGE;
let pending = null; // the search under way

const labelText = (label) => (typeof label === "number" ? `${Math.round(label)} BPM` : Array.isArray(label) ? label.join(", ") : String(label));
const agree = (a, b) => Array.isArray(a) && Array.isArray(b) && a.some((tag) => b.includes(tag));

function tags(track, other = null) {
  const items = Object.entries(track.labels).map(([condition, label]) => {
    const same = other && agree(label, other.labels[condition]);
    return el("span", { title: condition, class: same ? "same" : null }, labelText(label) + (same ? " ✓" : ""));
  });
  return el("div", { class: "tags" }, ...items);
}

const player = (track) =>
  track.audio ? el("audio", { controls: true, preload: "none", src: `audio?${new URLSearchParams({ track: track.id })}`, "aria-label": `Play ${track.id}` })
    : el("p", { class: "note" }, "No recording to play.");

const titled = (track) => el("span", { class: "names" }, el("span", { class: "name" }, track.id), track.artist ? el("span", { class: "dim" }, ` ${track.artist}`) : null);

// Choosing

function showQuery(track) {
  const box = by("query");
  box.hidden = false;
  if (query.upload) {
    const length = `${Math.round(query.seconds)} s${query.cut ? ", of which the beginning is used" : ""}`;
    box.replaceChildren(el("span", { class: "names" }, el("span", { class: "name" }, query.name)), el("span", { class: "dim" }, `Your upload, ${length}`),
      ...query.warnings.map((warning) => el("p", { class: "note" }, `Note: ${warning}`)),
      el("audio", { controls: true, src: query.url, "aria-label": "Play your upload" }));
  } else {
    box.replaceChildren(titled(track), tags(track), player(track));
  }
}

function pick(id) {
  closeSuggestions();
  by("find").value = "";
  query = { track: id };
  shown = PAGE;
  history.replaceState(null, "", `#${new URLSearchParams({ track: id })}`);
  return search();
}

async function upload(file) {
  complain(null);
  if (!file) return;
  const { max_bytes: most } = catalogue.upload;
  const status = by("status"), before = status.textContent;
  try {
    if (file.size > most) throw new Refused(`This file is too large: the most is ${Math.round(most / 1e6)} MB.`);
    status.textContent = "Uploading and listening to the recording…";
    const answer = await ask("api/upload", { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file });
    if (query?.url) URL.revokeObjectURL(query.url);
    query = { ...answer, name: file.name, url: URL.createObjectURL(file) };
    shown = PAGE;
    history.replaceState(null, "", location.pathname);
    await search();
  } catch (error) {
    status.textContent = before;
    complain(error);
  } finally {
    by("upload").value = "";
  }
}

// The type-ahead list, after the ARIA combobox pattern

let options = [];
let active = -1;

function closeSuggestions() {
  by("suggestions").hidden = true;
  by("find").setAttribute("aria-expanded", "false");
  by("find").removeAttribute("aria-activedescendant");
  active = -1;
}

function activate(number) {
  const items = by("suggestions").children;
  active = (number + items.length) % items.length;
  [...items].forEach((item, i) => item.setAttribute("aria-selected", String(i === active)));
  items[active].scrollIntoView({ block: "nearest" });
  by("find").setAttribute("aria-activedescendant", items[active].id);
}

async function suggest() {
  const text = by("find").value.trim();
  if (!text) return closeSuggestions();
  const { tracks } = await ask(`api/tracks?${new URLSearchParams({ q: text })}`).catch((error) => { complain(error); return { tracks: [] }; });
  if (by("find").value.trim() !== text) return;
  options = tracks;
  const items = tracks.map((track, i) => el("li", { role: "option", id: `option-${i}`, "aria-selected": "false",
    onmousedown: (event) => { event.preventDefault(); pick(track.id); } }, titled(track), tags(track)));
  by("suggestions").replaceChildren(...(items.length ? items : [el("li", { class: "dim" }, "No such track")]));
  by("suggestions").hidden = false;
  by("find").setAttribute("aria-expanded", "true");
  active = -1;
}

by("find").addEventListener("input", debounced(suggest, 120));
by("find").addEventListener("blur", closeSuggestions);
by("find").addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeSuggestions();
  if (by("suggestions").hidden || !options.length) return;
  if (event.key === "ArrowDown") activate(active + 1);
  else if (event.key === "ArrowUp") activate(active < 0 ? -1 : active - 1);
  else if (event.key === "Enter") pick(options[Math.max(active, 0)].id);
  else return;
  event.preventDefault();
});

// Searching

const weights = () => Object.fromEntries(catalogue.conditions.map(({ name }, i) => [name, Number(by(`weight-${i}`).value)]));
const bound = (id) => (by(id).value === "" ? null : Number(by(id).value));

async function search() {
  if (!query) return;
  pending?.abort();
  const own = (pending = new AbortController());
  by("results").classList.add("busy");
  try {
    const answer = await post("api/search", {
      ...(query.upload ? { upload: query.upload } : { track: query.track }),
      weights: weights(), other_artists: by("other-artists").checked, tempo: [bound("tempo-low"), bound("tempo-high")], k: shown,
    }, { signal: own.signal });
    complain(null);
    showQuery(answer.query);
    showResults(answer);
  } catch (error) {
    if (error.name === "AbortError") return;
    by("results").replaceChildren();
    by("more").hidden = true;
    by("status").textContent = "";
    complain(error);
  }
  by("results").classList.remove("busy");
}

function showResults({ query: track, results, typical }) {
  by("status").textContent = results.length ? `${results.length} nearest, by the weighted distance. Bars: distance as to each kind; the mark is a typical track of the catalogue.`
    : "No track passes the filters.";
  by("results").replaceChildren(...results.map((result, i) => el("li", {},
    el("span", { class: "rank" }, String(i + 1)),
    el("div", {},
      el("div", { class: "title" }, titled(result.track),
        el("button", { class: "link", type: "button", onclick: () => pick(result.track.id), "aria-label": `More like ${result.track.id}` }, "More like this")),
      tags(result.track, track), player(result.track)),
    el("div", { class: "picture" }, why(result, typical)))));
  by("more").hidden = results.length < shown || shown >= MOST;
  markMap(track?.id ?? null, results.map((result) => result.track.id));
}

// The picture of why: a bar per condition, as long as the distance; a typical track is in the middle.
function why(result, typical) {
  const names = catalogue.conditions.map(({ name }) => name), given = weights();
  const row = 19, left = 84, wide = 100, right = 40, height = names.length * row;
  const said = names.map((name) => `${name} ${result.distances[name].toFixed(2)}`).join(", ");
  const picture = svg("svg", { class: "why", viewBox: `0 0 ${left + wide + right} ${height}`, role: "img", "aria-label": `Distances: ${said}` });
  names.forEach((name, i) => {
    const y = i * row, share = Math.min(1, result.distances[name] / (2 * typical[name] || 1));
    picture.append(svg("g", { class: given[name] === 0 ? "off" : null },
      svg("title", {}, `${name}: distance ${result.distances[name].toFixed(3)}, of a typical track ${typical[name].toFixed(3)}, weight ${given[name]}`),
      svg("text", { x: left - 8, y: y + 13, "text-anchor": "end" }, name.length > 12 ? `${name.slice(0, 11)}…` : name),
      svg("rect", { class: "track", x: left, y: y + 5, width: wide, height: 9, rx: 4.5 }),
      svg("rect", { class: "bar", x: left, y: y + 5, width: Math.max(3, share * wide), height: 9, rx: 4.5 }),
      svg("line", { class: "typical", x1: left + wide / 2, x2: left + wide / 2, y1: y + 3, y2: y + 16 }),
      svg("text", { class: "value", x: left + wide + 8, y: y + 13 }, result.distances[name].toFixed(2))));
  });
  return picture;
}

// Setting up

function slider({ name }, i) {
  const value = el("output", { for: `weight-${i}` }, "1.00");
  const soon = debounced(search, 120);
  const input = el("input", { type: "range", id: `weight-${i}`, min: 0, max: 1, step: 0.05, value: 1,
    oninput: () => { value.textContent = Number(input.value).toFixed(2); soon(); } });
  return [el("label", { for: `weight-${i}` }, name), input, value];
}

async function start() {
  try {
    catalogue = await ask("api/catalogue");
  } catch (error) {
    return complain(error);
  }
  by("size").textContent = `${catalogue.size.toLocaleString("en")} tracks`;
  by("to-listen").hidden = !catalogue.listening_test;
  by("sliders").append(...catalogue.conditions.flatMap(slider));
  by("artist-filter").hidden = !catalogue.has_artists;
  by("tempo-filter").hidden = !catalogue.tempo;
  const soon = debounced(() => { shown = PAGE; search(); }, 250);
  for (const id of ["other-artists", "tempo-low", "tempo-high"]) by(id).addEventListener("input", soon);
  if (catalogue.tempo) [by("tempo-low").placeholder, by("tempo-high").placeholder] = catalogue.tempo.map((bpm) => String(Math.round(bpm)));
  by("more").addEventListener("click", () => { shown = Math.min(MOST, shown + PAGE); search(); });
  by("upload").addEventListener("change", () => upload(by("upload").files[0]));
  const card = by("query-card");
  for (const [event, over] of [["dragover", true], ["dragleave", false], ["drop", false]])
    card.addEventListener(event, (drag) => { drag.preventDefault(); card.classList.toggle("dropping", over); });
  card.addEventListener("drop", (drag) => upload(drag.dataTransfer.files[0]));
  const fromAddress = () => {
    const id = new URLSearchParams(location.hash.slice(1)).get("track");
    if (id && id !== query?.track) pick(id);
  };
  window.addEventListener("hashchange", fromAddress);
  fromAddress();

  const names = catalogue.conditions.map(({ name }) => name);
  by("map-space").append(el("option", { value: "" }, "all together"), ...names.map((name) => el("option", {}, name)));
  by("map-colour").append(...names.map((name) => el("option", {}, name)));
  by("map-space").addEventListener("change", async () => {
    if (by("map-space").value) by("map-colour").value = by("map-space").value;
    await loadMap(pick);
  });
  by("map-colour").addEventListener("change", drawMap);
  await loadMap(pick);
}

start();
