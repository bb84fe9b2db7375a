// The answer to a question: a row per track, with what matches and how near it is.

import { by, counted, el, svg } from "./dom.js";
import { nameOf, player, tags, titled } from "./tracks.js";

// Rounded down, so that it is true, and never 100: only a sample of a large catalogue is compared.
export function percent(value) {
  return value >= 99 ? `${Math.min(99.9, Math.floor(value * 10) / 10).toFixed(1)} %` : `${Math.floor(value)} %`;
}

// A bar per condition, as long as the share of the catalogue that is farther away; a typical track reaches the mark in the middle.
function bars({ percentiles, distances }, weights) {
  const names = Object.keys(percentiles), row = 19, left = 84, wide = 92, right = 56;
  const said = names.map((name) => `${name} ${percent(percentiles[name])}`).join(", ");
  const picture = svg("svg", { class: "why", viewBox: `0 0 ${left + wide + right} ${names.length * row}`, role: "img", "aria-label": `Closer than: ${said}` });
  names.forEach((name, i) => {
    const y = i * row, middle = left + wide / 2;
    picture.append(svg("g", { class: weights[name] === 0 ? "off" : null },
      svg("title", {}, `${name}: closer than ${percent(percentiles[name])} of the catalogue, distance ${distances[name].toFixed(3)}, weight ${weights[name]}`),
      svg("text", { x: left - 8, y: y + 13, "text-anchor": "end" }, name.length > 12 ? `${name.slice(0, 11)}…` : name),
      svg("rect", { class: "track", x: left, y: y + 5, width: wide, height: 9, rx: 4.5 }),
      svg("rect", { class: "bar", x: left, y: y + 5, width: Math.max(3, (percentiles[name] / 100) * wide), height: 9, rx: 4.5 }),
      svg("line", { class: "typical", x1: middle, x2: middle, y1: y + 3, y2: y + 16 }),
      svg("text", { class: "value", x: left + wide + 8, y: y + 13 }, percent(percentiles[name]))));
  });
  return picture;
}

const kinds = { duplicate: "the same recording", version: "another version" };

export function folded(duplicates, summary) {
  if (!duplicates.length) return null;
  const items = duplicates.map(({ track, kind }) => el("li", {}, titled(track), el("span", { class: "dim" }, ` ${kinds[kind]}`), player(track)));
  return el("details", { class: "folded" }, el("summary", {}, summary), el("ul", {}, ...items));
}

const button = (text, name, action) => el("button", { class: "link", type: "button", "aria-label": name, onclick: action }, text);

function row(result, i, weights, isFar, { only, add }) {
  const { track, percentile } = result, name = nameOf(track);
  return el("li", {}, el("span", { class: "rank" }, String(i + 1)),
    el("div", {}, titled(track),
      result.matches ? el("p", { class: "matches" }, el("span", { "aria-hidden": true }, "✓ "), result.matches) : null,
      tags(track), player(track), folded(result.duplicates, counted(result.duplicates.length, "duplicate or version", "duplicates or versions")),
      el("div", { class: "actions" }, button("More like this", `More like ${name}`, () => only(track)),
        button("Add", `Add ${name} to Like`, () => add(track, "like")), button("Avoid", `Avoid ${name}`, () => add(track, "avoid")))),
    el("div", { class: "picture" }, el("p", { class: "closer" }, isFar ? "Farther than " : "Closer than ", el("strong", {}, percent(isFar ? 100 - percentile : percentile))), bars(result, weights)));
}

function remarks({ results, beyond_artist: artist, beyond_album: album, without_tempo: tempo }, isFar) {
  const words = [results.length ? `${counted(results.length, `${isFar ? "farthest" : "nearest"} track`)}.` : "No track passes the filters."];
  if (artist || album) words.push(`${artist + album} skipped: enough by the same artist or from the same album.`);
  if (tempo) words.push(`${tempo} left out: tempo unknown.`);
  return words.join(" ");
}

export function showResults(answer, isFar, actions) {
  by("status").textContent = remarks(answer, isFar);
  const ofSeeds = folded(answer.seed_duplicates, `${counted(answer.seed_duplicates.length, "track")} left out: the same as a chosen one`);
  by("seed-duplicates").replaceChildren(...(ofSeeds ? [ofSeeds] : []));
  by("results").className = "results";
  by("results").replaceChildren(...answer.results.map((result, i) => row(result, i, answer.weights, isFar, actions)));
}

export function clearResults(text) {
  for (const id of ["results", "seed-duplicates"]) by(id).replaceChildren();
  by("status").textContent = text;
  by("more").hidden = true;
}
